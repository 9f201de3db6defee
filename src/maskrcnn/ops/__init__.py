"""Pure functions on tensors: boxes, anchors, NMS, RoI pooling, mask pasting."""
