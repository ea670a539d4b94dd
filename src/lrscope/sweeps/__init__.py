"""Grids of short runs, kept in a directory, drawn as maps."""
