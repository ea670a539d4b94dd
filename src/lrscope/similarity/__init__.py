"""How alike two networks' activations are: CCA, SVCCA, PWCCA, CKA and shape distance, with guards."""

from lrscope.similarity.api import cca, cka, procrustes, pwcca, svcca
from lrscope.similarity.minibatch import MinibatchCKA
from lrscope.similarity.recorder import record
from lrscope.similarity.recording import Recording
from lrscope.similarity.result import Guard, Interval, Null, Similarity

__all__ = [
    "Guard",
    "Interval",
    "MinibatchCKA",
    "Null",
    "Recording",
    "Similarity",
    "cca",
    "cka",
    "procrustes",
    "pwcca",
    "record",
    "svcca",
]
