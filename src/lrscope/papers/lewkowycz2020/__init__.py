"""Lewkowycz et al., The Large Learning Rate Phase of Deep Learning, 2020, arXiv 2003.02218.

Its statements on two-layer linear networks are checked on the same model, exactly. The paper's networks are wide
ones on MNIST and CIFAR-10, by SGD; here they are of width 128 to 1,024 on 64 or 128 of scikit-learn's digits, by
gradient descent, where nothing but the learning rate differs. Its supplement could not be read.
"""

from lrscope.papers.lewkowycz2020 import figures, linear, networks, transition

__all__ = ["figures", "linear", "networks", "transition"]
