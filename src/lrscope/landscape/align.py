"""Permutation alignment: one network's units renamed so that they lie where another's alike lie."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrscope.errors import MissingExtraError
from lrscope.landscape.barriers import check_count
from lrscope.landscape.points import read
from lrscope.landscape.symmetry import Axis, Group, read_symmetry
from lrscope.params import ParamLayout
from lrscope.records import Cost
from lrscope.wrapping import unwrapped


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """A network with renamed units.

    Attributes:
        model: A copy of the second network that computes the same function, up to rounding.
        permutations: By the name of the first weight of each group: unit ``i`` of the copy is unit
            ``permutation[i]`` of the network given.
        distance: Between the parameters of the two networks, before and after.
        sweeps: Passes over all groups, the last of which changed nothing.
        converged: Whether it came to that.
        cost: Seconds; no loss is evaluated.
    """

    model: nn.Module
    permutations: dict[str, np.ndarray]
    distance: tuple[float, float]
    sweeps: int
    converged: bool
    cost: Cost

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        moved = sum(int((p != np.arange(len(p))).sum()) for p in self.permutations.values())
        units = sum(len(p) for p in self.permutations.values())
        return f"{moved} of {units} units renamed; distance {self.distance[0]:.4g} -> {self.distance[1]:.4g}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "permutations": {k: p.tolist() for k, p in self.permutations.items()},
            "distance": list(self.distance),
            "sweeps": self.sweeps,
            "converged": self.converged,
            "cost": self.cost.to_dict(),
        }


def align(model_a: nn.Module, model_b: nn.Module, *, seed: int = 0, max_sweeps: int = 100) -> Alignment:
    r"""Rename the units of ``model_b`` so that its weights come as close to ``model_a``'s as they can.

    .. math:: \min_\pi \| \theta_a - \pi(\theta_b) \|^2

    over permutations of hidden units, layer after layer in random order: each is a linear assignment problem, solved
    exactly, while the others are held. The result is a local optimum. Both networks are left as they are.

    What may be renamed is read from the traced network: chains and sums of ``Linear``, convolutions, BatchNorm,
    LayerNorm, elementwise activations, pooling, flattening. A network with anything else is refused.

    Args:
        model_a, model_b: Modules of one architecture.
        seed: Of the order of layers.
        max_sweeps: Passes over all layers at most.

    Returns:
        :class:`Alignment`; ``barrier(task, model_a, result.model)`` is the barrier up to permutation. Cost: for each
        layer and pass a product of weight matrices and an assignment, cubic in the width.

    Raises:
        TypeError, ValueError: An argument is wrong.
        TaskError: The networks differ in architecture.
        MeasurementError: The network cannot be read.

    References:
        Ainsworth, Hayase, Srinivasa, Git Re-Basin: Merging Models modulo Permutation Symmetries, 2022,
        arXiv 2209.04836 (matching weights).
    """
    check_count("max_sweeps", max_sweeps, 1)
    for name, model in (("model_a", model_a), ("model_b", model_b)):
        if not isinstance(model, nn.Module):
            raise TypeError(f"{name}: expected a torch.nn.Module, got {type(model).__name__}")
    started = time.perf_counter()
    model_a, model_b = unwrapped(model_a), unwrapped(model_b)
    read("model_b", model_b, model_a, ParamLayout.of(model_a))
    groups = read_symmetry(model_b)
    theirs = {n: p.detach().double().cpu().numpy() for n, p in model_a.named_parameters()}
    ours = {n: p.detach().double().cpu().numpy() for n, p in model_b.named_parameters()}
    matching = _Matching(groups, theirs, ours)
    rng, sweeps, changed = np.random.default_rng(seed), 0, bool(groups)
    while changed and sweeps < max_sweeps:
        sweeps += 1
        changed = sum(matching.improve(int(g)) for g in rng.permutation(len(groups))) > 0
    renamed = copy.deepcopy(model_b)
    _rename(renamed, groups, matching.permutations)
    before = _distance(theirs, ours)
    after = _distance(theirs, {n: p.detach().double().cpu().numpy() for n, p in renamed.named_parameters()})
    named = {g.axes[0].tensor: p for g, p in zip(groups, matching.permutations, strict=True)}
    cost = Cost(seconds=time.perf_counter() - started)
    return Alignment(renamed, named, (before, after), sweeps, not changed, cost)


class _Matching:
    """The permutations so far, and one step that improves one of them."""

    def __init__(self, groups: tuple[Group, ...], theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        self.groups, self.theirs, self.ours = groups, theirs, ours
        self.permutations = [np.arange(g.size) for g in groups]
        self.of: dict[str, list[tuple[int, Axis]]] = {}
        for i, group in enumerate(groups):
            for axis in group.axes:
                if axis.tensor in ours:  # buffers follow, but have no say
                    self.of.setdefault(axis.tensor, []).append((i, axis))

    def improve(self, index: int) -> bool:
        """Solve for one group with the others held; ``True`` if that brought the networks closer."""
        group, kept = self.groups[index], self.permutations[index]
        gain = np.zeros((group.size, group.size))
        for axis in group.axes:
            if axis.tensor not in self.ours:
                continue
            other = self.ours[axis.tensor]
            for i, their in self.of[axis.tensor]:
                if their != axis:
                    other = np.take(other, _entries(self.permutations[i], their.block), their.dim)
            gain += _rows(self.theirs[axis.tensor], axis, group.size) @ _rows(other, axis, group.size).T
        before = self._agreement(index)
        self.permutations[index] = _assignment()(gain, maximize=True)[1]
        # Where a tensor lists a group twice, the assignment is exact for neither, so what counts is looked at.
        if self._agreement(index) > before + 1e-10 * (abs(before) + 1e-300):
            return True
        self.permutations[index] = kept
        return False

    def _agreement(self, index: int) -> float:
        """Inner product of the two networks' tensors that the group takes part in."""
        total = 0.0
        for name in {axis.tensor for axis in self.groups[index].axes if axis.tensor in self.ours}:
            moved = self.ours[name]
            for i, axis in self.of[name]:
                moved = np.take(moved, _entries(self.permutations[i], axis.block), axis.dim)
            total += float((moved * self.theirs[name]).sum())
        return total


def _rows(tensor: np.ndarray, axis: Axis, size: int) -> np.ndarray:
    """One row per unit, with all that belongs to it."""
    moved = np.moveaxis(tensor, axis.dim, 0)
    return moved.reshape(size, -1)


def _entries(permutation: np.ndarray, block: int) -> np.ndarray:
    """Indices along a dimension with ``block`` entries for each unit."""
    return (permutation[:, None] * block + np.arange(block)).ravel()


@torch.no_grad()
def _rename(model: nn.Module, groups: tuple[Group, ...], permutations: list[np.ndarray]) -> None:
    tensors: dict[str, Tensor] = dict([*model.named_parameters(), *model.named_buffers()])
    for group, permutation in zip(groups, permutations, strict=True):
        for axis in group.axes:
            tensor = tensors[axis.tensor]
            where = torch.from_numpy(_entries(permutation, axis.block)).to(tensor.device)
            tensor.copy_(tensor.index_select(axis.dim, where))


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(np.sqrt(sum(((one[name] - other[name]) ** 2).sum() for name in one)))


def _assignment() -> Any:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingExtraError("align: SciPy is not installed; pip install scipy") from error
    return linear_sum_assignment
