"""The axes of a sweep, and the cell at any point of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.optimizers import OptimizerSpec
from lrscope.schedules import Horizon, Schedule, parse
from lrscope.sweeps.axes import Axis, kind_of, read, settings, several, whole
from lrscope.sweeps.cells import SweepCell
from lrscope.sweeps.ranges import MOST
from lrscope.sweeps.source import Source

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_LENGTH = re.compile(r"(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*(%|epochs?|steps?)?")


class Grid:
    """The axes of a sweep, and the cell at any point of them.

    Args:
        source: Makes the task of any settings.
        optimizer: One rule, or several as an axis.
        schedule: A shape or its text, with ``{axis}`` where an axis goes, or several as an axis; ``None``: a warmup
            (if there is an axis of that name) and then constant.
        steps: Updates; several are an axis; ``None``: the task's own.
        seeds: How many, counted from 0; or the seeds themselves under the axis ``seed``.
        measure: What each cell measures besides its loss.
        given: The other axes by keyword: a list, a range's text, or one value.

    Attributes:
        axes: By name, the seed last.

    Raises:
        ValueError, TypeError, ScheduleError, TaskError: One line; nothing has run yet.
    """

    def __init__(
        self,
        source: Source,
        *,
        optimizer: Any = "sgd",
        schedule: Any = None,
        steps: Any = None,
        seeds: int = 1,
        measure: Sequence[str] = (),
        given: Mapping[str, Any],
    ) -> None:
        self.source, self.measure = source, tuple(measure)
        given = dict(given)
        if schedule is None:
            schedule = "warmup({warmup}) > constant" if "warmup" in given else "constant"
            if "lr" not in given:
                raise ValueError("lr: no learning rates; give lr=[...], or schedule= with absolute ones")
        specs = [OptimizerSpec.parse(o) for o in several("optimizer", optimizer)]
        shapes = several("schedule", schedule, split=False)
        placeholders = list(dict.fromkeys(name for shape in shapes for name in _names_in(shape)))
        seed = _seeds(seeds, given.pop("seed", None))
        found = [Axis("schedule", "schedule", tuple(shapes))] if len(shapes) > 1 else []
        found += [Axis("optimizer", "optimizer", tuple(specs))] if len(specs) > 1 else []
        for name, value in given.items():
            kind, values = kind_of(name, source.maker, placeholders, specs), several(name, value)
            values = (
                settings(source.maker, name, values) if kind == "setting" else [read(name, kind, v) for v in values]
            )
            found.append(Axis(name, kind, tuple(values)))
        lengths = [] if steps is None else [read("steps", "steps", v) for v in several("steps", steps)]
        found += [Axis("steps", "steps", tuple(lengths))] if len(lengths) > 1 else []
        found.append(Axis("seed", "seed", tuple(seed)))
        self.axes: dict[str, Axis] = {axis.name: axis for axis in found}
        missing = [name for name in placeholders if name not in self.axes]
        if missing:
            raise ValueError(f"schedule: {{{missing[0]}}} has no values; give {missing[0]}=[...]")
        if self.size > MOST:
            raise ValueError(f"the grid has {self.size:,} cells, more than {MOST:,}; give fewer values")
        self._optimizer, self._schedule = specs[0], shapes[0]
        self._steps = lengths[0] if len(lengths) == 1 else None
        self._shapes: dict[Any, tuple[Schedule, Mapping[str, Any]]] = {}
        self._lengths: dict[str, tuple[int | None, int | None]] = {}

    @property
    def size(self) -> int:
        """Cells of the full grid."""
        return math.prod(len(axis.values) for axis in self.axes.values())

    @property
    def config(self) -> dict[str, Any]:
        """What all cells share, and which axes they have; JSON-able."""
        shape = self._schedule if isinstance(self._schedule, str) else self._schedule.to_spec()
        return {
            "task": self.source.name,
            "device": self.source.device,
            "optimizer": None if "optimizer" in self.axes else str(self._optimizer),
            "schedule": None if "schedule" in self.axes else shape,
            "steps": self._steps,
            "measure": list(self.measure),
            "axes": {name: axis.kind for name, axis in self.axes.items()},
        }

    def cells(self) -> Iterator[SweepCell]:
        """The full grid, the last axis fastest."""
        for values in itertools.product(*(axis.values for axis in self.axes.values())):
            yield self._cell(dict(zip(self.axes, values, strict=True)))

    def cell(self, point: Mapping[str, Any]) -> SweepCell:
        """The cell at values as the table shows them, which need not be among those of the grid.

        Raises:
            KeyError: An axis has no value.
            ValueError, ScheduleError: The values cannot be meant, such as a warmup longer than the run.
        """
        return self._cell({name: axis.use(point[name]) for name, axis in self.axes.items()})

    def _cell(self, point: Mapping[str, Any]) -> SweepCell:
        def of(kind: str) -> dict[str, Any]:
            return {name: point[name] for name, axis in self.axes.items() if axis.kind == kind}

        steps, per_epoch = self._length(of("setting"))
        steps = whole("steps", point.get("steps", steps), at_least=1)
        horizon = Horizon(steps, steps_per_epoch=per_epoch)
        optimizer = point.get("optimizer", self._optimizer)
        if options := of("option"):
            optimizer = OptimizerSpec.from_spec(optimizer.to_spec() | options)
        placeholders = of("placeholder")
        shape, spec = self._shape(point.get("schedule", self._schedule), placeholders, horizon)
        shown = {name: axis.show(point[name]) for name, axis in self.axes.items()}
        if "warmup" in placeholders:
            shown["warmup_steps"] = _length_of(point["warmup"], horizon)
        return SweepCell(
            point=shown,
            settings=of("setting"),
            optimizer=optimizer,
            shape=shape,
            lr=float(of("lr").get("lr", 1.0)),
            steps=steps,
            seed=point["seed"],
            measure=self.measure,
            _spec=spec,
        )

    def _length(self, chosen: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Steps of a run, and of an epoch, of the task of these settings."""
        key = repr(chosen)
        if key not in self._lengths:
            task = self.source.task(chosen)
            try:
                per_epoch = len(task.train) or None  # type: ignore[arg-type]
            except TypeError:  # a loader that does not know
                per_epoch = None
            steps = task.steps if self._steps is None else self._steps
            if steps is None and "steps" not in self.axes:
                raise ValueError(f"steps: the task {self.source.name!r} names no length of its own; give steps=")
            self._lengths[key] = steps, per_epoch
        return self._lengths[key]

    def _shape(
        self, template: str | Schedule, values: Mapping[str, Any], horizon: Horizon
    ) -> tuple[Schedule, Mapping[str, Any]]:
        """The schedule as a factor, and its spec; many cells share one."""
        asked = (
            template if isinstance(template, Schedule) else _PLACEHOLDER.sub(lambda m: str(values[m[1]]), template)
        )
        key = (asked, horizon)
        if key not in self._shapes:
            shape = asked if isinstance(asked, Schedule) else parse(asked, horizon)
            factors = shape.values(horizon.steps)
            if not ((factors >= 0) & (factors < math.inf)).all():
                raise ScheduleError(f"schedule: {asked} has a factor that is negative or not finite")
            self._shapes[key] = shape, shape.to_spec()
        return self._shapes[key]


def _names_in(shape: Any) -> list[str]:
    """Placeholders of a schedule's text; a schedule has none."""
    if isinstance(shape, Schedule):
        return []
    if not isinstance(shape, str):
        raise TypeError(f"schedule: expected text or a lrscope Schedule, got {type(shape).__name__}")
    names = _PLACEHOLDER.findall(shape)
    if "" in names:
        raise ValueError(f"schedule: a placeholder in {shape!r} has no name; write {{warmup}}, say")
    return names


def _seeds(seeds: int, listed: Any) -> list[int]:
    if listed is None:
        return list(range(whole("seeds", seeds, at_least=1)))
    if seeds != 1:
        raise ValueError("seeds: given beside seed=[...]; give one of them")
    return [whole("seed", value, at_least=0) for value in several("seed", listed)]


def _length_of(value: Any, horizon: Horizon) -> int | None:
    """A length in whole steps, as the schedule's text rounds it; ``None`` for one that only the text can read."""
    found = _LENGTH.fullmatch(str(value).strip())
    if found is None:
        return None
    return math.floor(horizon.in_steps(float(found[1]), found[2] or "steps") + Fraction(1, 2))
