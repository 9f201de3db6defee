"""Many machines: pictures through the workers of a Ray cluster. Needs ``maskrcnn[scale]``."""

from .cluster import Workers
from .fleet import SAVE, predict_fleet

__all__ = ["SAVE", "Workers", "predict_fleet"]
