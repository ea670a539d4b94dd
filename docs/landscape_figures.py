"""The pictures of the page on landscapes, and the numbers beside them.

python docs/landscape_figures.py         # about two minutes on one core; writes docs/images/landscape_*.svg and .png
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import torch
from matplotlib import pyplot
from torch import nn

from lrscope import landscape
from lrscope.tasks import BatchStream, Task, digits

IMAGES = Path(__file__).parent / "images"
LINES: dict[str, dict[str, Any]] = {
    "straight line": {"color": "#c4500b", "linestyle": (0, (5, 2))},
    "aligned, straight": {"color": "#7a4fa3", "linestyle": (0, (1.2, 1.2))},
    "Bezier curve": {"color": "#0a64b4", "linestyle": "-"},
    "chain": {"color": "#08805f", "linestyle": (0, (6, 1.5, 1.2, 1.5))},
}
"""Lines differ in dash as well as in colour."""


def convolutional(seed: int) -> nn.Module:  # noqa: ARG001 - the generators are seeded
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


TASKS: dict[str, Task] = {
    "MLP": digits(),
    "BatchNorm CNN": dataclasses.replace(digits(), build=convolutional, name="digits-bn"),
}


def trained(
    task: Task, seed: int, *, steps: int = 500, keep: int | None = None
) -> tuple[nn.Module, list[torch.Tensor]]:
    """SGD with momentum 0.9 at 0.05; iterates after every ``keep`` steps as vectors."""
    model, stream, kept = task.model(seed), BatchStream(task.train, seed), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        if keep is not None and step % keep == 0:
            kept.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        optimizer.zero_grad()
        task.loss_fn(model, next(stream)).backward()
        optimizer.step()
    kept.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return model, kept


def connected() -> None:
    """Four ways from one network to another, for two architectures; a table of their barriers."""
    figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained", sharey=True)
    print("| network | path | training loss | test loss | test error | length |\n|---|---|---|---|---|---|")
    for ax, (name, task) in zip(axes, TASKS.items(), strict=True):
        a, b = (trained(task, seed)[0] for seed in (0, 1))
        aligned = landscape.align(a, b)
        curves = {"Bezier curve": landscape.connect(task, a, b), "chain": landscape.connect(task, a, b, kind="chain")}
        found = {
            "straight line": landscape.barrier(task, a, b),
            "aligned, straight": landscape.barrier(task, a, aligned.model),
            **{key: curve.barrier for key, curve in curves.items()},
        }
        for key, barrier in found.items():
            barrier.plot(ax, label=key, linewidth=1.8, **LINES[key])
            each = [barrier.on(of) for of in ("train_loss", "test_loss", "test_error")]
            length = barrier.profile.travelled[-1]
            print(f"| {name} | {key} | {' | '.join(f'{e.height:.3f}' for e in each)} | {length:.1f} |")
        ax.set_title(name, loc="left")
        finish(ax)
        ax.get_legend().remove()
        if name == "MLP":
            seen = [curves["Bezier curve"](t / 20) for t in range(21)]
            surface(landscape.plane(task, a, b, curves["Bezier curve"].bends[0]), "plane", seen)
    axes[1].set_ylabel("")
    axes[0].set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    save(figure, "connected")


def statistics() -> None:
    """What the line shows if BatchNorm keeps the statistics of its first end."""
    task = TASKS["BatchNorm CNN"]
    a, b = (trained(task, seed)[0] for seed in (0, 1))
    other = {k: (a.state_dict()[k] if "running" in k else v) for k, v in b.state_dict().items()}
    right = landscape.barrier(task, a, b, of="test_loss")
    wrong = landscape.barrier(task, a, other, of="test_loss", refresh=False)
    figure, ax = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
    right.plot(ax, label="statistics recomputed", linewidth=1.8, **LINES["Bezier curve"])
    wrong.plot(ax, label="statistics of a everywhere", linewidth=1.8, **LINES["straight line"])
    finish(ax)
    save(figure, "statistics")
    print(f"statistics: right {right}\n            wrong {wrong}")


def trajectory() -> None:
    """A run on the plane of its own principal components."""
    task = TASKS["MLP"]
    _, kept = trained(task, 0, keep=15)
    found = landscape.pca_plane(task, kept)
    surface(found, "trajectory")
    lost = found.trajectory.lost[:-1]
    print(f"trajectory: {found}; lost {lost.min():.2f} ... {lost.max():.2f}")


def around() -> None:
    """Random directions around both networks, at the same scale, and curvature along a curve."""
    figure, axes = pyplot.subplots(1, 2, figsize=(8.8, 3.6), layout="constrained")
    for ax, (name, task) in zip(axes, TASKS.items(), strict=True):
        model, _ = trained(task, 0)
        found = landscape.random_plane(task, model, num_points=21)
        found.plot(ax)
        ax.set_title(name, loc="left")
        print(f"around {name}: {landscape.random_directions(task, model)}")
    axes[1].set_ylabel("")
    figure.savefig(IMAGES / "landscape_around.png", dpi=110)
    pyplot.close(figure)


def sharpness() -> None:
    task = TASKS["MLP"]
    a, b = (trained(task, seed)[0] for seed in (0, 1))
    curve = landscape.connect(task, a, b)
    figure, ax = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
    for key, path in (("Bezier curve", curve), ("straight line", [a, b])):
        found = landscape.curvature(task, path, num_points=21, num_batches=15)
        found.plot(ax, of="sharpness", label=key, linewidth=1.8, **LINES[key])
        print(f"sharpness, {key}: {found}")
    finish(ax)
    ax.set_ylim(bottom=0)
    save(figure, "sharpness")


def surface(found: landscape.Plane, name: str, seen: Any = None) -> None:
    figure, ax = pyplot.subplots(figsize=(6.0, 3.6), layout="constrained")
    found.plot(ax, trajectory=seen)
    figure.savefig(IMAGES / f"landscape_{name}.png", dpi=110)
    pyplot.close(figure)


def finish(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e3e5e9", linewidth=0.7)
    ax.set_axisbelow(True)


def save(figure: Any, name: str) -> None:
    matplotlib.rcParams["svg.hashsalt"] = name
    figure.savefig(IMAGES / f"landscape_{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for draw in (connected, statistics, trajectory, around, sharpness):
        draw()
