"""Kalra & Barkeshli, Why Warmup the Learning Rate? Underlying Mechanisms and Improvements, 2024, arXiv 2406.09405.

The paper trains wide residual networks on CIFAR-10; here are small networks on scikit-learn's digits.
"""

from lrscope.papers.kalra2024 import adam, boundary, constants, figures, sharpness, solvable, warmup

__all__ = ["adam", "boundary", "constants", "figures", "sharpness", "solvable", "warmup"]
