"""Try a task before any work is spent on it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lrscope.errors import LrscopeWarning, TaskError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch
from lrscope.params import ParamLayout
from lrscope.tasks.task import Task


def check(task: Task) -> None:
    """Build, read one batch, take the loss and its gradient, evaluate; leave no trace.

    The models tried are fresh ones, the loaders' positions and all random states come back as they were.

    Raises:
        TaskError: With the part at fault, what came, what is expected and what to do.
    """
    with isolated_rng():
        model = _check_build(task)
        batch = _check_batches(task, "train")
        _check_loss(task, model, batch)
        _check_mean(task, model, batch)
        if task.evaluate is not None:
            _check_evaluation(task, model, _check_batches(task, "evaluate"))
        else:
            _check_metrics(task, model, batch, "train")


def _check_build(task: Task) -> nn.Module:
    with _telling(f"build: build(0) on device={task.device!r}", "the model must be built without an error"):
        model, again = task.model(0), task.model(0)
    ParamLayout.of(model)
    if model is again or _share_memory(model, again):
        raise TaskError(
            "build: two calls returned the same parameters, so runs would train one and the same model; make a new "
            "model inside build (a copy.deepcopy of a pretrained one is fine)"
        )
    first, second = model.state_dict(), again.state_dict()
    if first.keys() != second.keys():
        raise TaskError(
            "build: build(0) gave models of different structure in two calls; it must depend on the seed only"
        )
    for name, tensor in first.items():
        if isinstance(tensor, Tensor) and not _equal(tensor, second[name]):
            raise TaskError(
                f"build: build(0) gave different values in two calls (first seen in {name!r}), so a seed would not "
                "repeat a run; draw from torch's, NumPy's or Python's global generators, which are seeded for you, "
                "or from a generator seeded by the argument"
            )
    return model


def _check_batches(task: Task, of: str) -> Batch:
    """The first batch, after making sure that it comes again."""
    firsts = []
    for _ in range(2):
        with _telling(f"{of}: reading the first batch", f"{of} must yield batches"):
            firsts.append(task.batches(1, of=of))
    if not firsts[0]:
        raise TaskError(
            f"{of}: an epoch holds no batch; is the data set empty, or smaller than one batch with drop_last=True?"
        )
    if not firsts[1]:
        raise TaskError(
            f"{of}: holds batches the first time it is read and none the second time; give a DataLoader, a list, or "
            "an object whose __iter__ starts a new epoch"
        )
    batch, again = firsts[0][0], firsts[1][0]
    with _telling(f"count: called with {describe(batch)}", "count(batch) is the number of examples"):
        num = task.count(batch)
    if not isinstance(num, int) or num < 1:
        raise TaskError(f"count: expected a positive integer for {describe(batch)}, got {num!r}")
    if not all(map(_equal, pytree.tree_leaves(batch), pytree.tree_leaves(again))):
        warnings.warn(
            f"{of}: the same seed gave two different first batches, so runs cannot be repeated or compared fairly; "
            "draw from the global generators or from the DataLoader's generator=, which are seeded for you",
            LrscopeWarning,
            stacklevel=4,
        )
    return batch


def _check_loss(task: Task, model: nn.Module, batch: Batch) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with mode_of(model, training=True), torch.enable_grad():
        loss = _call("loss_fn", task.loss_fn, model, batch)
    if any(p.grad is not None for p in model.parameters()):
        raise TaskError("loss_fn: it called backward(); only return the loss, the training loop does the rest")
    if not all(_equal(before[name], p.detach()) for name, p in model.named_parameters()):
        raise TaskError("loss_fn: it changed the model's parameters; only return the loss, the loop does the updates")
    _check_scalar("loss_fn", loss, batch)
    if not loss.requires_grad:
        raise TaskError(
            "loss_fn: the loss does not depend on the model's trainable parameters (requires_grad is False); remove "
            ".detach(), .item() or torch.no_grad() between the model and the loss"
        )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with _telling("loss_fn: its gradient", "the loss must be differentiable once"):
        grads = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    if all(g is None for g in grads):
        raise TaskError(
            "loss_fn: no trainable parameter of the model receives a gradient; does it use the model given?"
        )
    bad = [name for name, g in zip(trained, grads, strict=True) if g is not None and not _finite(g)]
    if bad:
        raise TaskError(
            f"loss_fn: the loss is {float(loss.detach()):.4g} at initialisation, but its gradient is not finite in "
            f"{', '.join(map(repr, bad[:3]))}; usual causes are sqrt or norm at 0, log(0) behind a mask, 0/0"
        )


def _finite(g: Tensor) -> bool:
    return bool((g.coalesce().values() if g.is_sparse else g).isfinite().all())


def _check_mean(task: Task, model: nn.Module, batch: Batch) -> None:
    """Refuse a sum over the batch: its best learning rate changes with the batch size, and weighting goes wrong."""
    half = task.count(batch) // 2
    leaves, structure = pytree.tree_flatten(batch)
    sized = [isinstance(x, Tensor) and x.ndim > 0 for x in leaves]
    if half < 1 or any(s and x.shape[0] != task.count(batch) for s, x in zip(sized, leaves, strict=True)):
        return

    def value(low: int, high: int) -> float:
        part = [x[low:high] if s else x for s, x in zip(sized, leaves, strict=True)]
        with isolated_rng(0):
            return float(task.loss_fn(model, pytree.tree_unflatten(part, structure)))

    try:
        with mode_of(model, training=False), torch.no_grad():
            whole, first, second = value(0, 2 * half), value(0, half), value(half, 2 * half)
    except Exception:  # a batch that cannot be cut (graphs, packed sequences) is not an error
        return
    total = first + second
    if math.isclose(whole, total, rel_tol=1e-3) and not math.isclose(whole, total / 2, rel_tol=0.1, abs_tol=1e-6):
        raise TaskError(
            f"loss_fn: it sums over the batch ({half} examples: {first:.4g}, the next {half}: {second:.4g}, all "
            f"{2 * half}: {whole:.4g}), but a mean is expected, else the right learning rate depends on the batch "
            "size; use .mean(), or reduction='mean'"
        )


def _check_evaluation(task: Task, model: nn.Module, batch: Batch) -> None:
    name, loss_fn = ("eval_loss_fn", task.eval_loss_fn) if task.eval_loss_fn else ("loss_fn", task.loss_fn)
    with mode_of(model, training=False), torch.no_grad():
        _check_scalar(name, _call(name, loss_fn, model, batch, of="evaluate"), batch, of="evaluate")
    _check_metrics(task, model, batch, "evaluate")


def _check_metrics(task: Task, model: nn.Module, batch: Batch, of: str) -> None:
    for name, fn in task.metrics.items():
        with mode_of(model, training=False), torch.no_grad():
            value = _call(f"metrics[{name!r}]", fn, model, batch, of=of)
        if not isinstance(value, (int, float)):
            _check_scalar(f"metrics[{name!r}]", value, batch, of=of, finite=False)


def _check_scalar(what: str, value: Any, batch: Batch, *, of: str = "train", finite: bool = True) -> None:
    if not isinstance(value, Tensor) or value.ndim != 0:
        if isinstance(value, Tensor):
            came, remedy = (
                f"a tensor of shape {tuple(value.shape)}",
                "reduce it over the batch, for example with .mean()",
            )
        else:
            came, remedy = f"{type(value).__name__}", "return one tensor, and do not call .item() or float() on it"
        raise TaskError(f"{what}: expected a mean over the batch, a tensor of shape (), got {came}; {remedy}")
    if finite and not bool(value.isfinite()):
        raise TaskError(
            f"{what}: {float(value.detach())} on the first {of} batch, {describe(batch)}, with a fresh model; look "
            "for non-finite inputs, log(0), 0/0, or an initialisation far too large"
        )


def _call(what: str, fn: Any, model: nn.Module, batch: Batch, *, of: str = "train") -> Any:
    remedy = f"it must unpack batches the way {of} yields them"
    with (
        _telling(f"{what}: called with {type(model).__name__} and the first {of} batch, {describe(batch)},", remedy),
        isolated_rng(0),
    ):
        return fn(model, batch)


@contextmanager
def _telling(what: str, remedy: str) -> Iterator[None]:
    """Errors of the user's code as one line that says where it came from; the original stays as the cause."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"{what} raised {one_line(error)}; {remedy}") from error


def one_line(error: BaseException, limit: int = 300) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def describe(batch: Batch) -> str:
    """Structure, dtypes and shapes, such as ``dict(input_ids: int64 (8, 64), labels: int64 (8, 64))``."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"dict({', '.join(f'{name}: {describe(part)}' for name, part in batch.items())})"
    if isinstance(batch, (tuple, list)) and len(batch) <= 8:
        return f"{type(batch).__name__}({', '.join(map(describe, batch))})"
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of {len(batch)}: {describe(batch[0])}, …"
    return type(batch).__name__


def _share_memory(a: nn.Module, b: nn.Module) -> bool:
    mine = {p.data_ptr() for p in a.parameters() if p.requires_grad and p.numel()}
    return any(p.data_ptr() in mine for p in b.parameters() if p.requires_grad and p.numel())


def _equal(a: Any, b: Any) -> bool:
    """Equality that holds for NaN too, and lets what cannot be compared pass."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return True
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
