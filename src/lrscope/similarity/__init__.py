"""How alike two networks' activations are: CCA, SVCCA, PWCCA, CKA and shape distance, with guards."""

from lrscope.similarity.api import cca, cka, procrustes, pwcca, svcca
from lrscope.similarity.matrix import Matrix, compare, over_time
from lrscope.similarity.minibatch import MinibatchCKA
from lrscope.similarity.recorder import record
from lrscope.similarity.recording import Recording
from lrscope.similarity.result import Guard, Interval, Null, Similarity
from lrscope.similarity.streaming import Streaming

__all__ = [
    "Guard",
    "Interval",
    "Matrix",
    "MinibatchCKA",
    "Null",
    "Recording",
    "Similarity",
    "Streaming",
    "cca",
    "cka",
    "compare",
    "over_time",
    "procrustes",
    "pwcca",
    "record",
    "svcca",
]
