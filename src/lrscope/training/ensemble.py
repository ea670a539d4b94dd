"""Several trained models as one, and whether that is better than one of them."""

from __future__ import annotations

import copy
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrscope.errors import MeasurementError, TaskError
from lrscope.records import Cost
from lrscope.tasks import BatchStream, Task
from lrscope.training import checkpoint
from lrscope.training.evaluate import evaluated

State = Mapping[str, Any] | Path | str
Combine = Literal["probabilities", "mean"] | Callable[[Sequence[Any]], Any]


class Ensemble(nn.Module):
    """Models of one architecture that answer together; called like one of them.

    Args:
        model: The architecture; copied for each member, and left as it is.
        states: State dicts, or files of them such as :func:`~lrscope.training.snapshots.members_of` gives.
        combine: ``"probabilities"``: outputs are logits over the last dimension, and the answer is the logarithm of
            the members' mean probability, logits again, so losses and metrics need not know. ``"mean"``: the mean of
            the outputs, for regression. Or a function from the list of outputs to the answer.

    Raises:
        ValueError: No states, an unknown ``combine``, or a state of another model.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> both = Ensemble(net, [net.state_dict(), {k: -v for k, v in net.state_dict().items()}])
        >>> both(torch.zeros(1, 2)).exp().sum().round(decimals=4).item()
        1.0
    """

    def __init__(self, model: nn.Module, states: Iterable[State], *, combine: Combine = "probabilities") -> None:
        super().__init__()
        if not callable(combine) and combine not in _COMBINE:
            raise ValueError(f"combine: expected 'probabilities', 'mean' or a function, got {combine!r}")
        states = _listed(states)
        self.combine = combine if callable(combine) else _COMBINE[combine]
        self.members = nn.ModuleList([_loaded(model, state, i) for i, state in enumerate(states)])

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.combine([member(*inputs, **options) for member in self.members])


@dataclass(frozen=True)
class EnsembleResult:
    """Members and ensemble on the evaluation set.

    Attributes:
        members: Scores of each member, ``eval_loss`` and the task's metrics.
        rejected: Indices of members that were left out of the ensemble.
        ensemble: Scores of the others together.
        disagreement: Share of the examples on which two members answer differently, mean over pairs; ``None`` where
            outputs are no scores over classes, or where one member is left.
        cost: Forward passes over a training batch.
    """

    members: tuple[Mapping[str, float], ...]
    rejected: tuple[int, ...]
    ensemble: Mapping[str, float]
    disagreement: float | None
    cost: Cost

    def mean(self, name: str = "eval_loss") -> float:
        """Mean score of the members that were kept."""
        return statistics.fmean(self._kept(name))

    def spread(self, name: str = "eval_loss") -> float:
        """Standard deviation over the members that were kept; ``nan`` for one."""
        kept = self._kept(name)
        return statistics.stdev(kept) if len(kept) > 1 else math.nan

    def _kept(self, name: str) -> list[float]:
        return [scores[name] for i, scores in enumerate(self.members) if i not in self.rejected]

    def __str__(self) -> str:
        lines = []
        for name in self.ensemble:
            kept = self._kept(name)
            lines.append(
                f"{name}: ensemble of {len(kept)} {self.ensemble[name]:.4g}; one member {self.mean(name):.4g} "
                f"(standard deviation {self.spread(name):.2g}), the last one {kept[-1]:.4g}"
            )
        if self.disagreement is not None:
            lines.append(f"two members disagree on {self.disagreement:.1%} of the examples")
        if self.rejected:
            lines.append(f"left out, as their loss is far above the best member's: {_named(self.rejected)}")
        return "\n".join(lines)


def ensemble(
    task: Task, states: Iterable[State], *, combine: Combine = "probabilities", reject: float | None = 0.5
) -> EnsembleResult:
    """Judge trained models one by one and together, on the task's evaluation set.

    Args:
        task: Its ``loss_fn`` and metrics call the model; the ensemble is called in its place.
        states: One per member, as for :class:`Ensemble`.
        combine: As for :class:`Ensemble`.
        reject: A member is left out if its loss is above the best member's by more than this share of what training
            has gained: of the fresh model's loss less the best one's. So a diverged member does no harm. One whose
            loss is not finite is always left out. ``None`` keeps all others. Choosing by the evaluation set flatters
            the ensemble a little; with the default only wrecks are chosen against.

    Cost: two passes over the evaluation set per member, for the loss and as often again for each metric, and one of a
    fresh model.

    Raises:
        TaskError: The task has no evaluation set.
        ValueError: Of an argument, or a state of another model.
        MeasurementError: No member has a finite loss, or outputs cannot be combined in this way.
    """
    if task.evaluate is None:
        raise TaskError("Task(evaluate=): there is no evaluation set, so members and ensemble cannot be judged")
    if reject is not None and not (isinstance(reject, int | float) and math.isfinite(reject) and reject >= 0):
        raise ValueError(f"reject: expected a share of 0 or more, or None, got {reject!r}")
    states = _listed(states)
    model = task.model(0)
    fresh, examples = evaluated(task, model)
    scores = []
    for i, state in enumerate(states):
        found, seen = evaluated(task, _loaded(model, state, i))
        scores.append(found)
        examples += seen
    losses = [s["eval_loss"] if math.isfinite(s["eval_loss"]) else math.inf for s in scores]
    best = min(losses)
    if best == math.inf:
        raise MeasurementError(f"states: none of the {len(states)} members has a finite loss, so none can be used")
    limit = math.inf if reject is None else best + reject * max(fresh["eval_loss"] - best, 0.0)
    rejected = tuple(i for i, loss in enumerate(losses) if loss == math.inf or loss > limit)
    together = Ensemble(model, [s for i, s in enumerate(states) if i not in rejected], combine=combine)
    tally, base = _Disagreement(), together.combine

    def combining(outputs: Sequence[Any]) -> Any:
        tally(outputs)
        return base(outputs)

    together.combine = combining
    found, seen = evaluated(task, together)
    examples += seen * len(together.members)
    batch_size = task.count(next(BatchStream(task.train)))
    return EnsembleResult(tuple(scores), rejected, found, tally.share, Cost(forwards=examples / batch_size))


def _mean_probability(outputs: Sequence[Any]) -> Tensor:
    return _stacked(outputs).log_softmax(-1).logsumexp(0) - math.log(len(outputs))


def _mean(outputs: Sequence[Any]) -> Tensor:
    return _stacked(outputs).mean(0)


_COMBINE: dict[str, Callable[[Sequence[Any]], Any]] = {"probabilities": _mean_probability, "mean": _mean}


def _stacked(outputs: Sequence[Any]) -> Tensor:
    for output in outputs:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            what = f"a tensor of {output.dtype}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise MeasurementError(
                f"combine: the model returns {what}, which has no mean; give combine= a function from the members' "
                "outputs to one"
            )
    return torch.stack(tuple(outputs))


class _Disagreement:
    """Counts, in passing, how often two members' largest outputs differ."""

    def __init__(self) -> None:
        self.differ, self.seen = 0.0, 0

    def __call__(self, outputs: Sequence[Any]) -> None:
        if len(outputs) < 2 or not all(isinstance(o, Tensor) and o.ndim > 1 and o.shape[-1] > 1 for o in outputs):
            return
        answers = [o.argmax(-1) for o in outputs]
        pairs = [float((a != b).double().mean()) for a, b in itertools.combinations(answers, 2)]
        self.differ += statistics.fmean(pairs) * answers[0].numel()
        self.seen += answers[0].numel()

    @property
    def share(self) -> float | None:
        return self.differ / self.seen if self.seen else None


def _listed(states: Iterable[State]) -> list[State]:
    if isinstance(states, Mapping | str | Path):
        raise ValueError("states: expected a list, one state per member; for a folder give members_of(folder)")
    found = list(states)
    if not found:
        raise ValueError("states: empty, so there is no member; give one state per member")
    return found


def _loaded(model: nn.Module, state: State, index: int) -> nn.Module:
    """A copy of ``model`` with this state."""
    if isinstance(state, Path | str):
        saved = checkpoint.load(Path(state))
        state = saved.get("model", saved)
    assert isinstance(state, Mapping)
    member = copy.deepcopy(model)
    try:
        member.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())
        raise ValueError(f"states: member {index} is not of this model: {first[:200]}") from None
    return member


def _named(indices: Sequence[int]) -> str:
    return "member " + ", ".join(str(i) for i in indices)
