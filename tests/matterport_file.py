"""A small random checkpoint in Matterport's layout: the names of the real one, narrow."""

from pathlib import Path

import h5py
import numpy as np


def arrays(
    classes=4,
    blocks=(3, 4, 6, 3),
    width=4,
    channels=3,
    fpn=8,
    rpn=6,
    anchors=3,
    fc=10,
    pool=7,
    mask=8,
    bias=True,
    seed=0,
):
    """Arrays by their path in the file."""
    rng = np.random.default_rng(seed)
    out = {}

    def conv(layer, *shape, group=None, bias=True, units=None):
        group = group or layer
        out[f"{group}/{layer}/kernel:0"] = rng.normal(size=shape).astype(np.float32)
        if bias:
            out[f"{group}/{layer}/bias:0"] = rng.normal(size=units or shape[-1]).astype(np.float32)

    def norm(layer, n):
        for name in ("gamma", "beta", "moving_mean"):
            out[f"{layer}/{layer}/{name}:0"] = rng.normal(size=n).astype(np.float32)
        out[f"{layer}/{layer}/moving_variance:0"] = rng.uniform(0.5, 1.5, n).astype(np.float32)

    conv("conv1", 7, 7, channels, width, bias=bias)
    norm("bn_conv1", width)
    before = width
    for s in range(2, 6):
        mid, end = width * 2 ** (s - 2), width * 2**s
        for i in range(blocks[s - 2]):
            b = f"{s}{chr(97 + i)}_branch"
            conv(f"res{b}2a", 1, 1, before, mid, bias=bias)
            conv(f"res{b}2b", 3, 3, mid, mid, bias=bias)
            conv(f"res{b}2c", 1, 1, mid, end, bias=bias)
            norm(f"bn{b}2a", mid)
            norm(f"bn{b}2b", mid)
            norm(f"bn{b}2c", end)
            if i == 0:
                conv(f"res{b}1", 1, 1, before, end, bias=bias)
                norm(f"bn{b}1", end)
            before = end
        conv(f"fpn_c{s}p{s}", 1, 1, before, fpn)
        conv(f"fpn_p{s}", 3, 3, fpn, fpn)
    conv("rpn_conv_shared", 3, 3, fpn, rpn, group="rpn_model")
    conv("rpn_class_raw", 1, 1, rpn, 2 * anchors, group="rpn_model")
    conv("rpn_bbox_pred", 1, 1, rpn, 4 * anchors, group="rpn_model")
    conv("mrcnn_class_conv1", pool, pool, fpn, fc)
    norm("mrcnn_class_bn1", fc)
    conv("mrcnn_class_conv2", 1, 1, fc, fc)
    norm("mrcnn_class_bn2", fc)
    conv("mrcnn_class_logits", fc, classes)
    conv("mrcnn_bbox_fc", fc, 4 * classes)
    for k in range(1, 5):
        conv(f"mrcnn_mask_conv{k}", 3, 3, fpn if k == 1 else mask, mask)
        norm(f"mrcnn_mask_bn{k}", mask)
    conv("mrcnn_mask_deconv", 2, 2, mask, mask)
    conv("mrcnn_mask", 1, 1, mask, classes)
    return out


def write(path: Path, values: dict, prefix: str = "") -> Path:
    """An .h5 of these arrays, with attributes as Keras 2.0 wrote them."""
    with h5py.File(path, "w") as file:
        root = file.create_group(prefix) if prefix else file
        root.attrs["layer_names"] = np.array(sorted({p.split("/")[0] for p in values}), "S")
        for name, value in values.items():
            root.create_dataset(name, data=value)
    return path
