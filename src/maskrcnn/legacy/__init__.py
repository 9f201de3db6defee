"""What Matterport's package computes, in its own conventions, as pure functions; `mrcnn` forwards to them.

Boxes are y1, x1, y2, x2 in pixels (y2, x2 exclusive) or normalised by size - 1; masks are (h, w, n); class ids
count from 1, and 0 is background or padding. The rest of the package does not use this room.
"""
