"""The layers of Matterport's network in Keras, for `matterport_script.py --peer`: the least that `detect` takes there.

ResNet-101, its pyramid, the region proposal network, the class head on 1000 RoIs and the mask head on 100, with
random weights, for one picture of 1024 x 1024, as one graph of TensorFlow. What that package does besides (resizing,
choosing proposals, cutting RoIs out, detections, pasting masks) is left out, so its own `detect` takes longer.

Answers each line on stdin with the seconds of one pass, in JSON; the first answer names the version.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L


def conv(x, width, side=1, stride=1, activation="relu", norm=True):
    """A convolution with bias, and a norm unless there is none."""
    x = L.Conv2D(width, side, strides=stride, padding="same")(x)
    x = L.BatchNormalization()(x) if norm else x
    return L.Activation(activation)(x) if activation else x


def block(x, width, stride, first):
    """A bottleneck; the first of a stage has a convolution beside it."""
    y = conv(conv(conv(x, width, 1, stride), width, 3), 4 * width, 1, activation=None)
    beside = conv(x, 4 * width, 1, stride, activation=None) if first else x
    return L.Activation("relu")(L.Add()([y, beside]))


def pyramid(side: int, blocks: tuple[int, ...] = (3, 4, 23, 3)) -> keras.Model:
    """From pixels to the scores and deltas of all anchors."""
    pixels = keras.Input((side, side, 3))
    x = L.MaxPooling2D(3, 2, padding="same")(conv(pixels, 64, 7, 2))
    stages = []
    for i, count in enumerate(blocks):
        for k in range(count):
            x = block(x, 64 * 2**i, 2 if i and not k else 1, first=not k)
        stages.append(x)
    top, maps = None, []
    for stage in stages[::-1]:
        beside = conv(stage, 256, activation=None, norm=False)
        top = beside if top is None else L.Add()([L.UpSampling2D(2)(top), beside])
        maps.append(conv(top, 256, 3, activation=None, norm=False))
    maps.append(L.MaxPooling2D(1, 2)(maps[0]))
    shared, score, delta = (
        L.Conv2D(512, 3, padding="same", activation="relu"),
        L.Conv2D(6, 1),
        L.Conv2D(12, 1),
    )
    seen = [shared(m) for m in maps]
    return keras.Model(pixels, maps + [score(x) for x in seen] + [delta(x) for x in seen])


def heads(classes: int) -> tuple[keras.Model, keras.Model]:
    """Of pooled RoIs: class scores and deltas; masks of every class."""
    rois = keras.Input((7, 7, 256))
    x = L.Activation("relu")(L.BatchNormalization()(L.Conv2D(1024, 7)(rois)))
    x = L.Flatten()(conv(x, 1024))
    boxes = keras.Model(rois, [L.Dense(classes, "softmax")(x), L.Dense(4 * classes)(x)])
    x = rois = keras.Input((14, 14, 256))
    for _ in range(4):
        x = conv(x, 256, 3)
    x = L.Conv2DTranspose(256, 2, strides=2, activation="relu")(x)
    return boxes, keras.Model(rois, L.Conv2D(classes, 1, activation="sigmoid")(x))


def main() -> None:
    """Answer until stdin ends."""
    threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: TensorFlow's choice
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 0)
    body, (boxes, masks) = pyramid(1024), heads(81)

    @tf.function
    def run(pixels, rois, found):
        return body(pixels, training=False), boxes(rois, training=False), masks(found, training=False)

    rng = np.random.default_rng(0)
    shapes = ((1, 1024, 1024, 3), (1000, 7, 7, 256), (100, 14, 14, 256))
    inputs = [tf.constant(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes]
    run(*inputs)
    print(json.dumps({"version": f"TensorFlow {tf.__version__}, Keras {keras.__version__}"}), flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        run(*inputs)[2].numpy()
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    main()
