import re

import numpy as np
import pytest

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError

RUN = lrs.Horizon(10_000, steps_per_epoch=500, tokens_per_step=1e6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("warmup(6%) > cosine(to=0)", lrs.warmup(600).then(lrs.Cosine(1, 0, 9400))),
        ("warmup(600)>cosine", lrs.warmup(600).then(lrs.Cosine(1, 0, 9400))),
        ("warmup(600 steps) > cosine(to=0.1)", lrs.warmup(600).then(lrs.Cosine(1, 0.1, 9400))),
        ("warmup(3 epochs) > cosine()", lrs.warmup(1500).then(lrs.Cosine(1, 0, 8500))),
        ("warmup(1 epoch) > linear", lrs.warmup(500).then(lrs.Linear(1, 0, 9500))),
        ("warmup(2e9 tokens) > linear", lrs.warmup(2000).then(lrs.Linear(1, 0, 8000))),
        ("warmup(1_000, from=0.1) > linear", lrs.warmup(1000, 0.1).then(lrs.Linear(1, 0, 9000))),
        (
            "warmup(5%) > constant > sqrt(20%)",
            lrs.warmup(500).then(lrs.Constant(1, 7500)).then(lrs.Sqrt(1, 0, 2000)),
        ),
        ("3e-4 * (warmup(6%) > cosine)", 3e-4 * lrs.warmup(600).then(lrs.Cosine(1, 0, 9400))),
        ("warmup(10%) * cosine", lrs.warmup(1000) * lrs.Cosine(1, 0, 10_000)),
        ("(0.5 * linear(10)) > linear(to=1)", (0.5 * lrs.Linear(1, 0, 10)).then(lrs.Linear(0, 1, 9990))),
        ("linear(10, to=0.5) > exp(to=0.1)", lrs.Linear(1, 0.5, 10).then(lrs.Exponential(0.5, 0.1, 9990))),
        ("(warmup(10) > linear(10, to=.5)) > cosine(10)", lrs.parse("warmup(10) > linear(10,to=.5) > cosine(10)")),
        ("poly(power=2, from=2)", lrs.Polynomial(2, 0, 10_000, 2)),
        ("warmup(10) > inverse_sqrt(timescale=10)", lrs.warmup(10).then(lrs.InverseSqrt(1, 10, 9990))),
        ("piecewise(values=[1, .1, .01], at=[30%, 10 epochs])", lrs.Piecewise((1, 0.1, 0.01), (3000, 5000), 10_000)),
        ("nonzero_warmup(6%) > cosine", lrs.nonzero_warmup(600).then(lrs.Cosine(1, 0, 9401))),
        ("nonzero_warmup(1) > cosine", lrs.nonzero_warmup(1).then(lrs.Cosine(1, 0, 10_000))),
        ("warmup(0) > cosine", lrs.warmup(0).then(lrs.Cosine(1, 0, 10_000))),
        (
            "cosine(50%) > warmup(10%) > cosine",
            lrs.Cosine(1, 0, 5000).then(lrs.warmup(1000)).then(lrs.Cosine(1, 0, 4000)),
        ),
        ("linear(50)", lrs.Linear(1, 0, 50)),
        ("shift(constant, by=5%)", lrs.Constant(1.0).shift(500).first(10_000)),
        (
            "warmup(10) > after(step(factor=0.9), steps=5)",
            lrs.warmup(10).then(lrs.StepDecay(0.9).after(5).first(9990)),
        ),
        ("repeat(linear(1 epoch))", lrs.Linear(1, 0, 500).repeat().first(10_000)),
        ("clip(cosine, low=0.1)", lrs.Cosine(1, 0, 10_000).clip(low=0.1)),
        (
            "stretch(linear(50%) > constant(10), to=20%)",
            lrs.Linear(1, 0, 5000).then(lrs.Constant(0, 10)).stretch(2000),
        ),
        ("linear(10) * (2 * 3)", lrs.Linear(1, 0, 10) * (lrs.Constant(2.0) * 3.0)),
        (
            "(linear(10) + (2 + 3)) > cosine",
            (lrs.Linear(1, 0, 10) + (lrs.Constant(2.0) + 3.0)).then(lrs.Cosine(5, 0, 9990)),
        ),
        ("exp_warmup(timescale=2) * linear", lrs.ExponentialWarmup(2) * lrs.Linear(1, 0, 10_000)),
        ("restarts(period=10%, mult=2)", lrs.WarmRestarts(1, 0, 1000, 2, steps=10_000)),
    ],
)
def test_text_means(text, expected):
    assert lrs.parse(text, RUN) == expected


def test_without_a_horizon_only_endless_shapes_go_without_length():
    assert lrs.parse("warmup(10) > constant") == lrs.warmup(10).then(1.0)
    assert lrs.parse("warmup(10) > inverse_sqrt(timescale=10)").num_steps is None
    assert lrs.parse("constant", horizon=30) == lrs.Constant(1.0, 30)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("warmup(6%) > cosin(to=0)", 14, "unknown segment 'cosin'; did you mean 'cosine'"),
        ("cosine(too=0)", 8, "cosine has no option 'too'; did you mean 'to'"),
        ("warmup(5 epoch s)", 16, "expected ',' or '\\)'"),
        ("warmup(5 epchs)", 10, "unknown unit 'epchs'; did you mean 'epochs'"),
        ("cosine > linear", 10, "two segments without a length"),
        ("warmup(60%) > cosine(60%)", 1, "take 12000 steps, the horizon has 10000"),
        ("warmup(100%) > cosine", 16, "nothing is left: the other segments take 10000 of 10000"),
        ("warmup(11_000) > cosine", 18, "nothing is left: the other segments take 11000 of 10000"),
        ("warmup(1) > (linear(20_000) * cosine)", 14, "takes 20000 steps where 9999 are left"),
        ("3e-4 * warmup(6%) > cosine", 6, "needs parentheses"),
        ("warmup(0.06) > cosine", 8, "6% of the horizon is written 6%"),
        ("warmup(2.5) > cosine", 8, "whole steps, got 2.5"),
        ("warmup(-5) > cosine", 8, "0 or more"),
        ("warmup(0.001%) > cosine", 8, "rounds to no step"),
        ("exp", 1, "exp needs to="),
        ("exp(to=0)", 1, "end must be greater than 0"),
        ("poly(to=0)", 1, "poly needs power="),
        ("piecewise(values=3, at=[4])", 11, r"needs values=\[...\]"),
        ("piecewise(values=[3%, 1], at=[4])", 19, "a value has no unit"),
        ("inverse_sqrt", 1, "needs timescale="),
        ("nonzero_warmup > cosine(3)", 1, "nonzero_warmup needs a length"),
        ("cosine(to=3 epochs)", 8, "one plain number"),
        ("cosine(to=0, to=1)", 14, "to= is given twice"),
        ("cosine(to=0, 500)", 14, "the length comes first"),
        ("cosine(10, 20)", 12, "the length comes first"),
        ("cosine(to 0)", 11, "expected '='"),
        ("cosine(to=)", 11, "expected a number"),
        ("cosine(to=1e31)", 11, "at most 1e30"),
        ("(cosine", 8, "to close '\\(' of character 1"),
        ("cosine)", 7, "expected '>'"),
        ("cosine >", 9, "at the end: expected a segment"),
        ("", 1, "at the end: expected a segment"),
        ("3e-4", 1, "a number alone is a factor"),
        ("cosine; import os", 7, "no number, name or sign"),
        ("cosine > clp(linear(5), low=1)", 10, "'clp' takes no schedule inside; did you mean 'clip'"),
        ("table(9, values=[1])", 7, "table is as long as its values= says; cut it with first"),
        ("exp_warmup(9, timescale=1)", 12, "exp_warmup is as long as its timescale= says"),
        ("cosine(5) > exp_warmup(timescale=1e-300)", 13, "ExponentialWarmup: timescale must be"),
        ("(2 * 3) > cosine(5)", 2, "never ends, so nothing can follow it; cut it with first"),
        ("cosine(9007199254740992 epochs)", 8, "a length must be at most 2\\*\\*53 steps"),
        ("repeat(linear(5), times=2.5)", 19, "times= must be a whole number, got 2.5"),
        ("repeat(linear(5), times=-1)", 1, "Repeat: times must be a whole number"),
        ("clip", 5, "expected '\\(' and the schedule that clip works on"),
        ("clip(linear(5), 3, low=0)", 17, "the schedule comes first, once"),
        ("shift(linear(5))", 1, "shift needs by=, a length"),
        ("reverse(reverse(linear(5)) * 2", 31, "to close|expected"),
        ("(" * 60, 51, "more than 50 parentheses"),
    ],
)
def test_a_problem_is_one_line_with_its_place(text, place, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        lrs.parse(text, RUN)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"schedule text, character {place},")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosine", "cosine needs a length, or parse"),
        ("warmup(6%) > constant", "a length in % needs a horizon"),
        ("warmup(3 epochs) > constant", "a length in epochs needs a horizon"),
        ("constant > cosine(5)", "without a horizon only the last"),
    ],
)
def test_what_needs_a_horizon_says_so(text, message):
    with pytest.raises(ScheduleError, match=message):
        lrs.parse(text)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("1 - cosine", 3, "'-' is not read here; write 1 + -1 * cosine"),
        ("1 -0.5 * cosine", 3, "'-' is not read here; write 1 + -1 * cosine"),
        ("-cosine", 1, "'-' is not read here; write 1 + -1 * cosine"),
        ("cosine / 2", 8, "'/' is not read here; write 0.5 * cosine"),
    ],
)
def test_a_sign_that_there_is_not_names_what_is_written_for_it(text, place, message):
    with pytest.raises(ScheduleError, match=f"character {place}, .*{re.escape(message)}"):
        lrs.parse(text, 10)
    minus = lrs.parse("1 + -1 * cosine", 10).values()
    assert np.allclose(minus, 1 - lrs.Cosine(1.0, 0.0, 10).values(), atol=1e-15)


@pytest.mark.parametrize(
    ("name", "recipe", "atol"),
    [
        ("wsd", lambda n: lrs.wsd(n, warmup=n // 20, cooldown=n // 5), 0.0),
        ("triangular", lambda n: lrs.triangular(0.0, 1.0, 100), 0.0),
        ("multistep", lambda n: lrs.multistep([3 * n // 10, 6 * n // 10]), 1e-15),
        ("one_cycle", lambda n: lrs.one_cycle(n)["lr"], 3e-3),  # whose last update, not the step after, is the end
    ],
)
def test_a_recipe_that_is_no_segment_says_how_it_is_written(name, recipe, atol):
    with pytest.raises(ScheduleError, match=f"unknown segment '{name}'; write it as ") as told:
        lrs.parse(f"warmup(10) > {name}(100)", 1000)
    written = str(told.value).partition("write it as ")[2]
    assert np.allclose(lrs.parse(written, 1000).values(), recipe(1000).values(1000), rtol=0, atol=atol)


def test_units_name_what_is_missing():
    with pytest.raises(ScheduleError, match="steps_per_epoch"):
        lrs.parse("warmup(3 epochs) > cosine", 100)
    with pytest.raises(ScheduleError, match="tokens_per_step"):
        lrs.parse("warmup(3 tokens) > cosine", 100)
    with pytest.raises(ScheduleError, match="must be a string"):
        lrs.parse(None)  # type: ignore[arg-type]
    with pytest.raises(ScheduleError, match="at most 10000"):
        lrs.parse("x" * 10_001)
