"""The model behind HTTP: an API for programs at /v1, a page for people at /. Needs ``maskrcnn[serve]``."""

from .app import create_app
from .run import run
from .settings import Settings

__all__ = ["Settings", "create_app", "run"]
