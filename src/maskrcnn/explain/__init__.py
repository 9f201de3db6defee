"""One page a picture: what each stage of the network saw and did, after the paper."""

from .page import write_page

__all__ = ["write_page"]
