"""The command line. Importing this room imports neither torch nor matplotlib."""

from lrscope.cli.app import app, main

__all__ = ["app", "main"]
