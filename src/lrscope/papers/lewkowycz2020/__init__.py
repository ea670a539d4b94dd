"""Lewkowycz et al., The Large Learning Rate Phase of Deep Learning, 2020, arXiv 2003.02218."""

from lrscope.papers.lewkowycz2020 import figures, linear, networks, transition

__all__ = ["figures", "linear", "networks", "transition"]
