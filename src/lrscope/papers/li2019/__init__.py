"""Li & Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, arXiv 1910.07454, and its follow-ups
(2010.02916, 2202.00980).

The equivalence is checked step by step in float64, on a network of three normalised layers. The paper's experiments
are on PreResNet32 and CIFAR-10 over hundreds of epochs; those on training statistics here are on scikit-learn's
digits over a thousand steps, with a weight decay twenty times as large, so that equilibrium is reached.
"""

from lrscope.papers.li2019 import equilibrium, equivalence, figures, solvable

__all__ = ["equilibrium", "equivalence", "figures", "solvable"]
