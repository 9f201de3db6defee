"""Weights that have a name: where they come from, what they know, and how good they are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from . import native
from .home import home
from .names import COCO, COCO_IDS

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class NamedWeights:
    """One line of the catalog.

    url      : where the file is fetched from; None for one that ships with the package
    size     : bytes of the file; None where it ships, or where nobody published it
    about    : megabytes to expect where ``size`` is unknown, from what its publisher or its arrays say
    sha256   : of the file, in hex, or its first digits; None where its publisher never gave one
    licence  : of the weights, and of what they were trained on
    source   : who published them
    classes  : names without background; empty where the shipped file has them
    box_ap, mask_ap : COCO AP (IoU 0.50 to 0.95) in percent, None where there is none
    backbone : a classifier's, to train from; it has no classes of objects
    """

    name: str
    url: str | None
    size: int | None
    sha256: str | None
    licence: str
    source: str
    classes: tuple[str, ...] = ()
    box_ap: float | None = None
    mask_ap: float | None = None
    note: str = ""
    backbone: bool = False
    about: int | None = None

    @property
    def path(self) -> Path:
        """Where the file is, or will be once fetched."""
        if self.url is None:
            return SHIPPED / f"{self.name}.safetensors"
        file = self.url.rsplit("/", 1)[-1]
        return home() / (
            f"{self.name}.pkl" if file == "model_final.pkl" else file
        )  # Detectron's are all named so

    @property
    def present(self) -> bool:
        """Whether it is on this machine."""
        return self.path.exists()

    @property
    def names(self) -> tuple[str, ...]:
        """The class names; read from the file where the catalog leaves them to it."""
        return self.classes or (() if self.backbone else native.read_config(self.path).names)

    def fetch(self, *, progress: bool = True) -> Path:
        """The path of the file, which is fetched first where it isn't there. Raises DownloadError.

        progress : show the licence, and how far the download is, on standard error
        """
        if self.url is None:
            return self.path
        if progress and not self.present:
            print(f"{self.name}, by {self.source}; licence of the weights: {self.licence}", file=sys.stderr)
        from .download import fetch  # here, as a connection is seldom needed

        return fetch(self.url, self.path, size=self.size, sha256=self.sha256, progress=progress)


DEFAULT = "everyday"


def _torchvision(
    name: str, file: str, size: int | None, box_ap: float, mask_ap: float, note: str
) -> NamedWeights:
    """The digits in the file's name are the first of its SHA-256, as torch.hub checks them."""
    return NamedWeights(
        name=f"torchvision-{name}",
        url=f"https://download.pytorch.org/models/{file}",
        size=size,
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        licence="BSD-3-Clause (code); trained on COCO",
        source="torchvision",
        classes=COCO_IDS,
        box_ap=box_ap,
        mask_ap=mask_ap,
        note=note,
        about=178,
    )


def _detectron2(name: str, path: str, about: int, box_ap: float, mask_ap: float, note: str) -> NamedWeights:
    """The digits in these files' names are of a commit, not of the file (detectron2 checkpoint/catalog.py)."""
    return NamedWeights(
        name=f"detectron2-{name}",
        url=f"https://dl.fbaipublicfiles.com/detectron2/{path}.pkl",
        size=None,
        sha256=None,
        licence="CC BY-SA 3.0; trained on COCO",
        source="Detectron2 model zoo",
        classes=COCO,
        box_ap=box_ap,
        mask_ap=mask_ap,
        note=note,
        about=about,
    )


def _mmdet(name: str, file: str, box_ap: float, mask_ap: float, note: str) -> NamedWeights:
    """The digits at the end of a file's name are the first of its SHA-256; the folder is the name before the date."""
    return NamedWeights(
        name=f"mmdet-{name}",
        url=f"https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/{file.split('_coco_')[0]}_coco/{file}.pth",
        size=None,
        sha256=file.rpartition("-")[2],
        licence="Apache-2.0; trained on COCO",
        source="MMDetection model zoo",
        classes=COCO,
        box_ap=box_ap,
        mask_ap=mask_ap,
        note=note,
    )


def _detectron(name: str, path: str, box_ap: float, mask_ap: float, note: str) -> NamedWeights:
    return NamedWeights(
        name=f"detectron-{name}",
        url=f"https://dl.fbaipublicfiles.com/detectron/{path}/output/train/"
        "coco_2014_train%3Acoco_2014_valminusminival/generalized_rcnn/model_final.pkl",
        size=None,
        sha256=None,
        licence="CC BY-SA 3.0; trained on COCO",
        source="Detectron model zoo",
        classes=COCO,
        box_ap=box_ap,
        mask_ap=mask_ap,
        note=note,
    )


def _imagenet(name: str, url: str, about: int, licence: str, source: str, note: str) -> NamedWeights:
    """A classifier's backbone. torchvision's names end in the first digits of the SHA-256."""
    digits = url.removesuffix(".pth").rpartition("-")[2] if url.endswith(".pth") else None
    return NamedWeights(name, url, None, digits, licence, source, note=note, backbone=True, about=about)


TORCHVISION_URL = "https://download.pytorch.org/models/"
BACKBONES = (
    *(
        _imagenet(
            name, f"{TORCHVISION_URL}{file}.pth", about, "BSD-3-Clause (code); trained on ImageNet", "torchvision",
            f"{note}, backbone to train from; ImageNet top-1 {top1} %",
        )
        for name, file, about, note, top1 in (
            ("resnet18", "resnet18-f37072fd", 47, "ResNet-18", 69.8),
            ("resnet34", "resnet34-b627a593", 87, "ResNet-34", 73.3),
            ("resnet50", "resnet50-0676ba61", 103, "ResNet-50", 76.1),
            ("resnet50-v2", "resnet50-11ad3fa6", 103, "ResNet-50, newer recipe", 80.9),
            ("resnet101", "resnet101-63fe2227", 179, "ResNet-101", 77.4),
            ("resnet101-v2", "resnet101-cd907fc2", 179, "ResNet-101, newer recipe", 81.9),
            ("resnext50-32x4d", "resnext50_32x4d-7cdf4587", 100, "ResNeXt-50 32x4d", 77.6),
            ("resnext101-32x8d", "resnext101_32x8d-8ba56ff5", 356, "ResNeXt-101 32x8d", 79.3),
        )
    ),
    *(
        _imagenet(
            f"msra-{name.lower().replace('-', '')}",
            f"https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/{name}.pkl",
            about, "CC BY-SA 3.0; trained on ImageNet", "MSRA, as Detectron2 gives it",
            f"ResNet-{name[2:]}, backbone to train from, with the stride in the first 1x1",
        )
        for name, about in (("R-50", 102), ("R-101", 178))
    ),
    _imagenet(
        "keras-resnet50",
        "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        95, "MIT (code); trained on ImageNet", "Keras",
        "ResNet-50, backbone to train from; what Matterport's get_imagenet_weights fetches",
    ),
)  # fmt: skip

# AP on COCO val2017, as published; Detectron's on the same pictures, then called minival2014.
PUBLISHED = (
    _torchvision("r50-fpn", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", None, 37.9, 34.6, "ResNet-50"),
    _torchvision(
        "r50-fpn-v2",
        "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
        185_828_065,
        47.4,
        41.8,
        "ResNet-50, batch norm everywhere, trained for 400 epochs with large jitter",
    ),
    _detectron2(
        "r50-fpn-1x",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/model_final_a54504",
        178,
        38.6,
        35.2,
        "ResNet-50, 12 epochs",
    ),
    _detectron2(
        "r50-fpn-3x",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217",
        178,
        41.0,
        37.2,
        "ResNet-50, 37 epochs",
    ),
    _detectron2(
        "r101-fpn-3x",
        "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72",
        254,
        42.9,
        38.6,
        "ResNet-101, 37 epochs",
    ),
    _detectron2(
        "x101-fpn-3x",
        "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806",
        431,
        44.3,
        39.5,
        "ResNeXt-101 32x8d, 37 epochs",
    ),
    _detectron2(
        "r50-fpn-lsj-100",
        "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ/42047764/model_final_bb69de",
        185,
        44.6,
        40.3,
        "ResNet-50 from scratch, 100 epochs with large jitter",
    ),
    _detectron2(
        "r50-fpn-lsj-400",
        "new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ/42019571/model_final_14d201",
        185,
        47.4,
        42.5,
        "ResNet-50 from scratch, 400 epochs with large jitter",
    ),
    _detectron2(
        "r101-fpn-lsj-100",
        "new_baselines/mask_rcnn_R_101_FPN_100ep_LSJ/42025812/model_final_4f7b58",
        262,
        46.4,
        41.6,
        "ResNet-101 from scratch, 100 epochs with large jitter",
    ),
    _detectron2(
        "r101-fpn-lsj-400",
        "new_baselines/mask_rcnn_R_101_FPN_400ep_LSJ/42073830/model_final_f96b26",
        262,
        48.9,
        43.7,
        "ResNet-101 from scratch, 400 epochs with large jitter",
    ),
    _detectron(
        "r50-fpn-1x",
        "35858933/12_2017_baselines/e2e_mask_rcnn_R-50-FPN_1x.yaml.01_48_14.DzEQe4wC",
        37.7,
        33.9,
        "ResNet-50, 12 epochs",
    ),
    _detectron(
        "r101-fpn-1x",
        "35861795/12_2017_baselines/e2e_mask_rcnn_R-101-FPN_1x.yaml.02_31_37.KqyEK4tT",
        40.0,
        35.9,
        "ResNet-101, 12 epochs",
    ),
    _detectron(
        "r101-fpn-2x",
        "35861858/12_2017_baselines/e2e_mask_rcnn_R-101-FPN_2x.yaml.02_32_51.SgT4y1cO",
        40.9,
        36.4,
        "ResNet-101, 24 epochs",
    ),
    _detectron(
        "x101-32x8d-fpn-1x",
        "36761843/12_2017_baselines/e2e_mask_rcnn_X-101-32x8d-FPN_1x.yaml.06_35_59.RZotkLKI",
        42.1,
        37.3,
        "ResNeXt-101 32x8d, 12 epochs",
    ),
    _detectron(
        "x101-64x4d-fpn-1x",
        "36494496/12_2017_baselines/e2e_mask_rcnn_X-101-64x4d-FPN_1x.yaml.07_50_11.fkwVtEvg",
        42.4,
        37.5,
        "ResNeXt-101 64x4d, 12 epochs",
    ),
    _mmdet(
        "r50-fpn-1x", "mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6", 38.2, 34.7, "ResNet-50, 12 epochs"
    ),
    _mmdet(
        "r50-fpn-2x",
        "mask_rcnn_r50_fpn_2x_coco_bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40",
        39.2,
        35.4,
        "ResNet-50, 24 epochs",
    ),
    _mmdet(
        "r50-caffe-fpn-1x",
        "mask_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859",
        38.0,
        34.4,
        "ResNet-50 caffe, 12 epochs",
    ),
    _mmdet(
        "r50-fpn-ms-3x",
        "mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb",
        40.9,
        37.1,
        "ResNet-50, 36 epochs at many sizes",
    ),
    _mmdet(
        "r50-caffe-fpn-ms-3x",
        "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco_bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00",
        40.8,
        37.0,
        "ResNet-50 caffe, 36 epochs at many sizes",
    ),
    _mmdet(
        "r101-caffe-fpn-ms-3x",
        "mask_rcnn_r101_caffe_fpn_mstrain-poly_3x_coco_20210526_132339-3c33ce02",
        42.9,
        38.5,
        "ResNet-101 caffe, 36 epochs at many sizes",
    ),
    _mmdet(
        "r101-fpn-2x",
        "mask_rcnn_r101_fpn_2x_coco_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7",
        40.8,
        36.6,
        "ResNet-101, 24 epochs",
    ),
    _mmdet(
        "r101-fpn-ms-3x",
        "mask_rcnn_r101_fpn_mstrain-poly_3x_coco_20210524_200244-5675c317",
        42.7,
        38.5,
        "ResNet-101, 36 epochs at many sizes",
    ),
    _mmdet(
        "x101-32x4d-fpn-ms-3x",
        "mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x_coco_20210524_201410-abcd7859",
        43.6,
        39.0,
        "ResNeXt-101 32x4d, 36 epochs at many sizes",
    ),
    _mmdet(
        "x101-64x4d-fpn-ms-3x",
        "mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco_20210526_120447-c376f129",
        44.5,
        39.7,
        "ResNeXt-101 64x4d, 36 epochs at many sizes",
    ),
)  # fmt: skip

MODELS: dict[str, NamedWeights] = {
    model.name: model
    for model in (
        NamedWeights(
            name="everyday",
            url=None,
            size=None,
            sha256=None,
            licence="MIT",
            source="this package",
            note="people, some animals and everyday things, from 2,323 photos; on 375 others: mask AP 15.7, "
            "AP50 of people 31.6",
        ),
        NamedWeights(
            name="shapes",
            url=None,
            size=None,
            sha256=None,
            licence="MIT",
            source="this package",
            note="small demonstration network, trained on generated pictures only; on 100 held-out ones: "
            "mask AP 42.6, AP50 68.0",
        ),
        NamedWeights(
            name="matterport-coco",
            url="https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
            size=257_557_808,
            sha256=None,
            licence="MIT (code); trained on COCO",
            source="Matterport, release v2.0",
            classes=COCO,
            box_ap=34.7,
            mask_ap=29.6,
            note="ResNet-101; AP on COCO 2014 minival as quoted by multimodallearning/pytorch-mask-rcnn",
        ),
        *PUBLISHED,
        *BACKBONES,
    )
}
