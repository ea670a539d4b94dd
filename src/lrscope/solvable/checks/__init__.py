"""Statements of papers, checked on solvable models: ``for check in CHECKS.values(): print(check())``."""

from lrscope.solvable.checks import kalra2024, lewkowycz2020, li2019
from lrscope.solvable.checks.check import CHECKS, Check, Outcome, check

__all__ = ["CHECKS", "Check", "Outcome", "check", "kalra2024", "lewkowycz2020", "li2019"]
