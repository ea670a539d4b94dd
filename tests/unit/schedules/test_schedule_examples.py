import doctest
import importlib
import pkgutil

import pytest

import lrscope.schedules

MODULES = [m.name for m in pkgutil.iter_modules(lrscope.schedules.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_print_what_they_say(name):
    module = importlib.import_module(f"lrscope.schedules.{name}")
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
