"""Activations of named layers on the same examples."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lrscope.records import Cost


@dataclass(frozen=True, eq=False)
class Recording(Mapping[str, Tensor]):
    """What named layers of one network answered: a mapping from layer to activations, in the order they ran.

    Attributes:
        activations: ``layer -> (N, ...)``, examples first. A layer that ran k > 1 times in a pass is there as
            ``layer#1`` to ``layer#k``.
        examples: N.
        skipped: Layers that were matched but not recorded, and why.
        inputs: Fingerprint of the batches; recordings of other examples, or of another order, have another one.
        cost: Forward passes and time.
    """

    activations: Mapping[str, Tensor]
    examples: int
    skipped: Mapping[str, str] = field(default_factory=dict)
    inputs: str | None = None
    cost: Cost = field(default_factory=Cost)

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self.activations:
            if layer in self.skipped:
                raise KeyError(f"layer {layer!r} was not recorded: {self.skipped[layer]}")
            raise KeyError(no_layer(layer, self.activations))
        return self.activations[layer]

    def __contains__(self, layer: object) -> bool:
        return layer in self.activations

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    @property
    def layers(self) -> list[str]:
        return list(self.activations)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(t.shape)}" for name, t in self.activations.items())
        return f"Recording({self.examples} examples; {shapes})"


def no_layer(name: str, known: Iterable[str]) -> str:
    """One line for a layer that does not exist, with the name that may have been meant."""
    names = [k for k in known if k]
    calls = [k for k in names if k.startswith((f"{name}#", f"{name}.", f"{name}["))]
    near = calls or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"no layer {name!r}" + (f" (did you mean {near[0]!r}?)" if near else "") + f"; there are {shown}"
