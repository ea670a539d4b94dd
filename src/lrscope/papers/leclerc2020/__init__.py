"""Leclerc & Madry 2020, The Two Regimes of Deep Network Training, arXiv 2002.10376, on scikit-learn's digits.

The paper's own networks, grids and tables could not be read; its statements are checked on small networks of ours,
with criteria set before measuring.
"""

from lrscope.papers.leclerc2020 import figures, networks, regimes

__all__ = ["figures", "networks", "regimes"]
