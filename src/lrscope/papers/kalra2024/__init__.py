"""Kalra & Barkeshli, Why Warmup the Learning Rate? Underlying Mechanisms and Improvements, 2024, arXiv 2406.09405.

The paper trains fully connected and wide residual networks on CIFAR-10, CIFAR-100 and Tiny-ImageNet and language
models on WikiText-2, for up to 100,000 steps. Here are fully connected networks of width 32 to 512, a residual one
with LayerNorm and a language model of two blocks, on scikit-learn's digits and on Python's help texts, for 10 to
6,000 steps. Initialisations, losses and optimizers are the paper's.
"""

from lrscope.papers.kalra2024 import adam, boundary, constants, figures, sharpness, solvable, warmup

__all__ = ["adam", "boundary", "constants", "figures", "sharpness", "solvable", "warmup"]
