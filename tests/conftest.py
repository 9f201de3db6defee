"""Shapes written in signatures are enforced here, and only here."""

from pathlib import Path

from jaxtyping import install_import_hook

# paste and resize hold compiled loops, which the hook cannot wrap.
SHAPED = (
    "maskrcnn.ops.boxes",
    "maskrcnn.ops.anchors",
    "maskrcnn.ops.roi_align",
    "maskrcnn.model.targets",
    "maskrcnn.model.losses",
)
install_import_hook(SHAPED, "beartype.beartype")

DATA = Path(__file__).parent / "data"
