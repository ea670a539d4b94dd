"""The report of a sweep, whatever the sweep holds: well-formed, offline, finite numbers, and the right sentences."""

import json
import math

import pytest

from lrscope.records import Table
from lrscope.reports.sweep_page import MOST_DATA, write_sweep_page
from report_html import check

LRS = [2.0**k for k in range(-6, 2)]


def run(lr, warmup="0", seed=0, **more):
    lost = lr >= (0.5 if warmup == "0" else 2.0)
    loss = None if lost else 0.5 + 0.02 * math.log2(lr / 0.05) ** 2
    row = {"lr": lr, "warmup": warmup, "seed": seed, "cell": f"{lr}{warmup}{seed}", "gradients": 300.0}
    row |= {"status": "diverged" if lost else "finished", "first_loss": 4.0, "final_loss": loss, "eval_loss": loss}
    return {**row, "trains": not lost, "regime": None, "warmup_steps": 0 if warmup == "0" else 100, **more}


def page(path, rows, axes=None, **options):
    axes = axes or {"lr": LRS, "warmup": ["0", "33%"], "seed": [0, 1]}
    manifest = {
        "axes": axes,
        "config": {"task": "digits <b>", "optimizer": "sgd(momentum=0.9)", "schedule": "constant", "steps": 300},
        "environment": {"torch": "2.13.0", "command": "lrscope sweep digits --lr 2^-6:2^1"},
    }
    return check(write_sweep_page(path, manifest, Table.of(rows), **options))


def grid(**more):
    return [run(lr, w, s, **more) for lr in LRS for w in ("0", "33%") for s in (0, 1)]


def test_it_leads_with_what_trains_and_holds_the_rest(tmp_path):
    found = page(tmp_path, grid(), command="lrscope train digits", skipped=["16 runs instead of the 32"])
    assert (
        "Largest learning rate that trains in both seeds: 0.25 without warmup and 1 with 33\u202f% warmup."
        in found.text
    )
    for words in (
        "The best cell",
        "The map",
        "Evaluation loss",
        "digits <b>",
        "lrscope train digits",
        "16 runs instead",
    ):
        assert words in found.text
    data = json.loads(found.data)
    assert data["table"]["lr"] == [row["lr"] for row in grid()]
    assert not list(tmp_path.glob(".*.tmp"))


def test_errors_are_counted_and_quoted(tmp_path):
    rows = grid()
    rows[3] = {
        **rows[3],
        "status": "failed",
        "error": "RuntimeError: <no> & more",
        "final_loss": None,
        "eval_loss": None,
    }
    found = page(tmp_path, rows)
    assert "1 run raised an error" in found.text
    assert "RuntimeError: <no> & more" in found.text


def test_regimes_get_a_map_of_their_own(tmp_path):
    found = page(tmp_path, grid(regime="lazy"))
    assert "What happened over" in found.text


@pytest.mark.parametrize(
    ("rows", "axes"),
    [
        ([], {"lr": [0.1, 0.2], "seed": [0]}),
        ([run(0.1)], {"lr": [0.1, 0.2], "seed": [0]}),
        ([run(lr) for lr in LRS], {"lr": LRS, "seed": [0]}),
        ([run(4.0, seed=s) for s in range(3)], {"lr": [4.0], "seed": [0, 1, 2]}),
        ([run(0.1, optimizer=o) for o in ("sgd", "adam")], {"optimizer": ["sgd", "adam"], "seed": [0]}),
        ([run(lr, status="failed", error="x") for lr in LRS], {"lr": LRS, "seed": [0]}),
        (
            [run(lr, w, width=n, depth=d) for lr in LRS for w in ("0", "33%") for n in (16, 64) for d in (1, 2)],
            {"lr": LRS, "warmup": ["0", "33%"], "width": [16, 64], "depth": [1, 2], "seed": [0]},
        ),
    ],
    ids=["nothing yet", "one run", "one axis", "no learning rate", "text only", "only errors", "four axes"],
)
def test_a_page_of_whatever_there_is(tmp_path, rows, axes):
    page(tmp_path, rows, axes)


def test_many_rows_are_embedded_in_part_and_said_so(tmp_path):
    rows = [run(0.1, seed=s) for s in range(MOST_DATA + 1)]
    data = json.loads(page(tmp_path, rows, {"lr": [0.1, 0.2], "seed": list(range(MOST_DATA + 1))}).data)
    assert data["rows"] == MOST_DATA + 1
    assert len(data["table"]["lr"]) == MOST_DATA
