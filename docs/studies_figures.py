"""The figures of the pages on studies and on distillation; two minutes of one core.

OMP_NUM_THREADS=1 python docs/studies_figures.py [restarts] [warmup] [distillation] [temperature] [compare]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrscope import studies, tasks
from lrscope.papers.gotmare2018 import distillation as distilled
from lrscope.papers.gotmare2018 import restarts as restarted
from lrscope.papers.gotmare2018 import warmup as warmed
from lrscope.papers.gotmare2018.networks import cnn, digits, mlp, shallow, task, with_weights
from lrscope.reports.figures.studies import panels
from lrscope.reports.figures.style import colour
from lrscope.schedules import Cosine
from lrscope.studies.runs import loaded, trained

IMAGES = Path(__file__).parent / "images"


def restarts() -> Any:
    """The setting of gotmare2018/restart-barriers, one seed, with curves for 20 epochs each."""
    which = task(partial(mlp, depth=4), name="restarts", **restarted.MEMORIZING)
    found = studies.restarts(which, restarted.OPTIMIZER, lr=0.1, period=250, curve_steps=1000, curve_lr=0.03)
    print(found)
    return found.figure()


def warmup() -> Any:
    """The setting of gotmare2018/warmup-rescues, one seed, beside a small batch."""
    which, small = (task(cnn, batch_size=size, name=f"batch-{size}") for size in (warmed.BATCH, 25))
    found = studies.warmup(
        which, warmed.OPTIMIZER, lr=warmed.LR, warmup_steps=warmed.WARMUP, steps=warmed.STEPS, deep=warmed.stack(),
        small=(small, warmed.LR / 10), seed=1,
    )  # fmt: skip
    print(found)
    return found.figure()


def distillation() -> Any:
    """The setting of gotmare2018/knowledge-in-deep-layers, with readable names of layers."""
    found = distilled.study((0, 1, 2, 3), 1.0)
    print(found)
    return replace(
        found,
        student_layers=_names(shallow(0)),
        teacher_layers=_names(cnn(0)),
    ).figure()


def _names(model: nn.Module) -> tuple[str, ...]:
    kinds = ((nn.Conv2d, "conv"), (nn.Linear, "fc"))
    return tuple(f"{name}{i}" for kind, name in kinds for i, _ in enumerate(with_weights(model, kind), start=1))


def temperature() -> Any:
    """What a teacher tells of three digits, at three temperatures."""
    model, data = distilled.teacher(), digits()
    with torch.no_grad():
        z = model(data.test_x)
    entropy = torch.distributions.Categorical(logits=z / 5).entropy()
    shown = [int(entropy.argsort()[int(q * len(entropy))]) for q in (0.5, 0.9, 0.98)]
    figure, axes = panels(4, 2.6)
    axes[3].remove()
    for ax, i in zip(axes, shown, strict=False):
        for k, (tau, tone) in enumerate(((1, "planned"), (5, "default"), (20, "cosine"))):
            q = torch.softmax(z[i] / tau, -1)
            ax.bar(
                [c + 0.27 * (k - 1) for c in range(10)], q, width=0.25, color=colour(tone), label=f"temperature {tau}"
            )
        ax.set_title(f"A test image of a {int(data.test_y[i])}")
        ax.set_xticks(range(10))
        ax.set_xlabel("digit")
        ax.set_ylabel("teacher's probability")
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def compare() -> Any:
    """Two perceptrons of other seeds on the built-in digits."""
    which = tasks.digits()
    ends = [
        trained(which, "sgd", Cosine(0.1, 0.0, 500), 500, {500}, name="x", seed=seed, out=None)[1][500]
        for seed in (0, 1)
    ]
    models = [loaded(which, state) for state in ends]
    found = studies.compare(which, *models, curve="bezier", names=("seed 0", "seed 1"))
    print(found)
    return found.figure()


FIGURES: dict[str, Callable[[], Any]] = {
    "restarts": restarts,
    "warmup": warmup,
    "distillation": distillation,
    "temperature": temperature,
    "compare": compare,
}


def save(figure: Any, path: Path) -> None:
    """As a PNG of 64 colours: a third of the size, and nobody can tell."""
    from PIL import Image

    figure.savefig(path, dpi=90)
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or FIGURES:
        figure = FIGURES[name]()
        save(figure, IMAGES / f"study_{name}.png")
        print(name, (IMAGES / f"study_{name}.png").stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main(sys.argv[1:])
