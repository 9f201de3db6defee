"""``python -m maskrcnn``: the command line."""

from .cli import main

main()
