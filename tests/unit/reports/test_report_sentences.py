"""The sentences, where they could mislead: a plan that lost, one seed, no critical learning rate, no warmup."""

from __future__ import annotations

import math

import pytest

import report_cases as cases
from lrscope.records import CriticalLR, Run, Table
from lrscope.reports import numbers, sentences


def run(final: float | None = None, status="finished", **more) -> Run:
    rows = [{"step": 0, "loss": 2.3, "lr": 0.1}, {"step": 100, "eval_loss": final}] if final is not None else []
    return Run("run", {"steps": 100}, tuple(rows), status, **more)


def plain(text: str | None) -> str:
    return (text or "").replace(numbers.NARROW, " ")


def test_plan_in_three_sentences():
    start, peak, warmup = map(plain, sentences.plan_sentences(cases.make_plan()))
    assert start.startswith("Start at learning rate 8.27e-5, below the largest stable learning rate")
    assert "between 2.8e-4 and 3.6e-4 over 3 seeds" in start
    assert peak.startswith("Climb to 0.00496; peaks from 0.00248 to 0.00701 were not told apart")
    assert warmup.startswith("Warm up for 60 steps (5 % of the run), because in trials of 400 steps")
    assert "from 0.00124 to 0.0198" in warmup


def test_no_warmup_and_a_start_beyond_the_critical_learning_rate():
    plan = cases.make_plan(warmup_steps=1, start_lr=cases.BEST)
    start, peak, warmup = sentences.plan_sentences(plan)
    assert "above the largest stable learning rate" in start
    assert "first updates may raise the loss" in start
    assert peak.startswith("The peak is")
    assert warmup.startswith("Use no warmup, although")
    assert "no warmup" in sentences.answer(plan)


@pytest.mark.parametrize(
    ("critical", "said"),
    [
        ((), "was not measured"),
        ((CriticalLR(math.nan, 1e-6, 3.0, "stable up to the largest"),), "every step up to learning rate 3"),
        ((CriticalLR(math.nan, 1e-6, 3.0, "loss not finite"),), "not finite"),
    ],
)
def test_without_a_critical_learning_rate_the_start_says_why(critical, said):
    assert said in sentences.plan_sentences(cases.make_plan(critical=critical))[0]


def test_trials_that_tell_the_peak_apart_and_no_trials():
    plan = cases.make_plan(peak_low=cases.BEST, peak_high=cases.BEST, trials=Table())
    _, peak, warmup = sentences.plan_sentences(plan)
    assert "told it apart from every other" in peak
    assert "only length tried" in warmup


def test_a_better_plan():
    text = plain(sentences.outcome_sentence({"planned": run(0.8), "default": run(1.0), "cosine": run(1.6)}))
    assert text == (
        "The planned run ended at evaluation loss 0.8000, 20 % below the optimizer's default learning rate held "
        "constant (1.0000) and 50 % below cosine with 5 % warmup at the default learning rate (1.6000)."
    )


def test_a_worse_plan_is_said_plainly():
    runs = {"planned": run(1.1), "default": run(1.0), "cosine": run(1.2)}
    text = plain(sentences.outcome_sentence(runs))
    assert text.startswith("The plan was not the best: its run ended at evaluation loss 1.1000, 10 % above")
    assert sentences.standing(runs) == "beaten"


def test_a_difference_within_the_noise_is_not_called_one():
    runs = {"planned": run(1.01), "default": run(1.0)}
    assert "too close to call" in sentences.outcome_sentence(runs)
    assert "one seed" in sentences.outcome_sentence(runs)
    assert "the seed alone moved scores" in sentences.outcome_sentence(runs, Table.of(cases.trial_rows()))
    assert sentences.standing(runs) == "fine"


def test_equal_negative_and_missing_losses():
    assert "the same as" in sentences.outcome_sentence({"planned": run(1.0), "default": run(1.0)})
    assert "1.0000 below" in sentences.outcome_sentence({"planned": run(-2.0), "default": run(-1.0)})
    assert "no baseline" in sentences.outcome_sentence({"planned": run(1.0)})
    assert sentences.outcome_sentence({"default": run(1.0)}) is None


def test_baselines_and_plans_that_diverged():
    diverged = run(2.0, "diverged")
    text = sentences.outcome_sentence({"planned": run(0.8), "default": diverged})
    assert "where the optimizer's default learning rate held constant diverged at step 100" in text
    runs = {"planned": diverged, "default": run(1.0)}
    assert sentences.outcome_sentence(runs).startswith("The plan failed: its run diverged at step 100.")
    assert sentences.standing(runs) == "failed"
    stopped = {"planned": run(1.5, "interrupted"), "default": run(1.0)}
    assert "it is not compared" in sentences.outcome_sentence(stopped)


@pytest.mark.parametrize(("final", "said"), [(0.23, "inside that range"), (0.2, "better than"), (0.3, "worse than")])
def test_expectation_against_outcome(final, said):
    assert said in sentences.expectation_sentence(cases.make_plan(), {"planned": run(final)})


def trials(*rows) -> Table:
    keys = ("horizon", "lr", "warmup_frac", "score")
    return Table.of(
        dict(zip(keys, row, strict=True)) | {"seed": 0, "status": "finished" if row[3] else "diverged"}
        for row in rows
    )


def test_warmup_is_judged_on_peaks_that_both_lengths_tried():
    same = trials((100, 0.1, 0.05, 1.0), (100, 0.1, 0.33, 0.99), (100, 0.2, 0.33, 0.5))
    assert sentences.warmup_verdict(same, 0.05)[0] == "yes"  # 0.5 came from a peak that 5 % never tried
    better = trials((100, 0.1, 0.05, 1.0), (100, 0.1, 0.33, 0.8))
    verdict, why = sentences.warmup_verdict(better, 0.05)
    assert verdict == "no"
    assert "20 % lower" in plain(why)
    assert sentences.warmup_verdict(better, 0.33)[0] == "unclear"
    assert sentences.warmup_verdict(trials((100, 0.1, 0.05, 1.0)), 0.05)[0] == "unclear"


def test_what_warmup_buys():
    bought = trials((9, 0.1, 0.0, 1.0), (9, 0.2, 0.0, None), (9, 0.1, 0.05, 1.0), (9, 0.2, 0.05, 1.0))
    assert plain(sentences.reach_sentence(bought)) == (
        "Without warmup, peaks up to 0.1 trained; with 5 % warmup, up to 0.2."
    )
    assert "No trial diverged" in sentences.reach_sentence(trials((9, 0.1, 0.0, 1.0)))


def headroom_run(*values: float) -> Run:
    return Run("run", {}, tuple({"step": 10 * i, "headroom": v, "sharpness": 1.0} for i, v in enumerate(values)))


def test_headroom():
    assert "never went beyond" in sentences.headroom_sentence(headroom_run(0.2, 0.5))
    assert "at most 50 %" in plain(sentences.headroom_sentence(headroom_run(0.2, 0.5)))
    text = plain(sentences.headroom_sentence(headroom_run(0.2, 1.5, 0.5, math.inf)))
    assert "67 % of 3 measurements" in text
    assert "step 10, 1.5 times" in text
    assert sentences.headroom_sentence(run(1.0)) is None


def test_catapults(tmp_path):
    story = Run.read(cases.write_run(tmp_path, "planned", curvature=True, catapults=True))
    text = sentences.catapult_sentence(story, 60)
    assert text.startswith("The loss jumped and came back 2 times (step 28 and 46)")
    assert "2.1 times" in text
    assert text.endswith("all during warmup.")
    assert "no catapults" in sentences.catapult_sentence(headroom_run(0.5))
    assert sentences.catapult_sentence(run(1.0)) is None  # nobody looked


def test_cost(tmp_path):
    from lrscope.reports import load

    cases.write_plan(tmp_path, cases.make_plan(share=0.484))
    assert "4 360 gradient evaluations = 0.48 full run" in plain(sentences.cost_sentence(load(tmp_path)))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.003, "0.003"), (3e-4, "3e-4"), (3.14e-5, "3.14e-5"), (0, "0"), (2.0, "2"), (math.nan, "unknown")],
)
def test_learning_rates_are_written_as_people_type_them(value, text):
    assert numbers.lr(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.2000"),
        (2.34567, "2.3457"),
        (12.3456, "12.35"),
        (1e-5, "1e-5"),
        (math.nan, "diverged"),
        (123456, "1.23e5"),
    ],
)
def test_losses(value, text):
    assert numbers.loss(value) == text
