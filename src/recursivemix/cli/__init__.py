"""The command line. ``dispatch`` holds the table of commands; each is imported only when it is called."""

from .dispatch import main

__all__ = ["main"]
