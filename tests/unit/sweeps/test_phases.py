"""Labels of the cells, each by its own rule, on rows made by hand and on runs whose phase is known in closed form."""

import pytest

from lrscope.records import Table
from lrscope.solvable import UV
from lrscope.sweeps.phases import PHASES, regimes, with_regimes


def row(**more):
    base = {"lr": 0.1, "seed": 0, "status": "finished", "first_loss": 2.0, "final_loss": 0.5, "trains": True}
    return {**base, **more}


@pytest.mark.parametrize(
    ("more", "label"),
    [
        ({"status": "diverged", "final_loss": None, "trains": False, "catapult": True}, "diverged"),
        ({"final_loss": 1.95}, "failed to train"),
        ({"trains": False, "sharpness_end": 20.0}, "failed to train"),
        ({"status": "failed", "final_loss": None, "trains": False}, None),
        ({"sharpness_start": 20.0, "sharpness_end": 19.0, "catapult": True}, "edge of stability"),
        ({"sharpness_start": 60.0, "sharpness_end": 10.0, "catapult": True}, "catapult"),
        ({"sharpness_start": 10.0, "sharpness_end": 10.9, "catapult": False}, "lazy"),
        ({"sharpness_start": 10.0, "sharpness_end": 8.9, "catapult": False}, "flattened"),
        ({"sharpness_start": 10.0, "sharpness_end": 11.1, "catapult": False}, "sharpened"),
        ({"catapult": False}, "stable"),
        ({"catapult": None}, None),
        ({"headroom_end": 1.2, "catapult": False}, "edge of stability"),
        ({"sharpness_start": float("nan"), "sharpness_end": 20.0, "catapult": None}, "edge of stability"),
    ],
)
def test_each_rule(more, label):
    table = Table.of([row(lr=0.01, seed=1), row(**more)])
    assert regimes(table, threshold=2.0)[1] == label
    assert label is None or label in PHASES


def test_without_a_threshold_the_edge_is_not_looked_for():
    table = Table.of([row(sharpness_start=20.0, sharpness_end=20.0, catapult=False)])
    assert regimes(table) == ["lazy"]
    assert with_regimes(table)["regime"] == ["lazy"]
    assert type(with_regimes(table)) is Table


def test_what_trains_with_a_larger_rate_was_slow():
    rows = [
        row(lr=lr, warmup=w, final_loss=loss) for w in (0, 10) for lr, loss in ((0.01, 1.9), (0.1, 0.5), (1.0, 1.9))
    ]
    rows.append(row(lr=0.001, warmup=99, final_loss=1.9))
    keep = ("lr", "warmup", "seed", "status", "first_loss", "final_loss", "trains")
    table = Table.of({name: r[name] for name in keep} for r in rows)
    assert regimes(table) == ["slow", None, "failed to train"] * 2 + ["failed to train"]


@pytest.mark.parametrize(
    ("optimizer", "columns", "sharpness", "label"),
    [
        ("sgd(momentum=0)", {}, 20.0, "edge of stability"),
        ("sgd", {}, 20.0, "sharpened"),
        ("sgd", {}, 38.0, "edge of stability"),
        ("sgd", {"momentum": 0.5}, 30.0, "edge of stability"),
        (None, {"optimizer": "sgd(momentum=0)"}, 20.0, "edge of stability"),
        ("sgd", {"optimizer": "adam"}, 20.0, "sharpened"),
        ("adam", {}, 380.0, "sharpened"),
    ],
)
def test_the_edge_is_that_of_what_trained(optimizer, columns, sharpness, label):
    table = Table.of([row(sharpness_start=10.0, sharpness_end=sharpness, catapult=False, **columns)])
    assert regimes(table, optimizer=optimizer) == [label]


def test_a_threshold_has_to_be_one():
    with pytest.raises(ValueError, match="expected a positive number"):
        regimes(Table.of([row()]), threshold=0.0)


def test_two_layer_linear_models_get_the_phase_that_theory_predicts():
    diagram = UV(width=1000, seed=0).phase_diagram([0.5, 1.0, 1.5, 2.5, 3.0, 3.4, 4.6, 4.8], seeds=3, steps=2000)
    names = {"lazy": "lazy", "catapult": "catapult", "divergent": "diverged"}
    rows, predicted = [], []
    for i in range(len(diagram.c)):
        for s, kernel in enumerate(diagram.kernel):
            lost = diagram.status[i, s] == "diverged"
            # The loss of these models goes to zero; a catapult shows as a loss above the first.
            rows.append(
                row(
                    lr=float(diagram.lr[i, s]),
                    seed=s,
                    status="diverged" if lost else "finished",
                    first_loss=1.0,
                    final_loss=None if lost else float(diagram.final_loss[i, s]),
                    trains=not lost,
                    catapult=not lost and float(diagram.peak_ratio[i, s]) > 1,
                    sharpness_start=float(kernel),
                    sharpness_end=None if lost else float(diagram.final_curvature[i, s]),
                )
            )
            predicted.append(names[str(diagram.predicted[i, s])])
    assert regimes(Table.of(rows)) == predicted
