"""A task from a LightningModule and its data: what it would train, as lrscope measures and plans it."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lrscope.errors import LrscopeWarning, TaskError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch, num_examples
from lrscope.tasks import Task

Start = Literal["fresh", "given"]
_HOOKS = (
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
)
"""Hooks of a module in which attributes are set that a step then reads."""


def task(
    module: Any,
    datamodule: Any = None,
    *,
    train: Iterable[Batch] | None = None,
    evaluate: Iterable[Batch] | None = None,
    start: Start = "fresh",
    accumulate_grad_batches: int = 1,
    steps: int | None = None,
    metrics: Mapping[str, Callable[[nn.Module, Batch], Tensor]] | None = None,
    count: Callable[[Batch], int] = num_examples,
    name: str | None = None,
    device: str = "cpu",
) -> Task:
    """The training that a LightningModule describes, as a :class:`~lrscope.Task`.

    - **Model.** Every run needs a fresh one. ``build(seed)`` makes it from the class and ``module.hparams``, as
      ``load_from_checkpoint`` does, so ``save_hyperparameters()`` must have seen every argument of ``__init__``; then
      calls ``setup("fit")`` and ``configure_model()`` of the new module. Or give a function of the seed that makes a
      module. ``start="given"`` begins every run at a copy of ``module`` as it is, for fine-tuning: seeds then differ
      in the order of the data and in dropout only.
    - **Loss.** What ``training_step`` returns, as Lightning reads it. In eval mode what ``validation_step`` returns,
      if it returns a loss, else again that of ``training_step``. ``batch_idx`` is always 1, since steps take 0 as an
      occasion to log pictures. ``self.log``, ``self.log_dict`` and ``self.print`` do nothing; there is no
      ``self.trainer``. ``self.global_step`` and ``self.current_epoch`` are 0, and a warning says so where a step
      reads them. The module's own hooks, such as ``on_train_batch_start``, are not run.
    - **Data.** ``train`` and ``evaluate``, else the loaders of ``datamodule``, else those of the module. The loaders
      are asked of a copy after ``prepare_data()`` and ``setup("fit")``, with the random generators seeded by 0, so a
      random split is the same in every process. ``on_before_batch_transfer`` and ``on_after_batch_transfer`` are
      applied.
    - **No trace.** ``module`` and ``datamodule`` are read, never called; random states stay as they were.

    Not part of the task, since they belong to the Trainer: gradient clipping, precision, callbacks, the optimizer
    of ``configure_optimizers``.

    Args:
        module: A LightningModule with automatic optimization, or ``fn(seed)`` that makes one.
        datamodule: A LightningDataModule.
        train: Training batches, instead of those of the datamodule or module.
        evaluate: Evaluation batches, likewise.
        start: ``"fresh"`` or ``"given"``, see above.
        accumulate_grad_batches: As given to the Trainer. That many batches then make one batch of the task, so the
            learning rates found are those of the whole update; all are in memory at once.
        steps: Optimizer updates of one ordinary full run.
        metrics, count, device: As in :class:`~lrscope.Task`; ``metrics`` and ``count`` see one batch of the loader.
        name: Shown on every screen; the module's class unless given.

    Raises:
        TaskError: A fresh module cannot be made, there is no training data, or a step needs the Trainer.

    Example:
        >>> plan = lrs.plan(task(LitModel(hidden=64), DigitsData(), steps=5_000))  # doctest: +SKIP
    """
    if start not in get_args(Start):
        raise TaskError(f"start: expected 'fresh' or 'given', got {start!r}")
    whole = isinstance(accumulate_grad_batches, int) and not isinstance(accumulate_grad_batches, bool)
    if not whole or accumulate_grad_batches < 1:
        raise TaskError(f"accumulate_grad_batches: expected a positive integer, got {accumulate_grad_batches!r}")
    build = _Build(module, start)
    with isolated_rng(0):
        first = build.bare(0)
        if datamodule is not None and not hasattr(datamodule, "prepare_data"):
            raise TaskError(
                f"datamodule: expected a LightningDataModule, got {type(datamodule).__name__}; batches are given by "
                "train= and evaluate="
            )
        owner = first if datamodule is None else copy.copy(datamodule)
        if train is None or evaluate is None:
            _explained("prepare_data", owner.prepare_data)
            _explained("setup", lambda: owner.setup("fit"))
            train = _loader(owner, "train") if train is None else train
            evaluate = _loader(owner, "val") if evaluate is None else evaluate
    if train is None:
        raise TaskError(
            f"train: {type(owner).__name__} has no train_dataloader; give a datamodule= that has one, or "
            "train= a DataLoader"
        )
    k = accumulate_grad_batches
    steps_of = _Steps(None if datamodule is None else owner, validates=False)
    made = Task(
        build=build,
        loss_fn=_Mean(steps_of) if k > 1 else steps_of,
        train=Grouped(train, k) if k > 1 else train,
        evaluate=None if evaluate is None else Grouped(evaluate, 1) if k > 1 else evaluate,
        metrics={key: _Mean(fn) if k > 1 else fn for key, fn in (metrics or {}).items()},
        name=type(first).__name__ if name is None else name,
        count=_Sum(count) if k > 1 else count,
        steps=steps,
        device=device,
    )
    steps_of.validates = _validation_gives_a_loss(made, steps_of)
    return made


@dataclass(frozen=True)
class _Build:
    """``build(seed)``: a fresh module, ready to be asked for its loss without a Trainer."""

    source: Any
    start: Start

    def __post_init__(self) -> None:
        if _is_module(self.source):
            return
        if isinstance(self.source, (type, nn.Module)) or not callable(self.source):
            came = self.source.__name__ if isinstance(self.source, type) else f"a {type(self.source).__name__}"
            raise TaskError(
                f"module: expected a LightningModule, or a function of the seed that makes one, got {came}; "
                "for example task(lambda seed: LitModel(hidden=64), ...)"
            )
        if self.start == "given":
            raise TaskError("start='given': needs the module itself to copy, got a function that makes one")

    def __call__(self, seed: int) -> nn.Module:
        module = self.bare(seed)
        if self.start == "fresh":  # a given module is taken as it is: setup may put new layers in
            _explained("setup", lambda: module.setup("fit"))
            _explained("configure_model", module.configure_model)
        for quiet in ("log", "log_dict", "print"):
            setattr(module, quiet, _nothing)
        for part in module.modules():
            if _is_module(part):
                part._trainer = _NoTrainer()
        return module

    def bare(self, seed: int) -> Any:
        """A new module, before Lightning's hooks."""
        if self.start == "given":
            module = _copy(self.source)
        elif _is_module(self.source):
            module = _again(self.source)
        else:
            module = _explained("module", lambda: self.source(seed))
            if not _is_module(module):
                raise TaskError(f"module: the function returned {type(module).__name__}, expected a LightningModule")
        _check(module)
        return module


def _is_module(value: Any) -> bool:
    """Whether it is a LightningModule, of whichever tree."""
    return isinstance(value, nn.Module) and hasattr(value, "training_step") and hasattr(value, "configure_model")


class _NoTrainer:
    """Stands where a module looks for its Trainer, so that what it reads there is not silently that of step 0."""

    logger, loggers, global_rank, local_rank = None, (), 0, 0

    def __getattr__(self, name: str) -> Any:
        if name not in ("global_step", "current_epoch"):
            raise RuntimeError(f"{name}: not attached to a `Trainer`")
        warnings.warn(
            f"task: the module reads self.{name}, which exists only inside Trainer.fit and is always 0 here: what "
            "depends on it stays as in the first step",
            LrscopeWarning,
            stacklevel=3,
        )
        return 0


def _nothing(*_: Any, **__: Any) -> None:
    """Instead of ``self.log``: there is no Trainer to log to."""


def _copy(module: Any) -> Any:
    trainer, fabric = getattr(module, "_trainer", None), getattr(module, "_fabric", None)
    return copy.deepcopy(module, {id(x): None for x in (trainer, fabric) if x is not None})


def _again(module: Any) -> Any:
    """A new module of the same class and arguments; refuse where the arguments are not all known."""
    kind = type(module)
    takes = list(inspect.signature(kind.__init__).parameters.values())[1:]
    named = [p.name for p in takes if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    any_name = any(p.kind is p.VAR_KEYWORD for p in takes)
    known = copy.deepcopy(dict(module.hparams))
    whole = getattr(module, "_hparams_name", None)  # save_hyperparameters(config): one argument holds them all
    if whole in named:
        known = {whole: type(module.hparams)(known)}
    unknown = [n for n in named if n not in known]
    if unknown or any(p.kind is p.POSITIONAL_ONLY for p in takes):
        raise TaskError(
            f"module: a fresh {kind.__name__} cannot be made, since module.hparams holds no "
            f"{', '.join(map(repr, unknown)) or 'positional-only arguments'}; call self.save_hyperparameters() in "
            f"its __init__, or give a function, task(lambda seed: {kind.__name__}(...)), or start='given' to begin "
            "every run at a copy of this one"
        )
    return _explained("__init__", lambda: kind(**{k: v for k, v in known.items() if any_name or k in named}))


def _check(module: Any) -> None:
    who = type(module).__name__
    if not module.automatic_optimization:
        raise TaskError(
            f"module: {who} optimizes manually, so its training_step makes updates and is no loss; give a "
            "lrs.Task(build=, loss_fn=, train=) with the loss you mean"
        )
    if not _overrides(module, "training_step"):
        raise TaskError(f"module: {who} has no training_step, so there is no loss; write one")
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise TaskError(
            f"module: the training_step of {who} reads from dataloader_iter, expected batch; give a "
            "lrs.Task(build=, loss_fn=, train=) that takes a batch"
        )


def _overrides(owner: Any, hook: str) -> bool:
    """Whether ``hook`` is the user's own, not Lightning's."""
    home = next((c.__module__ for c in type(owner).__mro__ if hook in vars(c)), "lightning.")
    return hook in vars(owner) or home.split(".")[0] not in ("lightning", "pytorch_lightning")


def _loader(owner: Any, of: Literal["train", "val"]) -> Any:
    """The batches of a hook, or ``None`` where the user wrote none."""
    hook = f"{of}_dataloader"
    if not _overrides(owner, hook):
        return None
    made = _explained(hook, getattr(owner, hook))
    if isinstance(made, list | tuple) and len(made) == 1:
        made = made[0]
    several = isinstance(made, Mapping) or (isinstance(made, list | tuple) and any(map(_is_loader, made)))
    if several or type(made).__name__ == "CombinedLoader":
        argument = "train" if of == "train" else "evaluate"
        raise TaskError(
            f"{argument}: {hook} gives several loaders ({type(made).__name__}), expected one; say which batches are "
            f"meant with {argument}="
        )
    return made


def _is_loader(value: Any) -> bool:
    return hasattr(value, "dataset") or hasattr(value, "batch_sampler")


@dataclass
class _Steps:
    """``loss_fn``: the module's own steps, ``training_step`` in train mode, ``validation_step`` in eval mode."""

    data: Any  # the datamodule, for its batch hooks
    validates: bool

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        which = "validation_step" if self.validates and not model.training else "training_step"
        loss = self.loss_of(model, batch, which)
        if loss is None:
            raise TaskError(
                f"loss_fn: {which} returned no loss; return the loss, or a dict with the key 'loss' (Lightning "
                "leaves a batch out when the step returns None; lrscope needs a loss for each)"
            )
        return loss

    def loss_of(self, model: Any, batch: Batch, which: str) -> Tensor | None:
        def run() -> Any:
            ready = batch
            for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
                owner = self.data if self.data is not None and _overrides(self.data, hook) else model
                ready = getattr(owner, hook)(ready, 0)
            step = getattr(model, which)
            try:
                return step(ready, 1) if takes_index(step) else step(ready)
            except AttributeError as error:
                hooks = [hook for hook in _HOOKS if _overrides(model, hook)]
                if error.obj is not model or not hooks:
                    raise
                raise TaskError(
                    f"{which}: {error}; the module's hooks ({', '.join(hooks)}) are run by a Trainer only, so set in "
                    "__init__ or setup what a step needs"
                ) from error

        out = _explained(which, run)
        return out.get("loss") if isinstance(out, Mapping) else out


def takes_index(step: Any) -> bool:
    parameters = inspect.signature(step).parameters.values()
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) > 1 or any(
        p.kind is p.VAR_POSITIONAL for p in parameters
    )


def _validation_gives_a_loss(made: Task, steps: _Steps) -> bool:
    """Tried once on the first evaluation batch: many a ``validation_step`` logs its loss and returns nothing."""
    if made.evaluate is None:
        return False
    model = made.model(0)
    first = made.batches(1, of="evaluate")
    if not first or not _overrides(model, "validation_step"):
        return False
    batch = first[0][0] if isinstance(made.loss_fn, _Mean) else first[0]
    with isolated_rng(0), mode_of(model, training=False), torch.no_grad():
        loss = steps.loss_of(model, batch, "validation_step")
    return isinstance(loss, Tensor) and loss.ndim == 0


def _explained(hook: str, call: Callable[[], Any]) -> Any:
    """What ``call`` returns; where it asks for the Trainer, an error that says what to do."""
    try:
        return call()
    except RuntimeError as error:
        if "not attached to a `Trainer`" not in str(error):
            raise
        raise TaskError(
            f"{hook}: it uses self.trainer, which exists only inside Trainer.fit; read what it needs from "
            "self.hparams or an argument, or give a lrs.Task(build=, loss_fn=, train=) with the loss you mean"
        ) from error


class Grouped:
    """Batches in tuples of ``num``, as gradient accumulation adds them up; the last may be smaller."""

    def __init__(self, batches: Iterable[Batch], num: int) -> None:
        self.batches, self.num = batches, num
        # What draws, so that the order of the data is that of a seed; see lrscope.tasks.BatchStream.
        self.sampler = getattr(batches, "sampler", None)
        self.batch_sampler = getattr(batches, "batch_sampler", None)
        self.generator = getattr(batches, "generator", None)

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        batches = iter(self.batches)
        while group := tuple(islice(batches, self.num)):
            yield group


@dataclass(frozen=True)
class _Mean:
    """The mean of ``fn`` over a group's batches, each counting the same, as Lightning weights them."""

    fn: Callable[[nn.Module, Batch], Tensor]

    def __call__(self, model: nn.Module, group: tuple[Batch, ...]) -> Tensor:
        return torch.stack([torch.as_tensor(self.fn(model, batch)) for batch in group]).mean()


@dataclass(frozen=True)
class _Sum:
    fn: Callable[[Batch], int]

    def __call__(self, group: tuple[Batch, ...]) -> int:
        return sum(map(self.fn, group))
