"""Pictures in: one source becomes an `Image`, many become an iterator of them."""

from .channels import to_channels
from .decode import MAX_PIXELS, Source, read
from .large import Georeference, Large, georeference, open_large
from .sources import expand, is_many, read_ahead
from .video import Video, is_video, open_video

__all__ = [
    "MAX_PIXELS", "Georeference", "Large", "Source", "Video", "expand", "georeference", "is_many", "is_video",
    "open_large", "open_video", "read", "read_ahead", "to_channels",
]  # fmt: skip
