"""Checkpoints at the minima of a learning rate that goes up and down: the members of an ensemble, on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.training import checkpoint
from lrscope.training.probes import TrainState

_INDEX = "members.json"


class Snapshots:
    r"""Saves the model wherever the learning rate turns up again, and at the end of the run.

    Under restarts, waves, triangles or :class:`~lrscope.schedules.AutoEnsemble` those are the converged models, one
    per cycle. As a probe of :func:`lrscope.train` it needs nothing else; in a loop of your own call :meth:`look`
    before each ``optimizer.step()``, and :meth:`finish` after the last one. Each member is one file, written whole or
    not at all; :func:`members_of` reads them, :func:`~lrscope.training.ensemble` judges them.

    Its column ``distance`` is :math:`1 - \cos(\theta, \theta_m)` to the last member; ``AutoEnsemble`` listens to it.

    In several processes give the plain module, not its wrapper; the first process writes. A resumed run goes on
    with the members that its checkpoint knows.

    Args:
        folder: For the members of one run; made if need be.
        replace: Start over in a folder that has members: they are forgotten, and overwritten as new ones come.

    Raises:
        ValueError: At the first look: the folder has members, of another run or of one that left no checkpoint.

    Cost: a pass over the weights per update, a copy of them in memory, and a file per member.

    Example:
        >>> import tempfile
        >>> net, rates = torch.nn.Linear(2, 2), [1.0, 0.5, 0.1, 1.0, 0.5, 0.1]
        >>> snapshots = Snapshots(tempfile.mkdtemp())
        >>> for step, lr in enumerate(rates):
        ...     distance = snapshots.look(net, step, lr)["distance"]
        >>> snapshots.finish(net, len(rates))
        >>> [member["step"] for member in snapshots.members]
        [3, 6]
    """

    name = "snapshots"
    every: int | None = None

    def __init__(self, folder: Path | str, *, replace: bool = False) -> None:
        self.folder = Path(folder)
        self.members: list[dict[str, Any]] = []
        self._replace = replace
        self._begun = False
        self._fallen = False  # since the last member
        self._lr: float | None = None
        self._step = -1
        self._reference: dict[str, Tensor] | None = None  # the last member's trainable weights

    def __call__(self, state: TrainState) -> Mapping[str, float | None]:
        return self.look(state.model, state.step, state.lr)

    def look(self, model: nn.Module, step: int, lr: float) -> dict[str, float | None]:
        """Save ``model`` if its learning rate has fallen and now rises; and the distance to the last member.

        Args:
            model: As it is before update ``step``, for which the learning rate is ``lr``.
        """
        self._begin(step)
        lr = float(lr)
        if self._lr is not None and lr > self._lr and self._fallen:
            self._save(model, step, self._lr)
        elif self._lr is not None and lr < self._lr:
            self._fallen = True
        self._lr, self._step = lr, step
        return {"distance": self._distance(model) if self.members else None}

    def finish(self, model: nn.Module, step: int) -> None:
        """Save the model after the last update, the member of the last descent; once, however often it is called."""
        self._begin(step)
        if self._fallen or not self.members:
            self._save(model, step, self._lr)
        self._step = step

    def state_dict(self) -> dict[str, Any]:
        return {
            "members": [dict(m) for m in self.members],
            "fallen": self._fallen,
            "lr": self._lr,
            "step": self._step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.members = [dict(member) for member in state["members"]]
        self._fallen, self._lr, self._step = state["fallen"], state["lr"], state["step"]
        self._reference, self._begun = None, True
        self._write_index()  # without those that were saved after the checkpoint, and will be again

    def _begin(self, step: int) -> None:
        if step < self._step:
            raise ValueError(
                f"Snapshots: step {step} comes after step {self._step}; one object belongs to one run, make another"
            )
        if self._begun:
            return
        if not self._replace and (self.folder / _INDEX).exists() and members_of(self.folder):
            raise ValueError(
                f"Snapshots: {self.folder} has members of another run, or of one that left no checkpoint; give "
                "another folder, or replace=True to start over"
            )
        self._begun = True
        self._write_index()

    def _save(self, model: nn.Module, step: int, lr: float | None) -> None:
        file = f"member-{step:08d}.pt"
        if _writes():
            checkpoint.save(self.folder / file, {"step": step, "lr": lr, "model": model.state_dict()})
        self.members.append({"step": step, "lr": lr, "file": file})
        self._write_index()
        self._fallen = False
        self._reference = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def _write_index(self) -> None:
        if _writes():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{_INDEX}.partial"
            partial.write_text(json.dumps(self.members, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, self.folder / _INDEX)

    @torch.no_grad()
    def _distance(self, model: nn.Module) -> float:
        now = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if self._reference is None:
            saved = checkpoint.load(self.folder / self.members[-1]["file"])["model"]
            self._reference = {name: saved[name].to(p) for name, p in now.items()}
        sums = torch.stack(
            [
                torch.stack([_dot(p, then), _dot(p, p), _dot(then, then)])
                for p, then in ((p.detach(), self._reference[name]) for name, p in now.items())
            ]
        ).sum(0)
        across, one, other = sums.tolist()
        return 1 - across / (one * other) ** 0.5 if one > 0 and other > 0 else 1.0


def members_of(folder: Path | str) -> list[Path]:
    """Files of the members that :class:`Snapshots` saved in ``folder``, oldest first.

    Each is a dict for ``torch.load(weights_only=True)``: ``model``, a state dict, its ``step``, and the ``lr`` of the
    update before it.

    Raises:
        ValueError: No run has saved members there.
    """
    index = Path(folder) / _INDEX
    if not index.exists():
        raise ValueError(f"folder: {folder} has no {_INDEX}, so no members; train with Snapshots({str(folder)!r})")
    return [Path(folder) / member["file"] for member in json.loads(index.read_text(encoding="utf-8"))]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    kind = torch.float64 if a.device.type != "mps" else torch.float32
    return (a * b).sum(dtype=kind)


def _writes() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
