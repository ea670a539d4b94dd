"""N replicas of a task's model as one tensor program: stacked parameters and buffers, one mapped gradient."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrscope.errors import MeasurementError, TaskError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch, FunctionalLoss
from lrscope.params import ParamLayout
from lrscope.tasks import Task


class CannotBatch(MeasurementError):  # noqa: N818 - it reads as the sentence it is
    """The model cannot run as one batched program of replicas; the message gives torch's reason."""


@dataclass(frozen=True)
class Traits:
    """What one ordinary gradient told about a model in training.

    Attributes:
        seed: Whose initialisation.
        changing: Buffers that training changes, which every replica needs for itself.
        draws: The model draws random numbers (dropout).
        counts: Training changes numbers or texts that modules keep in plain Python, or draws outside torch.
        kept: Bytes that the forward pass keeps for the backward pass, besides the parameters.
        loss, grad: Value and gradient there, shapes ``()`` and ``(P,)``, to check the batched program by.
    """

    seed: int
    changing: frozenset[str]
    draws: bool
    counts: bool
    kept: int
    loss: Tensor
    grad: Tensor


class TrainingLoss(FunctionalLoss):
    """A functional loss that also returns the buffers as the forward pass left them."""

    def step(
        self, params: Mapping[str, Tensor], state: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def run() -> tuple[Tensor, dict[str, Tensor]]:
            loss = self.loss_fn(self.model, batch)
            # Read before the model gets its own back, since a module may have assigned a buffer anew.
            held = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
            return loss, {name: held[name] for name in state}

        return self.holding(params, state, run)


def examine(task: Task, seed: int, batch: Batch) -> Traits:
    """Run one ordinary gradient at the initialisation of ``seed``. Errors of the task itself surface here."""
    model = task.model(seed)
    layout = _layout(model)
    loss_fn = TrainingLoss(model, task.loss_fn)
    theta = layout.point(model).requires_grad_()
    state = _state(model)
    original = {name: t.clone() for name, t in state.items()}
    known = {theta.untyped_storage().data_ptr()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with isolated_rng(seed), mode_of(model, training=True), sdpa_kernel(SDPBackend.MATH):
        before, plain = _generators(), _plain_state(model)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, after = loss_fn.step(layout.unflatten(theta), state, batch)
        now = _generators()
        counts = before[:-1] != now[:-1] or plain != _plain_state(model)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        came = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(
            f"loss_fn: expected the mean loss over the batch as a tensor of shape (), got {came}; "
            "reduce it, for example with .mean()"
        )
    (grad,) = torch.autograd.grad(loss, theta)
    # By value: batch normalisation moves its statistics without torch's version counters noticing.
    changing = frozenset(k for k, t in after.items() if not torch.equal(t, original[k]))
    return Traits(seed, changing, before != now, counts, sum(kept.values()), loss.detach(), grad)


class Program:
    """Replicas of one task, one for each of ``seeds``.

    Attributes:
        theta: Parameters, ``(N, P)``; update them in place.
        stacked: Buffers (and frozen parameters) that differ between replicas, each ``(N, ...)``.
        shared: Those that do not.

    Raises:
        CannotBatch: The models cannot be stacked.
    """

    def __init__(self, task: Task, seeds: Sequence[int], traits: Traits) -> None:
        self.task = task
        self.model = task.model(seeds[0])
        self.layout = _layout(self.model)
        self.loss_fn = TrainingLoss(self.model, task.loss_fn)
        points, states = {seeds[0]: self.layout.point(self.model)}, {seeds[0]: _state(self.model)}
        for seed in seeds:
            if seed not in points:
                other = task.model(seed)
                points[seed], states[seed] = _layout(other).point(other), _state(other)
                if _layout(other) != self.layout or _shapes(states[seed]) != _shapes(states[seeds[0]]):
                    raise CannotBatch(f"build({seeds[0]}) and build({seed}) make models of different shapes")
        own = {
            name
            for name, tensor in states[seeds[0]].items()
            if name in traits.changing or any(not torch.equal(tensor, s[name]) for s in states.values())
        }
        self.theta = torch.stack([points[seed] for seed in seeds])
        self.stacked = {k: torch.stack([states[seed][k] for seed in seeds]) for k in sorted(own)}
        self.shared = {k: t for k, t in states[seeds[0]].items() if k not in own}
        # Replicas of one seed draw the same numbers, as each would on its own; of several seeds they may not draw.
        self._randomness = "same" if len(points) == 1 else "error"

    def gradients(self, batch: Batch, dims: Any) -> tuple[Tensor, Tensor]:
        """Losses ``(N,)`` and gradients ``(N, P)`` of one batch; ``dims`` says which leaves are stacked.

        The model must be in train mode; the buffers move on.
        """
        with reasons():
            grads, (losses, self.stacked) = self.mapped(dims)(self.theta, self.stacked, self.shared, batch)
        return losses, grads

    @property
    def kind(self) -> tuple[Any, ...]:
        """What programs share if the same operations make their gradients."""
        held = (tuple((k, t.shape) for k, t in tensors.items()) for tensors in (self.stacked, self.shared))
        return (self.theta.shape[1], *held, self._randomness)

    def mapped(self, dims: Any) -> Callable[..., tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]]:
        """Gradients, losses and moved buffers as a pure function of ``(theta, stacked, shared, batch)``."""

        def loss(theta: Tensor, stacked: Any, shared: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            value, state = self.loss_fn.step(self.layout.unflatten(theta), stacked | shared, batch)
            return value, {k: state[k] for k in stacked}

        where = (0, 0, None, dims)
        return vmap(grad_and_value(loss, has_aux=True), in_dims=where, randomness=self._randomness)

    def measure(self, fn: Callable[[nn.Module, Batch], Tensor], batch: Batch) -> Tensor:
        """``fn(model, batch)`` for every replica on a shared batch, ``(N,)``; modes are the caller's."""
        call = FunctionalLoss(self.model, fn)

        def one(theta: Tensor, stacked: dict[str, Tensor]) -> Tensor:
            # Not call(...), which takes losses only: a metric may be a plain number.
            tensors = self.layout.unflatten(theta), stacked | self.shared
            return torch.as_tensor(call.holding(*tensors, lambda: fn(self.model, batch)))

        try:
            with reasons():
                return vmap(one, randomness="same")(self.theta, self.stacked)
        except CannotBatch:  # metrics may do in plain Python what a loss may not; then one after the other
            each = range(len(self.theta))
            return torch.stack([one(self.theta[i], {k: t[i] for k, t in self.stacked.items()}) for i in each])

    def model_of(self, row: int, seed: int) -> nn.Module:
        """A model of its own with the parameters and buffers of one replica, which started from ``seed``."""
        model = self.task.model(seed)
        self.layout.write(model, self.theta[row])
        state = {k: t[row] for k, t in self.stacked.items()} | self.shared
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if name in state:
                    tensor.copy_(state[name])
        return model

    def keep(self, rows: Tensor) -> None:
        """Go on with the replicas at index ``rows`` only."""
        self.theta = self.theta[rows]
        self.stacked = {k: t[rows] for k, t in self.stacked.items()}


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention's fused kernels have no batching rule and would fall back to a loop, with a warning."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop.*")
        yield


@contextmanager
def reasons() -> Iterator[None]:
    """Whatever torch.func cannot do becomes :class:`CannotBatch` with the first line of its reason."""
    try:
        with plain_attention():
            yield
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CannotBatch(f"{type(error).__name__}: {first}") from error


def _layout(model: nn.Module) -> ParamLayout:
    if not any(p.requires_grad for p in model.parameters()):
        return ParamLayout.of(model)  # which says so
    try:
        return ParamLayout.of(model)
    except TaskError as error:
        raise CannotBatch(str(error)) from error


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Clones of all tensors that are not trained: buffers and frozen parameters."""
    frozen = {k: p for k, p in model.named_parameters() if not p.requires_grad}
    return {k: t.detach().clone() for k, t in (*model.named_buffers(), *frozen.items())}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {k: t.shape for k, t in state.items()}


def _plain_state(model: nn.Module) -> list[dict[str, Any]]:
    """What modules remember that is neither a tensor nor a module."""
    kinds = (int, float, str, complex, type(None))
    return [{k: v for k, v in vars(m).items() if isinstance(v, kinds)} for m in model.modules()]


def _generators() -> tuple[Any, ...]:
    """The global generators' states as comparable values."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    numpy: Any = np.random.get_state(legacy=True)
    tensors = (torch.get_rng_state(), *cuda)
    return random.getstate(), numpy[1].tobytes(), numpy[2:], tuple(t.numpy().tobytes() for t in tensors)
