"""Peak memory of one process that segments a 12-megapixel photo: R50-FPN, 100 instances, run lengths.

    python benchmarks/memory.py

The weights are random and the score threshold is zero, so that exactly 100 instances come out.
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from turns import PHOTO

import maskrcnn


def peak() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        PIL.Image.open(PHOTO).convert("RGB").resize((4000, 3000)).save(photo)
        torch.manual_seed(0)
        model = maskrcnn.MaskRCNN(maskrcnn.Config(names=tuple(f"class {i}" for i in range(80)), score=0.0))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("conv3.norm.weight"):
                    weight.fill_(0.2)  # calm residual branches: batch norm has seen no data
        print(f"model built: {peak():.0f} MB")
        result = model.predict(photo)
        print(f"{len(result)} instances found: {peak():.0f} MB")
        lengths = [len(rle["counts"]) for rle in result.rle()]
        area = float(np.mean([(b[2] - b[0]) * (b[3] - b[1]) for b in result.boxes.tolist()]))
        print(
            f"{len(lengths)} run lengths, boxes of {area / 1e3:.0f} thousand pixels on average: {peak():.0f} MB"
        )


if __name__ == "__main__":
    main()
