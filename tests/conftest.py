"""Settings of the whole suite: one thread a worker, hypothesis without deadlines, pictures without a screen."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import torch
from hypothesis import settings

torch.set_num_threads(1)  # models are tiny, and two workers share two cores
settings.register_profile("suite", deadline=None, print_blob=True)
settings.load_profile("suite")
