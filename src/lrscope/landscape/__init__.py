"""The loss between and around trained parameters."""

from lrscope.landscape.barriers import barrier, profile
from lrscope.landscape.connect import Curve, connect
from lrscope.landscape.path import Path
from lrscope.landscape.profile import Barrier, Profile

__all__ = ["Barrier", "Curve", "Path", "Profile", "barrier", "connect", "profile"]
