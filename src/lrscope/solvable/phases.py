"""The three phases of the learning rate: predicted by the curvature at the start, and measured by training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrscope.solvable.dynamics import Dynamics, follow, positive
from lrscope.solvable.trajectory import Phase

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {"lazy": ("#0a64b4", "o"), "catapult": ("#c4500b", "^"), "divergent": ("#6b707a", "x")}
"""Colour and marker of a phase; blue, vermilion and grey are told apart with every common colour blindness."""
WORDS = {"lazy": "loss falls all the way", "catapult": "loss jumps, then settles flatter", "divergent": "diverges"}


class Phased(Dynamics):
    """A two-layer linear model: its phases, and the picture of them."""

    @property
    def kernel(self) -> float:
        """Curvature at the start: the largest eigenvalue of the kernel, that of the Hessian up to O(1 / sqrt N)."""
        return self._first["kernel"]

    @property
    def critical_lr(self) -> float:
        """2 / kernel: above it the loss rises before it falls."""
        return 2 / self.kernel

    @property
    def max_lr(self) -> float:
        """4 / kernel: from here on training diverges."""
        return 4 / self.kernel

    def phase(self, lr: float) -> Phase:
        """The phase that is predicted for a learning rate."""
        positive(lr=lr)
        if lr < self.critical_lr:
            return "lazy"
        return "catapult" if lr < self.max_lr else "divergent"

    def phase_diagram(self, lr: Sequence[float] | None = None, *, seeds: int = 8, steps: int = 1000) -> PhaseDiagram:
        """Train over learning rates and seeds, all at once, and hold what happens against the prediction.

        Args:
            lr: Learning rates times each seed's own curvature at the start; by default 0.05, 0.15 ... 4.95.
            seeds: Number of seeds, counted from the model's own.
            steps: Updates at most.

        Returns:
            :class:`PhaseDiagram`. Cost: as one run; 50 rates x 8 seeds x 1,000 steps take a fraction of a second.
        """
        if not isinstance(seeds, int) or seeds < 1:
            raise ValueError(f"seeds: expected an integer of 1 or more, got {seeds!r}")
        c = (
            torch.linspace(0.05, 4.95, 50, dtype=torch.float64)
            if lr is None
            else torch.as_tensor(lr, dtype=torch.float64)
        )
        if c.ndim != 1 or not bool((c > 0).all()):
            raise ValueError(f"lr: expected positive learning rates in units of 1 / kernel, got {lr!r}")
        own: Any = self
        drawn = [replace(own, seed=own.seed + k) for k in range(seeds)]
        state = tuple(torch.cat(parts).repeat(len(c), *[1] * (parts[0].ndim - 1)) for parts in _starts(drawn))
        rates = (c[:, None] / torch.tensor([model.kernel for model in drawn], dtype=torch.float64)).reshape(1, -1)
        run = follow(self, state, rates, steps)

        def grid(values: Tensor) -> NDArray[np.float64]:
            return values.reshape(len(c), seeds).numpy()

        return PhaseDiagram(
            model=str(self),
            c=c.numpy(),
            lr=grid(rates),
            kernel=np.array([model.kernel for model in drawn]),
            peak_ratio=grid(run.peak_ratio),
            final_loss=grid(run.final_loss),
            final_curvature=grid(run.final_curvature),
            measured=np.array(run.phase).reshape(len(c), seeds),
            status=np.array(run.status).reshape(len(c), seeds),
            steps=steps,
        )


def _starts(models: list[Any]) -> list[tuple[Tensor, ...]]:
    return list(zip(*(model._start() for model in models), strict=True))


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """What happened at C learning rates and S seeds.

    Attributes:
        model: What was trained, in a line.
        c: Learning rate times the curvature at the start, ``(C,)``; predicted boundaries are at 2 and 4.
        lr: Learning rates, ``(C, S)``.
        kernel: Curvature at the start, ``(S,)``.
        peak_ratio: Largest loss over the initial one, ``(C, S)``; ``inf`` where diverged.
        final_loss, final_curvature: At the end, ``(C, S)``; ``nan`` where diverged.
        measured: Phase that was seen, ``(C, S)``.
        status: ``"converged"``, ``"running"`` or ``"diverged"``, ``(C, S)``.
        steps: Updates at most.
    """

    model: str
    c: NDArray[np.float64]
    lr: NDArray[np.float64]
    kernel: NDArray[np.float64]
    peak_ratio: NDArray[np.float64]
    final_loss: NDArray[np.float64]
    final_curvature: NDArray[np.float64]
    measured: NDArray[np.str_]
    status: NDArray[np.str_]
    steps: int

    @property
    def predicted(self) -> NDArray[np.str_]:
        """Phase by the curvature at the start, ``(C, S)``."""
        by_rate = np.where(self.c < 2, "lazy", np.where(self.c < 4, "catapult", "divergent"))
        return np.repeat(by_rate[:, None], len(self.kernel), 1)

    @property
    def agreement(self) -> float:
        """Share of the cells in which the phase seen is the one predicted."""
        return float((self.predicted == self.measured).mean())

    def boundary(self, phase: Phase) -> NDArray[np.float64]:
        """Smallest c at which each seed was in ``phase`` or beyond, ``(S,)``; ``inf`` if it never was."""
        order = ["lazy", "catapult", "divergent"]
        beyond = np.isin(self.measured, order[order.index(phase) :])
        return np.where(beyond.any(0), self.c[beyond.argmax(0)], np.inf)

    def __str__(self) -> str:
        return (
            f"{self.model}: {self.measured.size} runs, {len(self.c)} learning rates x {len(self.kernel)} seeds; "
            f"{self.agreement:.1%} in the phase predicted by the curvature at the start"
        )

    def plot(self, figure: Figure | None = None) -> Figure:
        """Draw how high the loss went and how curved the place is where each run ended, against the learning rate.

        Args:
            figure: Where; a new one by default.

        Returns:
            The figure; nothing is shown or saved.
        """
        if figure is None:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(7, 5.5), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        c = np.repeat(self.c[:, None], len(self.kernel), 1)
        top = 3 * max(10.0, float(self.peak_ratio[np.isfinite(self.peak_ratio)].max()))
        height = np.where(np.isfinite(self.peak_ratio), self.peak_ratio, top)
        curvature = self.final_curvature / self.kernel
        for phase, (colour, marker) in LOOKS.items():
            here = self.measured == phase
            look = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 4, "alpha": 0.75}
            upper.plot(c[here], height[here], label=WORDS[phase], **look)
            lower.plot(c[here], curvature[here], **look)
        inside = np.linspace(max(1.0, float(self.c.min())), float(self.c.max()), 200)
        lower.plot(inside, 2 / inside, color="#1c1e22", linewidth=1.2, linestyle=(0, (5, 2)))
        lower.annotate(
            "stable below 2 / lr", (inside[len(inside) // 2], 2 / inside[len(inside) // 2]), (4, 6),
            textcoords="offset points", fontsize="small",
        )  # fmt: skip
        for ax in (upper, lower):
            for edge in (2, 4):
                ax.axvline(edge, color="#1c1e22", linewidth=1.0)
        for edge, text in ((2, "2: the loss jumps"), (4, "4: diverges")):  # above the axes, where no run can be
            upper.annotate(text, (edge, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize="small")
        upper.set_yscale("log")
        upper.set_ylabel("largest loss / initial loss")
        lower.set_ylim(0, max(1.15, 1.05 * float(np.nanmax(curvature))))
        lower.set_ylabel("final curvature / initial")
        lower.set_xlabel("learning rate x curvature at the start (lines: predicted boundaries)")
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
        return figure
