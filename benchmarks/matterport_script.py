"""A script of Matterport's, run by this package and by Matterport's own: what `detect` and a step of `train` wait for.

    python benchmarks/matterport_script.py --peer PYTHON [--only detect|train]

``--peer`` is the interpreter of an environment with Matterport's package, and TensorFlow that runs it:

    pip install tensorflow-cpu==2.15.1 numpy==1.26.4 scikit-image
    pip install --no-deps mrcnn==0.2

That package was written for TensorFlow 1: the lines in ``MENDED`` are what it takes to run there, in TensorFlow's graph
mode, as it did. Both sides run the same script in processes of their own and take turns; both read one .h5, which ours
wrote, and the detections are compared. detect: demo.ipynb, ResNet-101, 81 classes, 1024x1024, one photo, 100 masks.
train: train_shapes.ipynb, ResNet-101, 8 pictures of 128x128 a step; heads, then all layers.
``ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`` shows a CPU without AVX-512.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from turns import PHOTO, arguments, sides, told

STEPS = 5
MENDED = (  # what stands there, and what does in TensorFlow 2.15, scikit-image 0.26 and NumPy 1.26
    (r"^import keras$", "from tensorflow import keras"),
    (r"^import keras\.(backend|layers|models) as", r"import tensorflow.keras.\1 as"),
    (r"^import keras\.engine as", "import tensorflow.keras.layers as"),
    (r"^assert LooseVersion\(keras.*$", ""),
    (r"\bnp\.bool\b", "bool"),
    (r"\bis 'nt'", "== 'nt'"),
    (r"\btf\.log\b", "tf.math.log"),
    (r"\btf\.random_shuffle\b", "tf.random.shuffle"),
    (r"\btf\.sets\.set_intersection\b", "tf.sets.intersection"),
    (r"\btf\.sparse_tensor_to_dense\b", "tf.sparse.to_dense"),
    (r"\btf\.to_float\((.*)\)\[", r"tf.cast(\1, tf.float32)["),
    (r"\btf\.range\(probs\.shape\[0\]\)", "tf.range(tf.shape(probs)[0])"),
    (r"\btf\.Variable\(anchors\)", "tf.constant(anchors, tf.float32)"),
    (r"\bKL\.Reshape\(\(s\[1\], ", "KL.Reshape((-1, "),
    (
        r"^( +)pooled = tf\.expand_dims\(pooled, 0\)",
        (
            r"\1pooled = tf.reshape(pooled, tf.concat([tf.shape(boxes)[:2], tf.shape(pooled)[1:]], 0))"
            r"\n\1pooled.set_shape([boxes.shape[0], None, *self.pool_shape, feature_maps[0].shape[-1]])"
        ),
    ),
    (r"mask\[:, :, i\]\.astype\(bool\)", "mask[:, :, i].astype(float)"),
    (r"\bkeras\.optimizers\.SGD\(\s+lr=", "keras.optimizers.legacy.SGD(learning_rate="),
    (r"\._losses = \[\]", "._losses.clear()"),
    (r"^.*\._per_input_losses = .*$", ""),
    (r"if layer\.output in (.*):", r"if any(layer.output is known for known in \1):"),
    (r"\.metrics_tensors\.append\(loss\)", '.add_metric(loss, name=name, aggregation="mean")'),
)


def use_reference(folder: Path) -> None:
    """Let this process import Matterport's own package, from a mended copy: TensorFlow reads the files too."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    tf.compat.v1.disable_eager_execution()
    threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: TensorFlow's choice
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    spec = importlib.util.find_spec("mrcnn")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("--peer: want Matterport's package there; pip install --no-deps mrcnn==0.2")
    (folder / "mrcnn").mkdir()
    for path in Path(spec.submodule_search_locations[0]).glob("*.py"):
        text = path.read_text()
        for old, new in MENDED:
            text = re.sub(old, new, text, flags=re.MULTILINE)
        (folder / "mrcnn" / path.name).write_text(text)
    sys.path.insert(0, str(folder))


def serve(side: str, folder: Path) -> None:
    """Answer ``detect``, ``heads`` and ``all`` from standard input with seconds, until it closes."""
    if side == "peer":
        use_reference(folder)
    else:
        import torch

        torch.manual_seed(0)  # whose random numbers make the weights
    import mrcnn.model as modellib
    from mrcnn import utils
    from mrcnn.config import Config

    class Coco(Config):
        NAME = "coco"
        NUM_CLASSES = 81
        GPU_COUNT = IMAGES_PER_GPU = 1
        DETECTION_MIN_CONFIDENCE = 0

    class Shapes(Config):
        NAME = "shapes"
        GPU_COUNT, IMAGES_PER_GPU = 1, 8
        NUM_CLASSES = 4
        IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128
        RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
        TRAIN_ROIS_PER_IMAGE = 32
        STEPS_PER_EPOCH = STEPS + 1
        VALIDATION_STEPS = 1

    class Squares(utils.Dataset):
        """Two squares in each picture."""

        def load_image(self, image_id: int) -> np.ndarray:
            return np.random.default_rng(image_id).integers(0, 255, (128, 128, 3), dtype=np.uint8)

        def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
            masks = np.zeros((128, 128, 2), bool)
            masks[10:50, 10:50, 0] = masks[60:110, 40:90, 1] = True
            return masks, np.array([1, 2], np.int32)

    model: Any = None

    def detect() -> list[float]:
        nonlocal model
        weights = folder / "weights.h5"
        if model is None:
            model = modellib.MaskRCNN("inference", Coco(), str(folder))
            if side == "ours":
                calm(model.keras_model)
                model.keras_model.save_weights(str(weights))
            model.keras_model.load_weights(str(weights), by_name=True)
        image = np.load(folder / "photo.npy")
        begun = time.perf_counter()
        (found,) = model.detect([image])
        seconds = time.perf_counter() - begun
        np.savez(folder / f"{side}.npz", **found)
        return [seconds]

    def train(layers: str) -> list[float]:
        data = Squares()
        for i in range(3):
            data.add_class("shapes", i + 1, str(i))
        for i in range(8):
            data.add_image("shapes", i, None)
        data.prepare()
        learner, ends = modellib.MaskRCNN("training", Shapes(), str(folder)), []
        if side == "ours":
            learner.train(data, data, 0.001, 1, layers, custom_callbacks=[watch(ends)])
        else:
            fit = learner.keras_model.fit_generator
            learner.keras_model.fit_generator = lambda *given, **named: fit(
                *given, **{**named, "callbacks": [watch(ends)]}
            )
            learner.train(data, data, 0.001, 1, layers)
        return list(np.diff(ends))

    def watch(ends: list[float]) -> Any:
        """A callback that notes when each step ends, the data of the next one then being made."""
        base: Any = object
        if side == "peer":
            from tensorflow import keras

            base = keras.callbacks.Callback

        class Watch(base):
            def on_batch_end(self, batch: int, logs: Any = None) -> None:
                ends.append(time.perf_counter())

        return Watch()

    print(json.dumps({"runs": version(side)}), flush=True)
    for line in sys.stdin:
        with contextlib.redirect_stdout(io.StringIO()):
            seconds = detect() if line.strip() == "detect" else train(line.strip())
        print(json.dumps(seconds), flush=True)


def calm(keras_model: Any) -> None:
    """Untrained, 33 blocks one after the other blow features up; then scores are all 1 and boxes at the border."""
    less = {"rpn_model": 0.1, "mrcnn_bbox_fc": 0.1, "mrcnn_class_logits": 0.1}
    for layer in keras_model.layers:
        factor = 0.1 if re.fullmatch(r"bn.*_branch2c", layer.name) else less.get(layer.name)
        if factor:
            first, *rest = layer.get_weights()
            layer.set_weights([first * factor, *rest])


def version(side: str) -> str:
    if side == "peer":
        import tensorflow as tf

        return f"Matterport's on TensorFlow {tf.__version__}"
    import torch

    return f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def compare(folder: Path) -> str:
    """How far the two sides' detections lie apart."""
    a, b = (dict(np.load(folder / f"{side}.npz")) for side in ("ours", "peer"))
    pairs = []
    for i, roi in enumerate(a["rois"]):
        same = np.flatnonzero((b["rois"] == roi).all(1) & (b["class_ids"] == a["class_ids"][i]))
        if len(same):  # several, where boxes end at the border
            pairs.append((i, same[np.abs(b["scores"][same] - a["scores"][i]).argmin()]))
    if len(pairs) < 0.9 * len(b["rois"]):
        sys.exit(f"only {len(pairs)} of {len(b['rois'])} detections are the same")
    mine, other = np.transpose(pairs)
    score = np.abs(a["scores"][mine] - b["scores"][other]).max()
    pixels = (a["masks"][..., mine] != b["masks"][..., other]).mean()
    return (
        f"{len(pairs)} of {len(b['rois'])} detections have the same box and class, "
        f"scores to {score:.0e}, masks but for {pixels:.2%} of the pixels"
    )


def main() -> None:
    parser = arguments(__doc__, "--serve", "--folder")
    parser.add_argument(
        "--peer", required=True, help="interpreter of an environment with Matterport's package"
    )
    parser.add_argument("--only", choices=["detect", "train"])
    parser.add_argument("--runs", type=int, default=5, help="pictures")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.serve:
        serve(options.serve, Path(options.folder))
        return
    import PIL.Image

    with tempfile.TemporaryDirectory() as name:
        np.save(Path(name) / "photo.npy", np.asarray(PIL.Image.open(PHOTO).convert("RGB")))
        both = sides(options.peer, __file__, "--folder", name)
        print("; ".join(side.hello["runs"] for side in both))
        if options.only != "train":
            pairs = [[side.ask("detect")[0] for side in both] for _ in range(options.runs + 1)][1:]
            print(f"detect: {told(pairs, 'Matterport')}; {compare(Path(name))}", flush=True)
        for layers in ("heads", "all") if options.only != "detect" else ():
            pairs = list(zip(*(side.ask(layers) for side in both), strict=True))
            print(f"a step of training, {layers}: {told(pairs, 'Matterport')}", flush=True)
        for side in both:
            side.close()


if __name__ == "__main__":
    main()
