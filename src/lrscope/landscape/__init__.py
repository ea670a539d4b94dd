"""The loss between and around trained parameters."""

from lrscope.landscape.align import Alignment, align
from lrscope.landscape.barriers import barrier, network_at, profile
from lrscope.landscape.connect import Curve, connect
from lrscope.landscape.directions import Directions
from lrscope.landscape.path import Path
from lrscope.landscape.planes import (
    line,
    pca_plane,
    plane,
    random_directions,
    random_line,
    random_plane,
)
from lrscope.landscape.profile import Barrier, Profile
from lrscope.landscape.projection import Plane, Projection
from lrscope.landscape.slopes import curvature

__all__ = [
    "Alignment",
    "Barrier",
    "Curve",
    "Directions",
    "Path",
    "Plane",
    "Profile",
    "Projection",
    "align",
    "barrier",
    "connect",
    "curvature",
    "line",
    "network_at",
    "pca_plane",
    "plane",
    "profile",
    "random_directions",
    "random_line",
    "random_plane",
]
