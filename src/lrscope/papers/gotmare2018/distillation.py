"""Distillation: which layers of a student take over what its teacher knows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import nn

from lrscope import studies
from lrscope.papers.claim import Curves, Holds, Numbers, claim, spread
from lrscope.papers.gotmare2018.networks import cnn, shallow, task, with_weights
from lrscope.studies.runs import loaded, trained, with_drops

FEW, EPOCHS, BATCH = 200, 150, 50
HARD_LR, SOFT_LR, MIXED_LR = 0.05, 0.004, 0.006
"""Rates by loss. The first two are those of the fact sheet's pilot; the third is between, for a loss that is half of
each, and was not tuned."""


@cache
def teacher() -> nn.Module:
    """The convolutional network on 1,000 images, trained at an ordinary rate for 30 epochs."""
    which = task(cnn, batch_size=BATCH, name="teacher")
    steps = 30 * 20
    _, states = trained(
        which,
        "sgd(momentum=0.9)",
        with_drops(0.05, steps, (0.5, 0.75)),
        steps,
        {steps},
        name="teacher",
        seed=7,
        out=None,
    )
    return loaded(which, states[steps])


@cache
def study(seeds: tuple[int, ...], weight: float) -> studies.Distillation:
    which, rate = task(shallow, batch_size=BATCH, num_train=FEW, name="few"), SOFT_LR if weight == 1 else MIXED_LR
    steps = EPOCHS * FEW // BATCH
    return studies.distillation(
        which, teacher(), lr=HARD_LR, distilled_lr=rate, weight=weight, temperature=5.0, steps=steps, seeds=seeds
    )


def _deep_and_shallow(found: studies.Distillation) -> tuple[Numbers, Holds, Curves]:
    sizes = found.by_layer
    conv, deep = ([sizes[name] for name in with_weights(shallow(0), kind)] for kind in (nn.Conv2d, nn.Linear))
    numbers: dict[str, Any] = {
        "difference by layer": list(sizes.values()),
        "between seeds alone": list(found.noise_by_layer.values()),
        "layers": list(sizes),
        "smallest deep over largest shallow": min(deep) / max(conv),
    }
    holds = {"each of the three deep layers twice each convolution, or more": min(deep) >= 2 * max(conv)}
    curves = {kind: table.mean(0).tolist() for kind, table in found.matrices.items()}
    return numbers, holds, {"teacher": list(found.teacher_layers), **curves, "difference": found.difference.tolist()}


@claim(
    "gotmare2018/distillation-helps",
    "A student that learns from its teacher's soft answers beats the same student on labels",
    where="section on distillation",
    sure="recalled",
    shows=["accuracy", "gain"],
    headline=True,
)
def distillation_helps(seeds: Sequence[int] = (0, 1, 2, 3)) -> tuple[Numbers, Holds]:
    """Two small convolutions and a stack of three layers, 200 images, 150 epochs; the teacher saw 1,000 images.
    Temperature 5, the loss times its square, each loss at a rate of its own.
    """
    found = study(tuple(seeds), 1.0)
    numbers = {"accuracy": {kind: spread(found.scores[kind]["accuracy"]) for kind in ("distilled", "alone")}}
    return numbers | {"gain": found.gain()}, {"mean gain of 0.02 or more": found.gain() >= 0.02}


@claim(
    "gotmare2018/knowledge-in-deep-layers",
    "What the teacher passes on goes mostly to the deep layers of the student",
    where="abstract (c); Fig. 6",
    sure="source",
    shows=["difference by layer", "smallest deep over largest shallow"],
    unlike="every deep layer changes more than both convolutions, but the last less than twice the second",
)
def knowledge_in_deep_layers(seeds: Sequence[int] = (0, 1, 2, 3)) -> tuple[Numbers, Holds, Curves]:
    """The students of distillation-helps. SVCCA (99 % of the variance, 797 images, means over positions) of each
    student layer with each layer of the teacher, mean over seeds, distilled less alone; its absolute value, mean over
    the teacher's layers.
    """
    return _deep_and_shallow(study(tuple(seeds), 1.0))


@claim(
    "gotmare2018/with-labels-too",
    "It goes to the deep layers also where half of the loss is the labels'",
    where="abstract (c), with the loss of Hinton et al.",
    sure="inferred",
    shows=["difference by layer", "smallest deep over largest shallow"],
    unlike="the second convolution changes as much as the last layer does; the first one does not change",
)
def with_labels_too(seeds: Sequence[int] = (0, 1, 2, 3)) -> tuple[Numbers, Holds, Curves]:
    """As knowledge-in-deep-layers, with weight 0.5 on the teacher's answers and 0.5 on the labels."""
    return _deep_and_shallow(study(tuple(seeds), 0.5))
