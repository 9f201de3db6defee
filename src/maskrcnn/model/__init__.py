"""One image on its way through the network: a file for each stage, in the order of the listing below.

image -> resnet -> fpn -> rpn -> pooling -> box_head -> mask_head -> restore; mask_rcnn calls them.
"""

from .mask_rcnn import MaskRCNN, load_arrays

__all__ = ["MaskRCNN", "load_arrays"]
