"""What a run of a solvable model returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Status = Literal["converged", "running", "diverged"]
Phase = Literal["lazy", "catapult", "divergent"]

RISE = 1e-9
"""A loss counts as risen when it exceeds the initial one by this share; rounding stays below it."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Exact training of a solvable model, step by step.

    Attributes:
        model: What ran, in one line.
        columns: Quantities by name, each of shape ``(T+1,)`` for one learning rate and ``(T+1, K)`` for K of them;
            row 0 is the start. ``"loss"`` and ``"lr"`` are always there, and ``"kernel"`` or ``"sharpness"`` (what
            the learning rate has to stay below 2 over). From where a run diverged on, values are ``nan``.
        status: ``"converged"``, ``"running"`` (neither settled nor diverged within the steps) or ``"diverged"``;
            a tuple of K for K learning rates.
    """

    model: str
    columns: Mapping[str, Tensor] = field(repr=False)
    status: Status | tuple[Status, ...]

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    @property
    def loss(self) -> Tensor:
        return self.columns["loss"]

    @property
    def lr(self) -> Tensor:
        """Learning rate of the update that follows, same shape as ``loss``."""
        return self.columns["lr"]

    @property
    def curvature(self) -> Tensor:
        """``"kernel"`` where the model has one, else ``"sharpness"``; equal wherever the loss is zero."""
        return self.columns["kernel" if "kernel" in self.columns else "sharpness"]

    @property
    def steps(self) -> int:
        """Updates made; fewer than asked for if every run had settled or diverged."""
        return len(self.loss) - 1

    @property
    def peak_step(self) -> Tensor:
        """Where the loss was largest; shape ``()`` or ``(K,)``."""
        return _finite(self.loss).argmax(0)

    @property
    def peak_ratio(self) -> Tensor:
        """Largest loss over the initial one; ``inf`` where the run diverged."""
        highest = _finite(self.loss).amax(0) / self.loss[0]
        return highest.masked_fill(self._diverged, torch.inf)

    @property
    def final_loss(self) -> Tensor:
        return self.loss[-1]

    @property
    def final_curvature(self) -> Tensor:
        return self.curvature[-1]

    @property
    def phase(self) -> Phase | tuple[Phase, ...]:
        """What was seen: ``"divergent"``; ``"catapult"``, the loss rose above its start; or ``"lazy"``, never."""
        rose = self.peak_ratio > 1 + RISE
        if isinstance(self.status, str):
            return _phase(self.status, bool(rose))
        seen: tuple[Phase, ...] = tuple(_phase(s, up) for s, up in zip(self.status, rose.tolist(), strict=True))
        return seen

    @property
    def _diverged(self) -> Tensor:
        known = [self.status] if isinstance(self.status, str) else self.status
        return torch.tensor([s == "diverged" for s in known]).reshape(self.loss.shape[1:])

    def __str__(self) -> str:
        if not isinstance(self.status, str):
            counts = {s: self.status.count(s) for s in ("converged", "running", "diverged")}
            said = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
            return f"{self.model}: {len(self.status)} runs of {self.steps} steps: {said}"
        lr, seen = float(self.lr[0]), self.curvature
        if self.status == "diverged":
            return f"{self.model}, lr {lr:.4g}: diverged at step {int(torch.isnan(self.loss).int().argmax())}"
        story = "the loss never rose"
        if self.peak_ratio > 1 + RISE:
            story = f"the loss rose to {float(self.peak_ratio):.3g} x its start at step {int(self.peak_step)}"
        return (
            f"{self.model}, lr {lr:.4g}: {self.status} after {self.steps} steps; {story}; curvature "
            f"{float(seen[0]):.4g} -> {float(seen[-1]):.4g} (stable below 2 / lr = {2 / float(self.lr[-1]):.4g})"
        )

    def plot(self, ax: Axes | None = None, *, what: str = "loss") -> Axes:
        """Draw one quantity against the step, a line for each learning rate.

        Args:
            ax: Where; a new figure by default.
            what: A column; with ``"kernel"`` or ``"sharpness"`` the limit 2 / lr is drawn dashed.

        Returns:
            The axes; nothing is shown or saved.
        """
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6, 3.5), layout="constrained").add_subplot()
        values, rates = (t if t.ndim == 2 else t[:, None] for t in (self[what], self.lr))
        for k, (line, lr) in enumerate(zip(values.T, rates.T, strict=True)):
            label = f"lr {float(lr[0]):.3g}" if bool((lr == lr[0]).all()) else "schedule"
            drawn = ax.plot(line, label=label, linestyle=("-", (0, (5, 2)), (0, (1.2, 1.2)))[k % 3], linewidth=1.6)
            if what in ("kernel", "sharpness"):
                ax.plot(2 / lr, color=drawn[0].get_color(), linestyle=(0, (2, 3)), linewidth=1.0)
        ax.set_yscale("log" if bool((values[torch.isfinite(values)] > 0).all()) else "linear")
        ax.set_xlabel("step")
        ax.set_ylabel({"kernel": "curvature (kernel)"}.get(what, what))
        ax.legend(frameon=False)
        return ax


def _phase(status: Status, rose: bool) -> Phase:
    if status == "diverged":
        return "divergent"
    return "catapult" if rose else "lazy"


def _finite(values: Tensor) -> Tensor:
    return torch.where(torch.isfinite(values), values, -torch.inf)
