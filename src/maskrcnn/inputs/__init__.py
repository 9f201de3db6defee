"""Pictures in: one source becomes an `Image`, many become an iterator of them."""

from .channels import to_channels
from .decode import MAX_PIXELS, Source, read
from .sources import expand, is_many, read_ahead

__all__ = ["MAX_PIXELS", "Source", "expand", "is_many", "read", "read_ahead", "to_channels"]
