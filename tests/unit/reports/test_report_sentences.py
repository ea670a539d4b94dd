"""The sentences, where they could mislead: a plan that lost, one seed, no critical learning rate, no warmup."""

from __future__ import annotations

import dataclasses
import math

import pytest

import report_cases as cases
from lrscope.records import CriticalLR, Run, Table
from lrscope.records.run import Event
from lrscope.reports import numbers, sentences


def run(final: float | None = None, status="finished", **more) -> Run:
    rows = [{"step": 0, "loss": 2.3, "lr": 0.1}, {"step": 100, "eval_loss": final}] if final is not None else []
    return Run("run", {"steps": 100}, tuple(rows), status, **more)


def plain(text: str | None) -> str:
    return (text or "").replace(numbers.NARROW, " ")


def test_plan_in_three_sentences():
    start, peak, warmup = map(plain, sentences.plan_sentences(cases.make_plan()))
    assert start == (
        "Start at learning rate 8.27e-5, below 3.15e-4 (2.8e-4 to 3.6e-4 over 3 seeds), the largest stable learning "
        "rate of the untrained model by the one-step test."
    )
    assert peak.startswith("Climb to 0.00496, the best of the peaks tried in runs of 400 steps; next to it, 0.00248")
    assert warmup.startswith("Warm up for 60 steps (5 % of the run), because in trials of 400 steps it ended")
    assert "from 0.00124 to 0.0198" in warmup


def test_no_warmup_and_a_start_beyond_the_critical_learning_rate():
    plan = cases.make_plan(warmup_steps=1, start_lr=cases.BEST)
    start, peak, warmup = sentences.plan_sentences(plan)
    assert "above 3.15e-4" in start
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
    assert peak == "Climb to 0.00496."
    unknown = sentences.plan_sentences(cases.make_plan(trials=Table()))[1]
    assert unknown == "Climb to 0.00496; between 0.00248 and 0.00701 nothing better is known."
    assert "only length tried" in warmup


def test_a_better_plan():
    text = plain(sentences.outcome_sentence({"planned": run(0.8), "default": run(1.0), "cosine": run(1.6)}))
    assert text == (
        "The planned run ended at evaluation loss 0.8000, 20 % below the optimizer's untuned default learning rate "
        "held constant (1.0000) and 50 % below untuned cosine with 5 % warmup at the default learning rate (1.6000)."
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
    assert "where the optimizer's untuned default learning rate held constant diverged at step 100" in text
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
    verdict, why = sentences.warmup_verdict(trials((100, 0.1, 0.05, 1.001), (100, 0.1, 0.33, 1.0)), 0.33)
    assert verdict == "yes"
    assert "scored the same as 33" in why
    assert sentences.warmup_verdict(trials((100, 0.1, 0.05, 1.0)), 0.05)[0] == "unclear"


def reasons(low: float, high: float, *rows, warmup_steps: int = 1) -> list[str]:
    """Sentences on peak 0.1 and on warmup, for a plan of 100 steps with the interval given."""
    plan = cases.make_plan(
        trials=trials(*rows), peak_lr=0.1, peak_low=low, peak_high=high, warmup_steps=warmup_steps, steps=100
    )
    return [plain(text) for text in sentences.plan_sentences(plan)[1:]]


def test_a_gap_between_tried_peaks_is_not_called_a_choice():
    text, _ = reasons(0.07, 0.14, (50, 0.05, 0.0, 1.06), (50, 0.1, 0.0, 1.0), (50, 0.2, 0.0, 1.13))
    assert text == (
        "The peak is 0.1, the best of the peaks tried in runs of 50 steps; next to it, 0.05 ended 6 % worse and 0.2 "
        "13 % worse in runs of 50 steps (nothing between was tried)."
    )


def test_peaks_within_the_noise_are_a_tie():
    text, _ = reasons(0.035, 0.14, (50, 0.05, 0.0, 1.02), (50, 0.1, 0.0, 1.0), (50, 0.2, 0.0, None))
    assert text == (
        "The peak is 0.1: 0.05 and 0.1 ended within 2 % of each other in runs of 50 steps, so either is a fair choice; "
        "next to them, 0.2 diverged in runs of 50 steps."
    )


def test_the_lower_of_equal_peaks_says_so():
    text, why = reasons(0.07, 0.14, (50, 0.1, 0.0, 1.003), (50, 0.2, 0.05, 1.0))
    assert "the lower of equals (0.2 with 5 % warmup ended 0.3 % lower in runs of 50 steps)" in text
    assert why == (
        "Use no warmup, though in trials of 50 steps 5 % warmup scored the same (0.3 % apart, within the noise); of "
        "equals the one with the lowest peak is taken."
    )


def test_a_warmup_that_made_a_difference_and_one_that_lost():
    rows = (50, 0.1, 0.0, 1.2), (50, 0.1, 0.05, 1.0)
    assert (
        "because in trials of 50 steps it ended 17 % below no warmup" in reasons(0.1, 0.1, *rows, warmup_steps=5)[1]
    )
    assert "although in trials of 50 steps 5 % warmup ended 20 % lower" in reasons(0.1, 0.1, *rows)[1]


def test_negative_scores_are_compared_by_their_difference():
    text, why = reasons(0.1, 0.1, (1, 0.05, 0.0, -1.0), (1, 0.1, 0.0, -3.0), (1, 0.1, 0.05, -1.5))
    assert "0.05 ended 2.0000 worse in runs of 1 step " in text
    assert "it ended 1.5000 below 5 % warmup" in why
    runs = {"planned": run(-1.0), "default": run(-2.0)}
    assert sentences.standing(runs) == "beaten"
    assert "1.0000 above" in sentences.outcome_sentence(runs)
    better = trials((100, 0.1, 0.05, -1.0), (100, 0.1, 0.33, -2.0))
    assert sentences.warmup_verdict(better, 0.05)[0] == "no"


def test_zero_and_tiny_losses():
    assert "the same as" in sentences.outcome_sentence({"planned": run(0.0), "default": run(0.0)})
    assert "99.7 % below" in plain(sentences.outcome_sentence({"planned": run(3e-5), "default": run(1e-2)}))
    assert "100 times that of" in plain(sentences.outcome_sentence({"planned": run(1.0), "default": run(0.01)}))


def test_any_status_of_the_one_step_test_speaks_for_itself():
    class Other(CriticalLR):
        def __str__(self) -> str:
            return "the gradient is zero"

    reading = Other(math.nan, math.nan, math.nan, "a new status")  # type: ignore[arg-type]
    start = sentences.plan_sentences(cases.make_plan(critical=(reading,)))[0]
    assert "on the untrained model, the gradient is zero" in start


def test_a_plan_prints_in_three_lines():
    text = str(cases.make_plan())
    assert text.count("\n") == 2
    assert len(text) < 500
    for part in ("digits", "adamw", "1200 steps", "peak 0.00496", "0.00248", "60 steps (5.0%)", "linear(59"):
        assert part in text


def test_what_warmup_buys():
    bought = trials((9, 0.1, 0.0, 1.0), (9, 0.2, 0.0, None), (9, 0.1, 0.05, 1.0), (9, 0.2, 0.05, 1.0))
    assert plain(sentences.reach_sentence(bought)) == (
        "Without warmup, peaks up to 0.1 trained; with 5 % warmup, up to 0.2."
    )
    assert "No trial diverged" in sentences.reach_sentence(trials((9, 0.1, 0.0, 1.0)))


def headroom_run(*values: float, optimizer: str = "sgd") -> Run:
    rows = tuple({"step": 10 * i, "headroom": v, "sharpness": 1.0} for i, v in enumerate(values))
    return Run("run", {"optimizer": {"name": optimizer}}, rows)


def test_headroom():
    assert "never went beyond" in sentences.headroom_sentence(headroom_run(0.2, 0.5))
    assert "at most 50 %" in plain(sentences.headroom_sentence(headroom_run(0.2, 0.5)))
    text = plain(sentences.headroom_sentence(headroom_run(0.2, 1.5, 0.5, math.inf)))
    assert "67 % of 3 measurements" in text
    assert "step 10, 1.5 times" in text
    assert sentences.headroom_sentence(run(1.0)) is None
    assert "step 0, by 0.4 %" in plain(sentences.headroom_sentence(headroom_run(1.004, 0.5)))


def test_the_reading_of_adam_before_its_first_update_is_not_counted():
    text = plain(sentences.headroom_sentence(headroom_run(12500.0, 0.2, 0.3, optimizer="adamw")))
    assert text == (
        "The learning rate never went beyond the curvature limit: in 2 measurements it was at most 30 % of it (step 20)."
    )
    assert "12 500 times the limit" in plain(sentences.headroom_sentence(headroom_run(12500.0, 0.2)))
    assert sentences.headroom_sentence(headroom_run(2.0, optimizer="adam")) is None


def test_catapults(tmp_path):
    story = Run.read(cases.write_run(tmp_path, "planned", curvature=True, catapults=True))
    text = sentences.catapult_sentence(story, 60)
    assert text.startswith("The loss jumped and came back 2 times (step 28 and 46)")
    assert "2.1 times" in text
    assert text.endswith("all during warmup.")
    assert "no catapults" in sentences.catapult_sentence(headroom_run(0.5))
    assert sentences.catapult_sentence(run(1.0)) is None  # nobody looked
    spiked = dataclasses.replace(headroom_run(0.5), events=(Event(30, "spike"), Event(40, "spike")))
    assert "2 times, but the sharpness did not fall" in sentences.catapult_sentence(spiked)
    unknown = dataclasses.replace(run(1.0), events=(Event(30, "jump"),))
    assert "jumped once and came back at once: bad batches or a very fast catapult" in sentences.catapult_sentence(
        unknown
    )


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
        (0, "0"),
        (-2.88656, "-2.8866"),
        (-0.00996, "-0.00996"),
        (0.00104, "0.00104"),
        (9.99996, "10"),
        (math.nan, "diverged"),
        (123456, "1.23e5"),
    ],
)
def test_losses(value, text):
    assert numbers.loss(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.183, "18 %"),
        (0.034, "3.4 %"),
        (0.997, "99.7 %"),
        (0.99996, "over 99.9 %"),
        (1, "100 %"),
        (0.0004, "0.04 %"),
    ],
)
def test_percents_are_not_rounded_to_all_or_nothing(share, text):
    assert plain(numbers.percent(share)) == text


@pytest.mark.parametrize(("ratio", "text"), [(1.004, "1.00"), (1.04, "1.04"), (1.5, "1.5"), (12, "12")])
def test_factors(ratio, text):
    assert numbers.times(ratio) == f"{text} times"
