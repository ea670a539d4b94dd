"""The training loss as a function of the flat parameter vector theta."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from lrscope.errors import MeasurementError, TaskError
from lrscope.isolation import generators_of, isolated_rng, mode_of, without_dropout
from lrscope.params import ParamLayout
from lrscope.records import Cost
from lrscope.wrapping import (
    Ranks,
    eagerly,
    is_sharded,
    resharded,
    standing_at,
    unwrapped,
    whole,
    without_sharding_hooks,
)

Batch = Any
LossFn = Callable[[nn.Module, Batch], Tensor]
T = TypeVar("T")


def num_examples(batch: Batch) -> int:
    """Examples in a batch: the leading dimension of its first tensor.

    Raises:
        TaskError: The batch holds no tensor with a leading dimension.
    """
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim > 0:
            return leaf.shape[0]
    raise TaskError(
        f"batch: a {type(batch).__name__} without a tensor that has a leading (example) dimension, so it cannot "
        "be weighted; give count= a function from a batch to its number of examples"
    )


class FunctionalLoss:
    """``loss_fn(model, batch)`` as a pure function of parameters and buffers.

    Works under ``torch.func`` transforms: the model is called with the tensors given, its own are never touched.
    Without ``dropout``, calls to torch's functions of that kind drop nothing.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, *, dropout: bool = True) -> None:
        self.model = model
        self.dropout = dropout
        self.loss_fn = loss_fn

    def buffers(self) -> dict[str, Tensor]:
        """Clones of the model's buffers (BatchNorm statistics and the like), by name.

        With them those of frozen parameters, which a forward pass may move (a teacher that averages its student),
        unless they are more than the trainable ones: a pretrained model under adapters is not copied.
        """
        buffers = {name: b.detach().clone() for name, b in self.model.named_buffers()}
        frozen, trainable = {}, 0
        for name, p in self.model.named_parameters():
            if p.requires_grad:
                trainable += p.numel()
            else:
                frozen[name] = p.detach()
        if not frozen or sum(p.numel() for p in frozen.values()) > trainable or is_sharded(self.model):
            return buffers
        return buffers | {name: p.clone() for name, p in frozen.items()}

    def complete(self, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors given, and those of the model that are to be replaced as well."""
        return params

    def __call__(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Loss, shape ``()``. A module that updates its buffers in place updates the ones given here."""
        return self.holding(params, buffers, lambda: checked(self.loss_fn(self.model, batch)))

    def holding(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], do: Callable[[], T]) -> T:
        """``do()`` while the model holds the tensors given.

        Not only the forward pass belongs in here: activation checkpointing runs the model again in the backward
        pass, with whatever parameters it holds by then.
        """
        tensors = {**self.complete(params), **buffers}
        with _holding(self.model, tensors), nullcontext() if self.dropout else without_dropout(self.model):
            return do()


@contextmanager
def _holding(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """What ``torch.func.functional_call`` does, for anything that is done meanwhile, and several times faster."""
    names: dict[int, str] = {}  # tied tensors go by the first of their names, as in named_parameters()
    before = []
    try:
        for prefix, module in model.named_modules():
            for store in (module._parameters, module._buffers):
                for key, tensor in store.items():
                    if tensor is None:
                        continue
                    name = names.setdefault(id(tensor), f"{prefix}.{key}" if prefix else key)
                    if name in tensors:
                        before.append((store, key, tensor))
        for store, key, tensor in before:
            store[key] = tensors[names[id(tensor)]]
        yield
    finally:
        for store, key, tensor in before:
            store[key] = tensor


class FirstOrder(NamedTuple):
    """A gradient, ``(P,)``, that can be differentiated in its leaf, ``(P,)``."""

    leaf: Tensor
    grad: Tensor


class Family:
    """Stands for one loss of one model, whatever the batches; what is known of all of them is remembered by it."""


class Objective:
    r"""The loss over the given batches as a function of theta.

    .. math:: L(\theta) = \sum_b n_b L_b(\theta) / \sum_b n_b

    with :math:`n_b` the examples in batch b, so that splitting the data into other batches changes nothing
    (for losses that are means over examples; BatchNorm in train mode is the known exception).

    The model is left untouched: parameters, buffers, modes, ``.grad`` and random states are after every call
    what they were before, also when the call raises. ``L`` is a deterministic function: dropout is off, that of
    layers, of attention and of calls to torch's functions alike, and any other draw (noise, stochastic depth)
    repeats, because each evaluation starts from the same seed.

    Models are measured as they are trained: compiled, under autocast *inside* ``loss_fn`` (the caller's own autocast
    is switched off, so that a number does not depend on where it is asked for), with activation
    checkpointing, wrapped in ``DistributedDataParallel`` or sharded by ``fully_shard``. In the last two cases every
    process gives its own batches and calls the same methods at the same theta; loss, gradient and products are
    those over the batches of all processes, equal on each. theta is the whole vector there, too.

    Args:
        model: Any module whose loss can be differentiated.
        loss_fn: ``loss_fn(model, batch)`` -> mean loss over the batch, shape ``()``.
        batches: The batches L is the mean over, as a list or another iterable. Read once, here, and kept. A list of
            tensors is read as one batch each, unless they differ in dtype or number of dimensions over equally many
            examples, as inputs and targets do.
        count: Number of examples in a batch.
        mode: ``"train"`` uses batch statistics where the model has BatchNorm, as training does; ``"eval"`` uses
            the running ones.

    Attributes:
        size: P, the number of trainable parameters.
        model: The model, taken out of ``DistributedDataParallel``.
        batches: The batches of this process, as a tuple.
        family: The same for all objectives made of this one by :meth:`on` and :meth:`each`.
        spent: :class:`~lrscope.records.Cost` so far, in evaluations over all batches.

    Raises:
        TypeError: Of the model, the loss function or the batches; one batch alone must be wrapped, ``[batch]``.
        TaskError: No trainable parameters or complex ones, no batches, a loss that is not a scalar, a loss that edits
            its batch in place, or a kind of sharding that is not known.
        MeasurementError: By methods: the loss has no gradient, or other parameters are trainable by now. What the
            model and the loss function raise themselves comes from the methods as it is; the functions that measure
            put torch's errors into words.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        batches: Iterable[Batch],
        *,
        count: Callable[[Batch], int] = num_examples,
        mode: Literal["train", "eval"] = "train",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if not callable(loss_fn):
            raise TypeError(f"loss_fn: expected a function loss_fn(model, batch), got {type(loss_fn).__name__}")
        if mode not in ("train", "eval"):
            raise ValueError(f"mode: expected 'train' or 'eval', got {mode!r}")
        if _is_one_batch(batches):
            raise TypeError(
                f"batches: expected a list of batches, got a {type(batches).__name__}"
                f"{' of tensors' if isinstance(batches, (tuple, list)) else ''}, which looks like one batch; wrap "
                "one batch: [batch] (and several in a list)"
            )
        with isolated_rng(generators=generators_of(batches)):  # a loader shuffles on as if it had not been read
            self.batches: tuple[Batch, ...] = tuple(batches)
        if not self.batches:
            raise TaskError("batches: empty, so there is no loss to measure; give at least one batch")
        self.wrapped = model
        self.model = resharded(unwrapped(model))
        self.loss_fn = loss_fn
        self.count = count
        self.mode: Literal["train", "eval"] = mode
        self.layout = ParamLayout.of(self.model)
        self._trainable = self.layout.names
        self._met: set[int] = set()
        first = self.model.get_parameter(self.layout.names[0])
        if first.is_complex():
            raise TaskError(
                f"model: its parameters are {first.dtype}; the loss is studied as a function of a real vector, so "
                "store real and imaginary parts as separate parameters (torch.view_as_real)"
            )
        self._device = first.device
        self.functional = FunctionalLoss(self.model, loss_fn, dropout=False)
        self.ranks = Ranks(model)
        self.sharded = is_sharded(self.model)
        counts = [count(batch) for batch in self.batches]
        if min(counts) <= 0:
            raise TaskError(f"batches: batch {counts.index(min(counts))} holds {min(counts)} examples")
        total = self._total(counts)
        self.weights: tuple[float, ...] = tuple(n / total for n in counts)
        self.family = Family()
        self._backward_only = False
        self.spent = Cost()

    @property
    def size(self) -> int:
        return self.layout.size

    def __repr__(self) -> str:
        return (
            f"Objective({type(self.model).__name__}, {self.size:,} parameters, {len(self.batches)} batches, "
            f"mode={self.mode!r})"
        )

    def point(self) -> Tensor:
        """The model's current theta, a new vector of shape ``(P,)``."""
        self._require_same_parameters()
        return self.layout.point(self.model)

    def each(self) -> Iterator[Objective]:
        """One objective per batch, over the same model; in several processes, one per batch of each of them.

        Raises:
            TaskError: The processes hold different numbers of batches.
        """
        self._require_same_number(len(self.batches))
        for batch in self.batches:
            yield self.on([batch])

    def on(self, batches: Iterable[Batch]) -> Objective:
        """The same loss of the same model over other batches."""
        other = Objective(self.wrapped, self.loss_fn, batches, count=self.count, mode=self.mode)
        other.family = self.family
        return other

    def __call__(self, theta: Tensor) -> Tensor:
        """L(theta), shape ``()``, differentiable in theta, shape ``(P,)``.

        With activation checkpointing it is differentiable only where the model stands; :meth:`loss_and_grad` and
        :meth:`hvp` are right everywhere.
        """
        self._check(theta)
        with self.undisturbed():
            parts = [w * self.batch_loss(theta, b) for w, b in zip(self.weights, self.batches, strict=True)]
            loss = torch.stack(parts).sum()
        if self.ranks.size == 1:
            return loss
        if loss.requires_grad:
            raise TaskError(
                f"objective: its loss is a mean over {self.ranks.size} processes, through which autograd does not "
                "see; use loss_and_grad(theta) and hvp(theta, v)"
            )
        return self.ranks.sum(loss)

    @torch.no_grad()
    def loss(self, theta: Tensor | None = None) -> float:
        """L(theta) as a number; cost: one forward pass over the batches."""
        value = self(self.point() if theta is None else theta)
        self.spent += Cost(forwards=1)
        return float(value.detach())

    def loss_and_grad(self, theta: Tensor) -> tuple[float, Tensor]:
        """L(theta) and its gradient, shape ``(P,)``; cost: one gradient. One batch's graph is alive at a time."""
        self._check(theta)
        with self.undisturbed(), torch.enable_grad():
            loss, grad = (self._sharded_gradient if self.sharded else self._gradient)(theta)
        self.spent += Cost(gradients=1)
        return loss, grad

    def grad(self, theta: Tensor) -> Tensor:
        """Gradient of L, shape ``(P,)``; cost: one gradient."""
        return self.loss_and_grad(theta)[1]

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """Exact Hessian-vector product, shape ``(P,)``, by reverse over reverse; cost: one product.

        The plain reference. :mod:`lrscope.curvature` holds the engine that reuses graphs and also works where a
        second derivative does not exist.
        """
        self._check(theta)
        self._check(v, "v")
        with self.differentiable():
            product = torch.zeros_like(theta)
            for weight, batch in zip(self.weights, self.batches, strict=True):
                part = self.second_order(self.first_order(theta, batch), v)
                if part is not None:
                    product += weight * part
        self.spent += Cost(products=1)
        return self.ranks.sum(product.detach())

    def first_order(self, theta: Tensor, batch: Batch) -> FirstOrder:
        """The gradient of one batch with its graph; call it inside :meth:`differentiable`."""
        leaf = _leaf(theta)

        def build() -> FirstOrder:
            return FirstOrder(leaf, derivative(self._loss(batch), leaf, create_graph=True))

        return self.at(leaf, build)

    def second_order(self, first: FirstOrder, v: Tensor, *, keep: bool = False) -> Tensor | None:
        """The Hessian of one batch times v, ``(P,)``, or times each row of ``(K, P)``; ``None`` where it is zero.

        ``keep`` the graph, for further products. Call it inside :meth:`differentiable`.
        """
        if not first.grad.requires_grad:  # the loss is linear in theta
            return None

        def again() -> Tensor:
            batched = v.ndim == 2
            return torch.autograd.grad(first.grad, first.leaf, v, retain_graph=keep, is_grads_batched=batched)[0]

        return self.at(first.leaf, again)

    def at(self, theta: Tensor, do: Callable[[], T]) -> T:
        """``do()`` while the model is at theta: forward *and* backward passes; call it inside :meth:`undisturbed`."""
        params = self.layout.unflatten(theta)
        if not self.sharded:
            return self.functional.holding(params, self.functional.buffers(), do)
        named = self.functional.complete(params)
        rest = {n: whole(p.detach()) for n, p in self.model.named_parameters() if n not in named}
        with without_sharding_hooks(self.model):
            return self.functional.holding({**rest, **params}, self.functional.buffers(), do)

    def batch_loss(self, theta: Tensor, batch: Batch) -> Tensor:
        """Loss of one batch of this process at theta, shape ``()``; call it inside :meth:`undisturbed`."""
        return self.at(theta, lambda: self._loss(batch))

    def _loss(self, batch: Batch) -> Tensor:
        with _unedited(batch, new=id(batch) not in self._met) as given:
            loss = checked(self.loss_fn(self.model, given))
        self._met.add(id(batch))
        return loss

    def _gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        leaf = _leaf(theta)
        loss, grad = 0.0, None
        for weight, batch in zip(self.weights, self.batches, strict=True):
            value, part = self.at(leaf, lambda batch=batch: self._gradient_of(batch, leaf))
            part = part if weight == 1 else weight * part
            # Of one batch, nothing is summed up: a vector less beside the activations, and two passes over it.
            grad = part if grad is None else grad.add_(part)
            loss += weight * float(value)
        assert grad is not None  # there is at least one batch
        return self.ranks.add(loss, theta.device), self.ranks.sum(grad.detach())

    def _gradient_of(self, batch: Batch, leaf: Tensor) -> tuple[Tensor, Tensor]:
        loss = self._loss(batch)
        if not self._backward_only:
            try:
                return loss.detach(), derivative(loss, leaf)
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
            self._backward_only = True  # reentrant checkpointing knows nothing else
            loss = self._loss(batch)  # the failed attempt has used up the graph
        loss.backward()
        grad, leaf.grad = leaf.grad, None
        if grad is None:
            raise RuntimeError("no gradient reaches theta through the reentrant checkpoint")
        return loss.detach(), grad

    def _sharded_gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        """The gradient as training makes it: ``backward()`` through the hooks that gather and scatter."""
        values = self.functional.complete(self.layout.unflatten(theta.detach()))
        loss = 0.0
        standing = standing_at(self.model, values, self.functional.buffers())
        with standing as params, without_dropout(self.model):
            for weight, batch in zip(self.weights, self.batches, strict=True):
                part = self._loss(batch)
                # fully_shard averages gradients over the processes, the weights are shares of all their examples.
                (weight * self.ranks.size * part).backward()
                loss += weight * float(whole(part.detach()))
            grads = {n: params[n].grad for n in self.layout.names}
            pieces = {n: torch.zeros(s) if (g := grads[n]) is None else whole(g) for n, s in self._shapes()}
            grad = self.layout.flatten({n: g.to(theta) for n, g in pieces.items()})
        return self.ranks.add(loss, theta.device), grad

    def _shapes(self) -> Iterator[tuple[str, torch.Size]]:
        return zip(self.layout.names, self.layout.shapes, strict=True)

    def _total(self, counts: list[int]) -> float:
        """Examples of all processes."""
        if self.ranks.size == 1:
            return sum(counts)
        if self.sharded:  # it is gathered for each batch by all processes together
            self._require_same_number(len(counts))
        return self.ranks.add(float(sum(counts)), self._device)

    def _require_same_number(self, number: int) -> None:
        total, squares = self.ranks.add(number, self._device), self.ranks.add(number**2, self._device)
        if squares * self.ranks.size != total**2:  # the same verdict on each process, so that none waits for another
            raise TaskError(
                f"batches: {number} on this process, but {total:g} on all {self.ranks.size}; the processes go "
                "through them together here, so give each of them the same number"
            )

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """The model in this objective's mode and every evaluation's draws the same; all as before afterwards.

        An autocast around it is off in here: one that belongs to the loss is entered by ``loss_fn`` itself.
        """
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():  # its tensors cannot be differentiated
                stack.enter_context(torch.inference_mode(False))
            for kind in {"cpu", self._device.type}:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(isolated_rng(seed=0))
            stack.enter_context(mode_of(self.model, training=self.mode == "train", dropout=False))
            yield

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """:meth:`undisturbed`, and in a form that has second derivatives: attention as plain algebra, uncompiled."""
        with self.undisturbed(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), eagerly():
            yield

    def _require_same_parameters(self) -> None:
        now = [name for name, p in self.model.named_parameters() if p.requires_grad]
        if tuple(now) != self._trainable:
            changed = [n for n in (*self._trainable, *now) if (n in now) != (n in self._trainable)] or now or ["all"]
            raise MeasurementError(
                f"model: {changed[0]!r} was {'unfrozen' if changed[0] in now else 'frozen'} (or added, removed, or "
                "moved) after the Objective was made, so theta is another vector by now; make a new Objective"
            )

    def _check(self, theta: Tensor, name: str = "theta") -> None:
        self._require_same_parameters()
        if not isinstance(theta, Tensor) or theta.shape != (self.size,):
            came = tuple(theta.shape) if isinstance(theta, Tensor) else type(theta).__name__
            raise ValueError(f"{name}: expected a tensor of shape ({self.size},), got {came}")
        if not theta.is_floating_point():
            raise ValueError(f"{name}: expected floating-point numbers, got {theta.dtype}")


@contextmanager
def _unedited(batch: Any, *, new: bool) -> Iterator[Any]:
    """The batch in containers of its own, which may be emptied; its tensors are the user's and may not be edited.

    Of a ``new`` batch copies are kept meanwhile, so that a loss that edits its batch is refused with nothing lost.

    Raises:
        TaskError: A tensor was edited in place.
    """
    leaves, structure = pytree.tree_flatten(batch)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_inference()]
    versions = [tensor._version for tensor in tensors]
    copies = [tensor.detach().clone() for tensor in tensors] if new else []
    edited: list[int] = []
    try:
        yield pytree.tree_unflatten(leaves, structure)
    finally:
        edited += [i for i, (t, version) in enumerate(zip(tensors, versions, strict=True)) if t._version != version]
        with torch.no_grad():
            for i in edited if new else ():
                tensors[i].copy_(copies[i])
    if edited:
        raise TaskError(
            f"loss_fn: it, or the model, edits tensor {edited[0]} of the batch in place, so each evaluation is one "
            "of other data; compute a new tensor (x = x * 0.9, not x *= 0.9), or clone the batch first"
        )


def checked(loss: Any) -> Tensor:
    """What a loss function returned, if it is a loss.

    Raises:
        TaskError: What came, and what to do.
    """
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TaskError(
            f"loss_fn: expected the mean loss over the batch as a tensor of shape (), got {shape}; "
            "reduce it, for example with .mean()"
        )
    if not loss.is_floating_point():
        raise TaskError(
            f"loss_fn: expected a loss of real numbers, got {loss.dtype}; counts of errors have no gradient, so give "
            "a loss that can be trained, and of a complex one its real part"
        )
    return loss


def derivative(loss: Tensor, leaf: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient of a loss in a leaf of its graph.

    Raises:
        MeasurementError: There is none.
    """
    grad = None
    if loss.requires_grad:
        (grad,) = torch.autograd.grad(loss, leaf, create_graph=create_graph, allow_unused=True)
    if grad is None:
        raise MeasurementError(
            "loss_fn: the loss has no gradient in theta: it does not depend on the model's trainable parameters, or "
            "its graph is cut on the way (detach(), item(), no_grad(), argmax), so there is no step and no curvature"
        )
    return grad


def _leaf(theta: Tensor) -> Tensor:
    theta = theta.detach()
    return (theta.clone() if theta.is_inference() else theta).requires_grad_()


def _is_one_batch(batches: Any) -> bool:
    if isinstance(batches, (tuple, list)) and len(batches) > 0 and all(isinstance(part, Tensor) for part in batches):
        if isinstance(batches, tuple):
            return True
        # What a DataLoader collates is a list. Equally many examples of another kind are inputs and their targets;
        # of the same kind they may be batches.
        kinds = {(part.dtype, part.ndim) for part in batches}
        return len(kinds) > 1 and 0 not in {n for _, n in kinds} and len({len(part) for part in batches}) == 1
    return isinstance(batches, (Tensor, Mapping))


def require_objective(objective: Any) -> None:
    """Refuse a model, or anything else that is not a loss as a function of theta.

    Raises:
        TypeError: What came, and what to do.
    """
    if not hasattr(objective, "loss_and_grad"):  # not by class: an objective in closed form is one, too
        ways = "the loss and the batches that it is measured on: lrs.Objective(model, loss_fn, [batch])"
        if hasattr(objective, "objective"):  # a task
            ways = "task.objective(num_batches=3)"
        elif hasattr(objective, "get_train_dataloader"):  # a Trainer of transformers
            ways = "lrs.adapters.huggingface.task(trainer).objective(num_batches=3)"
        raise TypeError(f"objective: expected a lrs.Objective, got {type(objective).__name__}; give {ways}")
