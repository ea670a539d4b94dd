"""The loss as a function of some of the parameters: a layer, the head, all biases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import Tensor

from lrscope.curvature.point import point_of
from lrscope.errors import MeasurementError
from lrscope.objective import Batch, FunctionalLoss, Objective
from lrscope.params import ParamLayout


def block(objective: Objective, *names: str, theta: Tensor | None = None) -> Objective:
    """The objective as a function of the named parameters; the others stand still.

    The result is an objective like any other, of fewer parameters: its Hessian is the diagonal block, and
    ``sharpness(block(objective, "head"))`` the sharpness of the head. A product costs less than one of the whole
    where the block lies near the output.

    Args:
        objective: The loss as a function of all parameters.
        names: Parameters (``"head.weight"``), modules, which mean all their parameters (``"head"``), or patterns
            (``"*.bias"``).
        theta: Where the others stand, ``(P,)`` of ``objective``; the model's current parameters by default.

    Raises:
        MeasurementError: A name fits no trainable parameter; the message lists some that there are.
        ValueError: ``theta`` has the wrong shape.

    Example:
        >>> head = block(objective, "head")                      # doctest: +SKIP
        >>> sharpness(head).value <= sharpness(objective).value  # doctest: +SKIP
        True
    """
    return _Block(objective, chosen(objective.layout, names), theta)


def chosen(layout: ParamLayout, names: tuple[str, ...]) -> tuple[str, ...]:
    """The parameters meant by names, modules and patterns, in the layout's order."""
    found: set[str] = set()
    for name in names:
        fits = {p for p in layout.names if p == name or p.startswith(f"{name}.") or fnmatchcase(p, name)}
        if not fits:
            some = ", ".join(layout.names[:6]) + (", ..." if len(layout.names) > 6 else "")
            raise MeasurementError(f"names: {name!r} fits no trainable parameter or module; there are {some}")
        found |= fits
    if not found:
        raise MeasurementError("names: none given; name parameters, modules or patterns such as '*.bias'")
    return tuple(name for name in layout.names if name in found)


class _Block(Objective):
    def __init__(self, whole: Objective, names: tuple[str, ...], theta: Tensor | None) -> None:
        super().__init__(whole.wrapped, whole.loss_fn, list(whole.batches), count=whole.count, mode=whole.mode)
        self._whole, self._names = whole, names
        self._fixed = whole.layout.unflatten(point_of(whole, theta))
        shapes = dict(zip(whole.layout.names, whole.layout.shapes, strict=True))
        self.layout = ParamLayout(names, tuple(shapes[name] for name in names))
        self.functional = _Filled(whole.functional, {k: v for k, v in self._fixed.items() if k not in names})

    def point(self) -> Tensor:
        # Where the whole stands, which need not be where the model stands now.
        return self.layout.flatten(self._fixed)

    def on(self, batches: Iterable[Batch]) -> Objective:
        other = _Block(self._whole.on(batches), self._names, self._whole.layout.flatten(self._fixed))
        other.family = self.family
        return other


class _Filled(FunctionalLoss):
    """A loss whose missing parameters are filled in."""

    def __init__(self, whole: FunctionalLoss, fixed: Mapping[str, Tensor]) -> None:
        super().__init__(whole.model, whole.loss_fn, dropout=whole.dropout)
        self._whole, self._fixed = whole, dict(fixed)

    def complete(self, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self._whole.complete({**self._fixed, **params})
