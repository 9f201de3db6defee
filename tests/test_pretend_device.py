"""The way that everything takes on a GPU, on a device that has its rules and the CPU's numbers: see `pretend_device`.

A new device changes PyTorch for the whole process, so each test runs its function in another one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

PHOTO = Path(__file__).parent.parent / "examples" / "photos" / "grace_hopper.jpg"
DIALECTS = (
    "native", "matterport", "torchvision", "detectron2", "mmdetection", "detectron", "maskrcnn_benchmark",
)  # fmt: skip


def compare(near: Any, far: Any, within: float = 1e-3) -> None:
    """Results of the CPU's and of the device."""
    assert len(near) == len(far) > 0
    assert near.labels.tolist() == far.labels.tolist()
    for name in ("boxes", "scores"):
        assert (getattr(near, name) - getattr(far, name)).abs().max() < within, name
    assert (near.masks ^ far.masks).sum() <= within * near.masks.sum()


def predict(*cases: tuple[str, dict[str, Any], float]) -> None:
    import maskrcnn
    from pretend_device import DEVICE, Pretending

    for engine, options, within in cases:
        near = maskrcnn.load(engine="torch", **options).predict(PHOTO)
        with Pretending():
            model = maskrcnn.load(device=DEVICE, engine=engine, **options)
            assert model.device == DEVICE
            compare(near, model.predict(PHOTO), within)


def dialects() -> None:
    predict(*(("auto", {"dialect": dialect, "score": 0.3}, 1e-3) for dialect in DIALECTS))


def poolings_and_precisions() -> None:
    predict(
        ("auto", {"roi_op": "pool"}, 1e-3), ("auto", {"roi_op": "crop_and_resize"}, 1e-3),
        ("float16", {}, 0.1), ("bfloat16", {}, 1.0),
    )  # fmt: skip


def waits() -> None:
    """The host waits for a GPU few times: while it does, it gives it no work."""
    import maskrcnn
    from pretend_device import DEVICE, Pretending, waits

    with Pretending():
        model = maskrcnn.load(device=DEVICE)
        for dialect, most in (("native", 16), ("matterport", 16), ("torchvision", 16), ("detectron2", 32)):
            model.config = model.config.with_options(dialect=dialect)
            model.predict(PHOTO)  # makes the anchors
            waits.clear()
            model.predict(PHOTO)
            assert waits.total() <= most, (dialect, waits)


def other_work() -> None:
    import maskrcnn
    from maskrcnn.explain.page import page
    from maskrcnn.explain.study import study
    from maskrcnn.inputs import read
    from maskrcnn.jobs import predict_files
    from pretend_device import DEVICE, Pretending

    near, picture = maskrcnn.load(engine="torch"), read(PHOTO)
    with Pretending(), tempfile.TemporaryDirectory() as folder:
        model = maskrcnn.load(device=DEVICE)
        assert page(study(model, picture, None)) == page(study(near, picture, None))
        for far in model.predict([PHOTO, PHOTO], batch_size=2):
            compare(near.predict(PHOTO), far)
        compare(near.predict(PHOTO, tile=256), model.predict(PHOTO, tile=256, batch_size=2))
        assert predict_files(model, PHOTO.parent, folder, save=["overlay", "json", "masks"]).done == 3
        for name in ("a.safetensors", "a.h5"):
            maskrcnn.save(model, Path(folder) / name)
            compare(near.predict(PHOTO), maskrcnn.load(Path(folder) / name, names=near.names).predict(PHOTO))


def training() -> None:
    import maskrcnn
    from maskrcnn.inputs import read
    from maskrcnn.records import Target
    from pretend_device import DEVICE, Pretending

    picture = read(PHOTO)
    masks = torch.zeros(2, *picture.size, dtype=torch.bool)
    masks[0, 100:300, 50:200] = masks[1, 300:400, 200:330] = True
    boxes = torch.tensor([[50.0, 100, 200, 300], [200, 300, 330, 400]])
    target = Target(boxes=boxes, labels=torch.tensor([0, 1]), masks=masks)

    def learnt(device: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        model = maskrcnn.load(device=device, engine="torch").train()
        losses = model.losses([picture], [target], torch.Generator().manual_seed(0))
        torch.stack(list(losses.values())).sum().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return losses, {name: grad.cpu() for name, grad in found.items()}

    losses, near = learnt("cpu")
    with Pretending():
        others, far = learnt(DEVICE)
        for name, loss in losses.items():
            assert abs(loss.item() - others[name].item()) < 1e-5, name
    assert near.keys() == far.keys() and len(near) > 50
    for name, grad in near.items():
        assert (grad - far[name]).abs().max() <= 1e-4 * grad.abs().max() + 1e-12, name


def drop_in() -> None:
    """`mrcnn` detects and trains there."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parent / "data" / "matterport"))
    from make_weights import build

    from maskrcnn.legacy.training import Inputs
    from mrcnn import model as modellib
    from mrcnn import utils
    from mrcnn.config import Config
    from mrcnn.keras_model import KerasModel
    from pretend_device import DEVICE, Pretending

    settings = {
        "NAME": "squares", "NUM_CLASSES": 4, "BACKBONE": "resnet50", "IMAGE_MIN_DIM": 128, "IMAGE_MAX_DIM": 128,
        "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128), "TRAIN_ROIS_PER_IMAGE": 16, "DETECTION_MIN_CONFIDENCE": 0.0,
        "GPU_COUNT": 1, "IMAGES_PER_GPU": 1, "DETECTION_MAX_INSTANCES": 20,
    }  # fmt: skip
    image = np.zeros((128, 128, 3), np.uint8)
    image[30:90, 40:100] = 200

    class Squares(utils.Dataset):  # type: ignore[misc]
        def load_image(self, image_id: int) -> np.ndarray:
            return image

        def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
            return (image[..., :1] > 0), np.array([1], np.int32)

    data = Squares()
    for i in (1, 2, 3):
        data.add_class("squares", i, f"square{i}")
    data.add_image("squares", 0, None)
    data.prepare()
    config = type("Squared", (Config,), settings)()

    def run(device: str, start: str, folder: str) -> tuple[Any, dict[str, float]]:
        learner = modellib.MaskRCNN("training", config, folder)
        learner.load_weights(start, by_name=True)
        learner.set_trainable(".*", verbose=0)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        batch, _ = next(modellib.data_generator(data, config, shuffle=False, batch_size=1))
        trainer = learner.trainer(0.001, 0.9)
        losses = trainer.step(Inputs.of(batch))
        before = [array.copy() for array in learner.keras_model.get_weights()]
        trainer.keep()  # on the CPU the arrays themselves have moved with the step
        assert device == "cpu" or any(
            (a != b).any() for a, b in zip(before, learner.keras_model.get_weights(), strict=True)
        )
        model = modellib.MaskRCNN("inference", config, folder)
        model.load_weights(start, by_name=True)
        return model.detect([image])[0], losses

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        start = f"{one}/start.h5"
        build("resnet50", 4).write(Path(start))
        near, losses = run("cpu", start, one)
        KerasModel.device = property(lambda self: str(DEVICE))  # type: ignore[assignment,method-assign]
        with Pretending():
            far, others = run("pretend", start, other)
    assert losses.keys() == others.keys()
    for name, loss in losses.items():
        assert abs(loss - others[name]) <= 1e-3 * abs(loss), name
    assert np.array_equal(near["class_ids"], far["class_ids"])
    assert len(near["class_ids"]) > 0
    assert np.abs(near["rois"] - far["rois"]).max() <= 1


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="PyTorch without devices that are written in Python",
)
@pytest.mark.parametrize(
    "case",
    [dialects, poolings_and_precisions, waits, other_work, training, drop_in],
    ids=lambda f: f.__name__,
)
def test_on_a_device_with_a_gpus_rules(case: Any) -> None:
    done = subprocess.run(
        [sys.executable, __file__, case.__name__], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    globals()[sys.argv[1]]()
