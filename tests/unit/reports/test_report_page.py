"""The page: written from whole, partial and broken directories; well-formed, self-contained, escaped."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import report_cases as cases
from lrscope.records import Cost, RunWriter
from lrscope.reports import load, write_report
from lrscope.reports.snippets import cli_line, python_snippet
from report_html import check


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = cases.full(tmp_path_factory.mktemp("whole"))
    return directory, check(write_report(directory))


def test_a_finished_run_shows_everything(whole):
    _, page = whole
    for title in ("Run this", "What happened", "Was it stable?", "How the peak and the warmup were chosen"):
        assert title in page.text
    for figure in ("figure-loss", "figure-metric0", "figure-stability", "figure-map", "figure-peaks"):
        assert figure in page.ids
    assert "What is missing here" not in page.text
    assert "What was not tried" in page.text
    assert "All 30 trials" in page.text


def test_the_data_is_embedded_and_beside_the_page(whole):
    directory, page = whole
    data = json.loads(page.data)
    assert set(data["runs"]) == {"planned", "default", "cosine"}
    assert data["plan"]["peak_lr"] == cases.BEST
    assert json.loads((directory / "run.json").read_text())["name"] == "planned"
    parquet = pytest.importorskip("pyarrow.parquet").read_table(directory / "run.parquet")
    assert parquet.num_rows == cases.STEPS + 1
    assert not list(directory.glob(".*"))  # nothing half-written stays


def test_both_modes_and_both_widths_are_there(whole):
    directory, _ = whole
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme:dark" in text
    assert text.count('class="wide"') == text.count('class="narrow"') == 5
    svg = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000"}  # all others follow the mode
    assert 'role="img"' in svg


def test_the_snippet_names_the_schedule(whole):
    _, page = whole
    assert "lrs.schedules.parse(" in page.text
    assert cases.make_plan().schedule_text in page.text
    assert "lr=1.0, weight_decay=0.1)" in page.text
    assert "lrscope train digits" in page.text
    assert "--seed 0" in page.text
    assert page.text.count("import torch") == 1


def test_the_snippet_runs_and_gives_the_learning_rates_of_the_plan(whole):
    torch = pytest.importorskip("torch")
    directory, _ = whole
    plan = load(directory).plan
    assert plan is not None
    names = {"model": torch.nn.Linear(1, 1)}
    exec(python_snippet(plan), names)
    rates = []
    for _ in range(plan.steps):
        rates.append(names["optimizer"].param_groups[0]["lr"])
        names["optimizer"].step()
        names["scheduler"].step()
    assert rates[0] == pytest.approx(plan.start_lr)
    assert rates[plan.warmup_steps - 1] == max(rates) == pytest.approx(plan.peak_lr)


def test_the_command_repeats_the_run(tmp_path):
    cases.full(tmp_path)
    config = {"task": "own.py:task", "seed": 7, "set": ["width=64"], "device": "cuda"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    line = cli_line(load(tmp_path))
    assert "lrscope train own.py:task" in line
    assert "--set width=64 --device cuda --seed 7" in line


def test_a_watched_loop(tmp_path):
    (tmp_path / "runs").mkdir()
    writer = RunWriter(tmp_path / "runs" / "planned.jsonl", "watched", {"optimizer": "AdamW", "every": 2})
    for step in range(5):
        writer.row(step, loss=2.0 - 0.1 * step, lr=0.01, **({} if step % 2 else {"stable_lr": 0.1, "headroom": 0.1}))
    writer.close()
    story = load(tmp_path)
    assert story.task == "watched training"
    page = check(write_report(tmp_path))
    assert "has got to 5 updates so far" in page.text
    assert "a training loop was watched" in page.text
    assert "after 5 updates" in page.text
    assert "The same command again" not in page.text
    assert "planned" not in page.text.lower()


def test_the_evaluation_set_that_chose_the_peak_is_named_once(whole):
    _, page = whole
    assert page.text.count("a little optimistic against a fresh evaluation set") == 1
    assert "untuned" in page.text


def test_a_run_that_only_its_evaluation_failed(tmp_path):
    cases.write_plan(tmp_path, cases.make_plan())
    cases.write_run(tmp_path / "runs", "default")
    (tmp_path / "runs" / "planned.jsonl").unlink(missing_ok=True)
    writer = RunWriter(tmp_path / "runs" / "planned.jsonl", "planned", {"task": "digits", "steps": 50})
    for step in range(50):
        writer.row(step, loss=2.0, lr=0.01)
    writer.row(50, accuracy=0.1)
    writer.event(50, "diverged", loss=None)
    writer.end("diverged", Cost(gradients=50))
    page = check(write_report(tmp_path))
    assert "The plan failed: the evaluation loss was not finite after step 50." in page.text
    assert "diverged at step 50" not in page.text
    assert "evaluation not finite" in page.text


def test_words_of_the_page_are_explained(whole):
    _, page = whole
    for word in ("Told apart", "Cell, rung", "Curvature limit", "Headroom", "Catapult", "one-step test"):
        assert word in page.text
    assert "stable limit" not in page.text


def test_trials_only(tmp_path):
    cases.write_trials(tmp_path, cases.trial_rows()[:20], tail='{"rung": 2, "hori')
    page = check(write_report(tmp_path))
    assert "Planning did not finish" in page.text
    assert "20 trials" in page.text
    assert "So far the best" in page.text
    assert not (tmp_path / "run.json").exists()


def test_no_plan(tmp_path):
    cases.write_run(tmp_path / "runs", "planned", curvature=True)
    page = check(write_report(tmp_path))
    assert "There is no plan in this directory" in page.text
    assert "planned" not in page.text.lower()


def test_a_run_killed_in_the_middle_of_a_line(tmp_path):
    cases.write_plan(tmp_path, cases.make_plan())
    path = cases.write_run(tmp_path / "runs", "planned", stop_at=400, curvature=True)
    with path.open("a") as file:
        file.write('{"step": 400, "lo')
    page = check(write_report(tmp_path))
    assert "has got to step 399 so far" in page.text
    assert "Not run for comparison" in page.text


def test_a_diverged_plan_leads_with_it(tmp_path):
    cases.full(tmp_path)
    cases.write_run(tmp_path / "runs", "planned", diverge_at=140, curvature=True)
    page = check(write_report(tmp_path))
    assert "The plan failed: its run diverged at step 140." in page.text
    assert "It was: start at" in page.text
    assert "The plan that failed" in page.text
    assert "Run this" not in page.text
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "diverged"


def test_no_evaluation_and_no_curvature(tmp_path):
    cases.write_plan(tmp_path, cases.make_plan(expected_loss=None, expected_low=None, expected_high=None))
    for name in ("planned", "default", "cosine"):
        cases.write_run(tmp_path / "runs", name, evaluated=False)
    page = check(write_report(tmp_path))
    assert "There is no evaluation set" in page.text
    assert "Curvature was not measured" in page.text
    assert "Final training loss" in page.text


def test_every_trial_diverged(tmp_path):
    rows = [row | {"score": None, "status": "diverged", "diverged_at": 2} for row in cases.trial_rows()[:12]]
    cases.write_trials(tmp_path, rows)
    assert "every trial diverged" in check(write_report(tmp_path)).text


def test_an_empty_run_and_a_plan_of_another_version(tmp_path):
    cases.write_plan(tmp_path, cases.make_plan())
    broken = json.loads((tmp_path / "plan.json").read_text())
    del broken["peak_lr"]
    (tmp_path / "plan.json").write_text(json.dumps(broken))
    cases.write_run(tmp_path / "runs", "planned", stop_at=0)
    (tmp_path / "runs" / "cosine.jsonl").write_text('{"step": 0}\n')
    page = check(write_report(tmp_path))
    assert "plan.json could not be read" in page.text
    assert "runs/cosine.jsonl could not be read" in page.text


def test_one_step_one_trial(tmp_path):
    cases.write_trials(tmp_path, cases.trial_rows()[:1])
    cases.write_run(tmp_path / "runs", "planned", steps=1, curvature=True)
    check(write_report(tmp_path))


def test_long_runs_stay_small(tmp_path):
    cases.write_run(tmp_path / "runs", "planned", steps=20_000, curvature=True)
    check(write_report(tmp_path))


def test_strings_of_the_user_are_escaped(tmp_path):
    evil = "</script><script>alert(1)</script><b>&"
    cases.full(tmp_path, task=evil, schedule_text=f'{evil}"', notes=(evil,), not_tried=(evil,), decay=evil)
    rows = [row | {"note": evil} for row in cases.trial_rows()]
    cases.write_trials(tmp_path, rows * 2)
    page = check(write_report(tmp_path))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<script") == 1
    assert "<b>&" not in text
    assert evil in page.text
    assert json.loads(page.data)["plan"]["task"] == evil


def test_nothing_there_is_an_error_that_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"plan\.json, trials\.jsonl and runs/\*\.jsonl"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="no such directory"):
        load(tmp_path / "absent")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json could not be read"):
        load(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    cases.write_run(tmp_path / "runs", "planned", steps=20)
    before = write_report(tmp_path).read_text(encoding="utf-8")
    monkeypatch.setattr("lrscope.reports.write.page", lambda story: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert not list(tmp_path.glob(".*"))


def test_trials_of_an_earlier_question_are_left_out(tmp_path):
    old = [row | {"question": {"task": "other"}} for row in cases.trial_rows()[:5]]
    new = [row | {"question": {"task": "digits"}} for row in cases.trial_rows()[:3]]
    cases.write_trials(tmp_path, old + new)
    assert len(load(tmp_path).trials) == 3


def test_importing_reports_needs_neither_matplotlib_nor_torch():
    code = "import sys, lrscope.reports as r; r.load; assert not {'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
