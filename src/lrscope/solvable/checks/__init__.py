"""Moved to :mod:`lrscope.papers`; only what is still being converted imports from here."""
