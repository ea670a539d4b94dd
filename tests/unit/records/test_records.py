"""Records: written as they come, read back whole, and readable when they were not finished."""

import json
import math
import shlex
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrscope
from lrscope.records import Cost, CriticalLR, Run, RunWriter, Table, add_events, environment, strict_json

numbers = st.floats(allow_nan=False, allow_infinity=False)
costs = st.builds(Cost, *(st.integers(0, 10**6) for _ in range(4)))


@given(a=costs, b=costs, c=costs)
def test_costs_add_and_subtract(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + b - b == a
    assert (a + b).in_gradients() == pytest.approx(a.in_gradients() + b.in_gradients())


@given(rows=st.lists(st.dictionaries(st.sampled_from("abc"), numbers, max_size=3), max_size=6))
def test_a_table_keeps_its_rows(rows):
    table = Table.of(rows)
    names = {name for row in rows for name in row}
    assert list(table.rows()) == ([{n: row.get(n) for n in table.columns} for row in rows] if names else [])
    assert Table(json.loads(json.dumps(table.to_dict()))).to_dict() == table.to_dict()


def test_a_table_answers_questions(tmp_path):
    table = Table.of([{"lr": 0.1, "loss": 2.0}, {"lr": 0.2, "loss": 1.0}, {"lr": 0.2, "loss": None}])
    assert table.where(lr=0.2)["loss"] == [1.0, None]
    assert len(table.where(lambda row: row["loss"] is not None)) == 2
    with pytest.raises(KeyError, match="there are lr, loss"):
        table["los"]
    table.to_parquet(tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").to_pydict() == table.to_dict()


def write(path, rows=5, **kwargs):
    with RunWriter(path, "run", {"seed": 0}, **kwargs) as writer:
        for step in range(rows):
            writer.row(step, loss=1.0 / (step + 1), **({"eval_loss": 0.5} if step == 4 else {}))
        writer.event(3, "catapult", ratio=2.0)
        return writer.end("finished", Cost(gradients=rows))


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "run.jsonl"
    run = write(path)
    again = Run.read(path)
    assert again == run
    assert again["loss"].step.tolist() == [0, 1, 2, 3, 4]
    assert again["eval_loss"].step.tolist() == [4]
    assert again.final("eval_loss") == 0.5
    assert math.isnan(again.final("nothing"))
    with pytest.raises(KeyError, match="there are loss, eval_loss"):
        again["accuracy"]
    add_events(path, [(1, "late", {"why": "found afterwards"})])
    assert [e.kind for e in Run.read(path).events] == ["catapult", "late"]
    assert Run.read(path).status == "finished"
    path.write_text(path.read_text() + '{"event": "la')  # killed in mid-line
    add_events(path, [(2, "later", {})])
    assert [e.kind for e in Run.read(path).events] == ["catapult", "late", "later"]


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


def test_every_line_is_strict_json(tmp_path):
    path = tmp_path / "run.jsonl"
    with RunWriter(path, "run", {"seed": 0}) as writer:
        writer.row(0, loss=math.nan, lr=0.1, eval_loss=None)
        writer.row(1, loss=math.inf, lr=0.2)
        writer.event(1, "diverged", loss=math.nan)
        run = writer.end("diverged", Cost())
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    assert Run.read(path).rows == run.rows == ({"step": 0, "lr": 0.1}, {"step": 1, "lr": 0.2})
    assert strict_json({"a": (math.nan, [1.5, -math.inf])}) == '{"a": [null, [1.5, null]]}'


@pytest.mark.parametrize("keep", range(1, 9))
def test_any_prefix_of_a_runs_file_is_a_run(tmp_path, keep):
    path = tmp_path / "run.jsonl"
    write(path)
    lines = path.read_text().splitlines()
    assert len(lines) == 8
    path.write_text("\n".join(lines[:keep]) + "\n" + (lines[keep][:5] if keep < 8 else ""))
    run = Run.read(path)
    assert run.status == ("finished" if keep == 8 else "interrupted")
    assert len(run.rows) == min(keep - 1, 5)


def test_resuming_drops_what_is_run_again(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path)
    path.write_text(path.read_text() + '{"step": 5, "lo')  # killed in mid-line
    with RunWriter(path, "run", {"seed": 0}, append=True) as writer:
        writer.event(2, "resumed")
        writer.row(2, loss=9.0)
        run = writer.end("finished", Cost())
    assert [row["loss"] for row in run.rows] == [1.0, 0.5, 9.0]
    assert Run.read(path).rows == run.rows


def test_something_else_is_not_a_run(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="not a run file"):
        Run.read(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "status", ["found", "stable up to the largest", "unstable at the smallest", "loss not finite"]
)
def test_a_critical_lr_says_a_plain_sentence_and_round_trips(status):
    found = CriticalLR(0.1, 0.09, 0.2, status, (0.1, math.nan), "sgd", 0.05, Cost(forwards=3))
    assert str(found)
    again = CriticalLR.from_dict(json.loads(strict_json(found.to_dict())))
    assert str(again) == str(found)
    assert again.samples == pytest.approx(found.samples, nan_ok=True)
    assert again.cost == found.cost


def test_the_environment_names_versions():
    assert {"lrscope", "torch", "python", "cores"} <= set(environment())
    assert json.dumps(environment())


PACKAGE = Path(lrscope.__file__).parent


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/usr/bin/lrscope", True),
        (str(PACKAGE / "__main__.py"), True),
        ("/home/me/lrscope/train.py", False),
        ("/home/me/mine/__main__.py", False),
    ],
)
def test_the_command_can_be_pasted_into_a_shell(monkeypatch, program, command):
    argv = ["train", "my task.py:f", "0.1 * (warmup(6%) > cosine(to=0))"]
    monkeypatch.setattr(sys, "argv", [program, *argv])
    assert environment()["command"] == (shlex.join(["lrscope", *argv]) if command else "python")
    assert shlex.split(shlex.join(argv)) == argv
