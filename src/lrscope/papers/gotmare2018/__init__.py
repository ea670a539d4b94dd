"""Gotmare, Keskar, Xiong, Socher, A Closer Look at Deep Learning Heuristics: Learning rate restarts, Warmup and
Distillation, 2018, arXiv 1810.13243, on small networks and scikit-learn's digits.

The body of the paper could not be read; statements come from its abstract, from public notes on it, and from memory,
and each claim says which. Networks are thousands of times smaller than the paper's.
"""

from lrscope.papers.gotmare2018 import connectivity, distillation, figures, restarts, warmup

__all__ = ["connectivity", "distillation", "figures", "restarts", "warmup"]
