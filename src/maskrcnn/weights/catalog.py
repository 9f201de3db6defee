"""Weights that have a name: where they come from, what they know, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import native
from .download import fetch, home
from .names import COCO

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class NamedWeights:
    """One line of the catalog.

    url      : where the file is fetched from; None for one that ships with the package
    size     : bytes of the file; None where it ships
    sha256   : of the file, in hex; None where its publisher never gave one
    licence  : of the weights, and of what they were trained on
    source   : who published them
    classes  : names without background; empty where the shipped file has them
    box_ap, mask_ap : COCO AP (IoU 0.50 to 0.95) in percent, None where there is none
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

    @property
    def path(self) -> Path:
        """Where the file is, or will be once fetched."""
        if self.url is None:
            return SHIPPED / f"{self.name}.safetensors"
        return home() / self.url.rsplit("/", 1)[-1]

    @property
    def present(self) -> bool:
        """Whether it is on this machine."""
        return self.path.exists()

    @property
    def names(self) -> tuple[str, ...]:
        """The class names; read from the file where the catalog leaves them to it."""
        return self.classes or native.read_config(self.path).names

    def fetch(self, *, progress: bool = True) -> Path:
        """The path of the file, which is fetched first where it isn't there. Raises DownloadError."""
        if self.url is None:
            return self.path
        return fetch(self.url, self.path, size=self.size, sha256=self.sha256, progress=progress)


DEFAULT = "shapes"

MODELS: dict[str, NamedWeights] = {
    model.name: model
    for model in (
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
    )
}
