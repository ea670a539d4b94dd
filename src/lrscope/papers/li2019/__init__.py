"""Li & Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, arXiv 1910.07454, and its follow-ups
(2010.02916, 2202.00980).
"""

from lrscope.papers.li2019 import equilibrium, equivalence, figures, solvable

__all__ = ["equilibrium", "equivalence", "figures", "solvable"]
