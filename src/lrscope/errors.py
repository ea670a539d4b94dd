"""The errors and warnings of lrscope.

    LrscopeError(Exception)
    ├── TaskError(ValueError)        the user's task does not hold its contract
    ├── ScheduleError(ValueError)    a schedule or its text cannot mean anything
    ├── MeasurementError             the thing asked for cannot be measured on this model
    └── MissingExtraError(ImportError)  an optional package is absent; the message names the extra

Plain ``ValueError`` and ``TypeError`` say that one argument is wrong. Every message says which argument,
what came, what is allowed and what to do. Divergence is never an error: it is the status of a result.
"""

from __future__ import annotations


class LrscopeError(Exception):
    """Root of the errors that lrscope raises on its own account."""


class TaskError(LrscopeError, ValueError):
    """A task breaks its contract: what it builds, its loss or its batches do not fit."""


class ScheduleError(LrscopeError, ValueError):
    """A schedule, its text or its specification cannot mean anything."""


class MeasurementError(LrscopeError):
    """The quantity asked for cannot be measured on this model in this way."""


class MissingExtraError(LrscopeError, ImportError):
    """An optional package is absent; the message names the extra that brings it."""


class LrscopeWarning(UserWarning):
    """Something the user set had no effect, or a measurement is weaker than asked for."""
