"""The examples in the docstrings of solvers and curvature are run."""

import doctest
import importlib

import pytest
import torch

import lrscope as lrs

MODULES = [
    *(f"linalg.{name}" for name in ("lanczos", "lobpcg", "trace", "slq")),
    *(f"curvature.{name}" for name in ("trace", "directional")),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    # By importlib: the module of a function of the same name is hidden behind it.
    module = importlib.import_module(f"lrscope.{name}")
    found = doctest.testmod(module, extraglobs={"torch": torch, "lrs": lrs})
    assert found.attempted > 0
    assert found.failed == 0
