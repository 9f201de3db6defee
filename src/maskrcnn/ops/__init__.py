"""Pure functions on tensors: boxes, anchors, NMS, RoI pooling, mask pasting.

Importing it registers the operators that an exported .pt2 holds.
"""

from . import nms, roi_align

__all__ = ["nms", "roi_align"]
