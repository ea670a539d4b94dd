"""One thing that varies: what it is a parameter of, its values as they are used and as the table shows them."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from lrscope.errors import TaskError
from lrscope.optimizers import OptimizerSpec
from lrscope.sweeps.ranges import MOST, expand
from lrscope.sweeps.table import TYPES
from lrscope.tasks.load import Maker

Kind = Literal["lr", "seed", "steps", "optimizer", "schedule", "placeholder", "option", "setting"]
_WHERE = {"placeholder": "the schedule's text", "option": "the optimizer", "setting": "the task's function"}


@dataclass(frozen=True)
class Axis:
    """One thing that varies.

    Attributes:
        name: Keyword, and column of the table.
        kind: What it is a parameter of: the run itself (``lr``, ``seed``, ``steps``, ``optimizer``, ``schedule``), a
            placeholder of the schedule's text, an option of the optimizer, or a setting of the task's function.
        values: As they are used, each once.
        shown: The same as the table shows them: all numbers, all truth values, or else all text.
    """

    name: str
    kind: Kind
    values: tuple[Any, ...]
    shown: tuple[Any, ...] = field(init=False)
    _as_is: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        values = tuple(dict.fromkeys(_hashable(v) for v in self.values))
        if len(values) > MOST:
            raise ValueError(f"{self.name}: {len(values):,} values, more than {MOST:,}")
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        put = object.__setattr__  # the one way to complete a frozen dataclass
        put(self, "values", values)
        put(self, "_as_is", numbers or all(isinstance(v, bool) for v in values))
        put(self, "shown", tuple(self.show(v) for v in values))

    def show(self, value: Any) -> Any:
        """A value as the table shows it."""
        return value if self._as_is else str(value)

    def use(self, shown: Any) -> Any:
        """A value as it is used, from one as the table shows it, also one that is not among those of the axis.

        Raises:
            ValueError: It cannot be a value of this axis.
        """
        for value, known in zip(self.values, self.shown, strict=True):
            if type(known) is type(shown) and known == shown:
                return value
        return read(self.name, self.kind, shown)


def kind_of(name: str, maker: Maker, placeholders: Iterable[str], specs: Sequence[OptimizerSpec]) -> Kind:
    """What ``name`` is a parameter of.

    Raises:
        ValueError: Of nothing, or of two things at once.
    """
    placeholders = list(placeholders)
    options = sorted(set().union(*(spec.to_spec() for spec in specs)) - {"name", "seed"})
    places: dict[Kind, Sequence[str]] = {"placeholder": placeholders, "option": options, "setting": maker.takes}
    kinds: list[Kind] = [kind for kind, names in places.items() if name in names]
    if name == "lr" and name not in placeholders:
        return "lr"
    if len(kinds) > 1:
        raise ValueError(f"{name}: is a name in {' and in '.join(_WHERE[k] for k in kinds)}; rename one of them")
    if not kinds:
        known = dict.fromkeys(["lr", "seed", "steps", *placeholders, *options, *maker.takes])
        near = get_close_matches(name, known, n=1)
        raise ValueError(
            f"{name}: nothing of that name to vary{f' (did you mean {near[0]!r}?)' if near else ''}; there are "
            f"{', '.join(known)}, and any {{name}} that the schedule's text has"
        )
    if name in TYPES or name == "warmup_steps":
        raise ValueError(f"{name}: is a column of the table, so it cannot be an axis; rename it")
    return kinds[0]


def several(name: str, value: Any, *, split: bool = True) -> list[Any]:
    """The values of an axis from a list, an array, a range's text, or one value.

    Raises:
        ValueError: None at all, or a range that cannot be meant.
    """
    if isinstance(value, str):
        return list(expand(name, value)) if split else [value]
    listed = value.tolist() if hasattr(value, "tolist") else value  # arrays and tensors
    values: list[Any] = list(listed) if isinstance(listed, (list, tuple, range)) else [listed]
    if not values:
        raise ValueError(f"{name}: no values; give at least one")
    return [v.item() if hasattr(v, "item") else v for v in values]


def read(name: str, kind: Kind, value: Any) -> Any:
    """One value, text converted to what an axis of this kind takes.

    Raises:
        ValueError: It is none.
    """
    match kind:
        case "lr":
            return _rate(name, value)
        case "seed" | "steps":
            return whole(name, value, at_least=1 if kind == "steps" else 0)
        case "optimizer":
            return OptimizerSpec.parse(value)
        case "placeholder" if isinstance(value, str):
            return _number(value)
        case "option" if isinstance(value, str):
            return _literal(name, value)
    return value


def settings(maker: Maker, name: str, values: Iterable[Any]) -> list[Any]:
    """Values for an argument of the task's function, text converted as its annotation says.

    Raises:
        TaskError: A text that is no such value.
    """
    try:
        return [maker.read({name: value})[name] for value in values]
    except TaskError as error:
        raise TaskError(str(error).replace("settings: ", f"{name}: ", 1)) from None


def whole(name: str, value: Any, *, at_least: int) -> int:
    """``value`` as a whole number.

    Raises:
        ValueError: It is none, or too small.
    """
    number = math.nan if isinstance(value, bool) else _float(value)
    if not number.is_integer() or not at_least <= number < 2**53:
        raise ValueError(f"{name}: expected a whole number of at least {at_least}, got {value!r}")
    return int(number)


def _rate(name: str, value: Any) -> float:
    rate = math.nan if isinstance(value, bool) else _float(value)
    if not 0 <= rate < math.inf:
        raise ValueError(f"{name}: learning rates are finite numbers of at least 0, got {value!r}")
    return rate


def _number(text: str) -> int | float | str:
    """A number where ``text`` is one, else the text, such as ``5%``."""
    value = _float(text)
    if math.isnan(value):
        return text.strip()
    return int(value) if text.strip().lstrip("+-").isdigit() else value


def _literal(name: str, text: str) -> Any:
    words: Mapping[str, bool] = {"true": True, "false": False}
    try:
        return words[text.lower()] if text.lower() in words else _hashable(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        raise ValueError(f"{name}: {text!r} is no value of an optimizer's option; give a number, say") from None


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, (list, tuple)) else value
