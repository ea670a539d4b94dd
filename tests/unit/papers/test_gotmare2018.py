"""The set-ups of gotmare2018, and that its criteria fail where the effect is not there."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lrscope import studies
from lrscope.landscape import Barrier, Profile
from lrscope.papers import claims
from lrscope.papers.gotmare2018 import connectivity, distillation, networks, restarts, warmup
from lrscope.records import Cost, Run
from lrscope.studies.restarts import Pair


def verdict(name, **settings):
    return claims(f"gotmare2018/{name}")[f"gotmare2018/{name}"](**settings)


def test_the_split_is_disjoint_and_wrong_labels_are_training_labels_alone():
    clean, noisy = networks.digits(), networks.digits(0.2)
    assert clean.x.shape == (1000, 64)
    assert len(clean.test_y) == 797
    assert len(torch.cat([clean.x, clean.test_x]).unique(dim=0)) >= 1797 - 5
    assert torch.equal(clean.test_y, noisy.test_y)
    assert 0.14 < float((clean.y != noisy.y).double().mean()) < 0.2
    assert float(clean.x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(clean.x.std()) == pytest.approx(1, abs=1e-5)


def test_networks_are_as_described():
    def sizes(model, kind):
        return [tuple(m.weight.shape[:2]) for m in model.modules() if isinstance(m, kind)]

    assert sizes(networks.mlp(0), nn.Linear) == [(64, 64), (64, 64), (10, 64)]
    assert len(sizes(networks.mlp(0, depth=4), nn.Linear)) == 5
    assert sizes(networks.cnn(0), nn.Conv2d) == [(16, 1), (32, 16), (32, 32)]
    assert sizes(networks.cnn(0), nn.Linear) == [(64, 128), (64, 64), (10, 64)]
    assert sizes(networks.shallow(0), nn.Linear) == [(32, 32), (32, 32), (10, 32)]
    for make in (networks.mlp, networks.cnn, networks.shallow):
        assert make(0)(torch.zeros(2, 64)).shape == (2, 10)
    assert warmup.stack() == networks.with_weights(networks.cnn(0), nn.Linear)


def test_he_variance_and_its_spread():
    torch.manual_seed(0)
    plain, wide = (networks.mlp(0, width=512, spread=s)[2].weight.detach() for s in (1.0, 3.0))
    assert float(plain.var()) == pytest.approx(2 / 512, rel=0.02)
    assert float(wide.var()) == pytest.approx(9 * 2 / 512, rel=0.02)


def test_tasks_hold_and_their_noise_is_fresh():
    which = networks.task(networks.mlp, batch_size=20, name="x", noise=0.3, num_train=100)
    which.check()
    a, b = which.batches(1, seed=0)[0], which.batches(1, seed=1)[0]
    assert not torch.equal(a[0], b[0])
    assert len(which.batches()) == 5
    clean = networks.digits().x[:100]
    distance = torch.cdist(a[0], clean).min(1).values / 8  # of 64 pixels
    assert float(distance.mean()) == pytest.approx(0.3, rel=0.1)


def test_each_recipe_differs_in_one_thing():
    reference = connectivity.Recipe()
    for name, recipe in connectivity.RECIPES.items():
        changed = [field for field in recipe._fields if getattr(recipe, field) != getattr(reference, field)]
        changed = [field for field in changed if field != "lr"]  # Adam and the wide start need another one
        assert len(changed) == 1, name


def line(height, steps, test=0.0):
    t = np.linspace(0, 1, 5)
    bump = np.sin(np.pi * t)
    values = {"train_loss": 1 + height * bump, "test_loss": 1 + test * bump}
    profile = Profile(t, t, values, values, {}, Cost())
    return Pair("restarts", steps, Barrier("train_loss", height, height, 0.5, (1.0, 1.0), None, profile), None,
                {str(i): (0.9 - 0.1 * i, 0.1) for i in range(5)})  # fmt: skip


PAIRS = ((750, 1750), (750, 3750), (1750, 3750))


def lines(monkeypatch, which, heights, test=0.0):
    pairs = tuple(line(h, steps, test) for h, steps in zip(heights, PAIRS, strict=True))
    found = SimpleNamespace(pairs=pairs, of=lambda role: list(pairs))
    monkeypatch.setattr(restarts, which, lambda seed: found)


@pytest.mark.parametrize(("heights", "holds"), [((0.2, 0.3, 0.0), True), ((0.2, 0.05, 0.09), False)])
def test_barriers_in_two_of_three_pairs(monkeypatch, heights, holds):
    lines(monkeypatch, "study", heights)
    assert list(verdict("restart-barriers").holds.values()) == [holds]


@pytest.mark.parametrize(("heights", "holds"), [((0.0, 0.01, 0.0), True), ((0.0, 0.02, 0.0), False)])
def test_a_single_barrier_at_a_drop_decides(monkeypatch, heights, holds):
    monkeypatch.setattr(restarts, "_from_the_drop", lambda seed: 0.0)
    lines(monkeypatch, "control", heights)
    assert list(verdict("no-barrier-at-drops").holds.values()) == [holds]


@pytest.mark.parametrize(("heights", "holds"), [((0.2, 0.1, 0.0), True), ((0.2, 0.09, 0.5), False)])
def test_the_control_counts_pairs_from_the_high_rate(monkeypatch, heights, holds):
    lines(monkeypatch, "control", heights)
    assert list(verdict("high-rates-do-it-alone").holds.values()) == [holds]


@pytest.mark.parametrize(("test", "holds"), [(-0.1, True), (0.1, False)])
def test_better_between_means_below_both_ends(monkeypatch, test, holds):
    lines(monkeypatch, "study", (0.1, 0.1, 0.1), test)
    assert list(verdict("better-between").holds.values()) == [holds]


def test_shallow_layers_are_the_first(monkeypatch):
    lines(monkeypatch, "study", (0.1, 0.1, 0.1))
    lines(monkeypatch, "control", (0.1, 0.1, 0.1))
    found = verdict("shallow-layers-stay")
    assert found.verdict == "reproduced"
    assert found.numbers["shallow less deep"]["restarts"]["mean"] == pytest.approx(0.3)


def scores(monkeypatch, warm, without, frozen=math.nan):
    values = {warmup.WITH: warm, warmup.WITHOUT: without, warmup.FROZEN: frozen}
    run = Run("a", {}, ({"step": 1, "loss": 2.3, "lr": 0.1}, {"step": 2, "loss": math.inf, "lr": 0.2}))
    found = SimpleNamespace(
        scores={name: {"accuracy": value} for name, value in values.items()}, runs=dict.fromkeys(values, run)
    )
    monkeypatch.setattr(warmup, "study", lambda seed: found)


@pytest.mark.parametrize(
    ("warm", "without", "holds"),
    [
        (0.98, 0.5, [True, True]),
        (0.98, math.nan, [True, True]),
        (0.98, 0.95, [True, False]),
        (0.9, 0.1, [False, True]),
    ],
)
def test_a_window_needs_both(monkeypatch, warm, without, holds):
    scores(monkeypatch, warm, without)
    assert list(verdict("warmup-rescues").holds.values()) == holds


@pytest.mark.parametrize(("frozen", "holds"), [(0.97, True), (0.94, False), (math.nan, False)])
def test_freezing_must_come_as_far(monkeypatch, frozen, holds):
    scores(monkeypatch, 0.98, 0.5, frozen)
    assert list(verdict("freezing-instead").holds.values()) == [holds]


@pytest.mark.parametrize(("deep", "holds"), [(0.08, True), (0.03, False)])
def test_deep_layers_must_differ_twice_as_much(deep, holds):
    layers = tuple(distillation.shallow(0).state_dict())
    layers = tuple(n.removesuffix(".weight") for n in layers if n.endswith("weight"))
    size = np.array([0.02, 0.02, deep, deep, deep])[None, :, None]
    alone = np.full((4, 5, 6), 0.5)
    found = studies.Distillation(layers, tuple("abcdef"), {"distilled": alone + size, "alone": alone},
                                 alone[0], {}, {}, "svcca", Cost())  # fmt: skip
    numbers, parts, curves = distillation._deep_and_shallow(found)
    assert list(parts.values()) == [holds]
    assert numbers["smallest deep over largest shallow"] == pytest.approx(deep / 0.02)
    np.testing.assert_allclose(np.mean(curves["difference"], axis=1), size.ravel())
