"""Drop-in for Matterport's ``mrcnn``: scripts written for it run on `maskrcnn`, without TensorFlow.

Same names, argument order, defaults, shapes and dtypes: boxes are y1, x1, y2, x2, masks (h, w, n), class ids
count from 1. Nothing is computed here: every call is converted and forwarded.
"""
