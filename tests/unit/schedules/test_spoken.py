"""Schedules that listen, as text and as plain data."""

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lrscope.schedules as lrs
from lrscope.errors import ScheduleError
from lrscope.schedules import FeedbackSchedule, from_spec, parse
from lrscope.stability import CatapultWarmup, GeN

RUN = lrs.Horizon(1000, steps_per_epoch=20)
SHARE = st.floats(0.01, 0.99)
RATE = st.floats(1e-6, 10.0)
COUNT = st.integers(1, 10_000)

LISTENING = st.one_of(
    st.builds(
        lrs.Plateau,
        metric=st.sampled_from(["loss", "eval_loss", "accuracy"]),
        factor=SHARE,
        patience=COUNT,
        mode=st.sampled_from(["min", "max"]),
        relative=st.booleans(),
        low=SHARE,
    ),
    st.builds(lrs.TwoPhase, large=RATE, small=RATE, momentum=SHARE, window=COUNT),
    st.builds(lrs.TwoPhase, large=RATE, small=RATE, switch=SHARE, steps=COUNT),
    st.builds(lrs.AutoEnsemble, low=st.floats(1e-6, 0.1), high=st.floats(0.2, 1.0), members=st.integers(2, 9)),
    st.builds(CatapultWarmup, target=RATE, delta=SHARE, over=COUNT, share=SHARE),
    st.builds(GeN, start=RATE, every=COUNT, points=st.sampled_from([3, 5, 7]), smoothing=SHARE),
)
FACTORS = st.one_of(
    st.none(),
    st.floats(0.01, 2.0),
    st.sampled_from([lrs.warmup(9).then(lrs.Constant(1.0)), 0.5 * lrs.Cosine(1.0, 0.0, 50), lrs.Linear(1.0, 0.0, 5)]),
)


@given(LISTENING, FACTORS)
def test_text_and_spec_give_an_equal_schedule_back(schedule, factor):
    schedule = schedule if factor is None else schedule * factor
    assert parse(schedule.to_text(), listening=True) == schedule
    spec = json.loads(json.dumps(schedule.to_spec()))
    assert from_spec(spec, listening=True) == schedule


@given(LISTENING, FACTORS)
def test_its_value_is_within_its_bounds_and_apart_from_its_factor(schedule, factor):
    whole = schedule if factor is None else schedule * factor
    core, rest = whole.parted()
    low, high = core.bounds()
    for step in (0, 3, 40):
        value = core.value(core.init(), step)
        assert low <= value <= high
        assert whole.value(whole.init(), step) == pytest.approx(value * rest(step), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plateau", lrs.Plateau()),
        (
            "plateau(metric=eval_loss, relative=false, patience=5%)",
            lrs.Plateau("eval_loss", relative=False, patience=50),
        ),
        ("(0.1 * plateau) * cosine(to=0)", lrs.Plateau() * (0.1 * lrs.Cosine(1.0, 0.0, 1000))),
        ("two_phase(large=1, small=0.1, switch=60%)", lrs.TwoPhase(1.0, 0.1, 0.6, 1000)),
        ("two_phase(large=1, small=0.1, switch=plateau)", lrs.TwoPhase(1.0, 0.1)),
        ("auto_ensemble(low=0.01, high=1, window=1 epochs)", lrs.AutoEnsemble(0.01, 1.0, window=20)),
        ("catapult_warmup(target=0.3, share=25%)", CatapultWarmup(0.3, share=0.25)),
        ("gen(start=1e-3) * cosine(to=0)", GeN(1e-3) * lrs.Cosine(1.0, 0.0, 1000)),
        ("warmup(5%) > constant", lrs.warmup(50).then(lrs.Constant(1.0, 950))),
    ],
)
def test_text_means(text, expected):
    assert parse(text, RUN, listening=True) == expected


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("plateau > cosine(to=0)", 1, r"plateau listens and has no length; multiply it .* plateau\(...\) \* cosine"),
        ("warmup(5) > catapult_warmup", 13, "catapult_warmup listens and has no length"),
        ("plateau * gen(start=1)", 11, "only one schedule can listen"),
        ("1 + plateau", 5, "plateau listens and has no length"),
        ("clip(plateau, low=0)", 6, "plateau listens and has no length"),
        ("plateau(5)", 9, "plateau has no length; its options have names: metric, factor"),
        ("plateau(patients=5)", 9, "no option 'patients'; did you mean 'patience'"),
        ("plateau(metric=3)", 9, "metric= must be a name"),
        ("plateau(factor=small)", 9, "factor= must be a number"),
        ("plateau(relative=1)", 9, "relative= must be true or false"),
        ("plateau(patience=[1])", 9, "patience= must be a whole number or a length"),
        ("plateau(factor=3 epochs)", 9, "factor= must be a number"),
        ("two_phase(large=1)", 1, "two_phase needs small="),
        ("plateau(factor=2)", 1, "Plateau: factor must be between 0 and 1, got 2"),
        ("gen(start=1, scale=2)", 14, "gen has no option 'scale'"),
        ("plato", 1, "unknown segment 'plato'; did you mean 'plateau'"),
        ("cosine(to=low)", 11, "expected a number"),
        ("scaled", 1, "unknown segment 'scaled'"),
    ],
)
def test_a_problem_is_one_line_with_its_place(text, place, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        parse(text, RUN, listening=True)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"schedule text, character {place},")


def test_where_only_the_step_decides_what_listens_is_refused():
    with pytest.raises(ScheduleError, match="plateau listens to the run, and here only the step may decide"):
        parse("plateau * cosine(to=0)", 100)
    for schedule in (lrs.Plateau(), 0.5 * lrs.Plateau()):
        with pytest.raises(ScheduleError, match="listens to the run, and here only the step may decide"):
            from_spec(schedule.to_spec())
    inside = {"kind": "join", "parts": [lrs.Plateau().to_spec()]}
    with pytest.raises(ScheduleError, match="Join"):
        from_spec(inside, listening=True)


def test_what_has_no_text_says_so():
    @dataclass(frozen=True)
    class Own(FeedbackSchedule):
        def init(self):
            return {}

        def update(self, state, step, observed):
            return state

        def value(self, state, step):
            return 1.0

    with pytest.raises(ScheduleError, match="Own has no text"):
        Own().to_text()
    with pytest.raises(ScheduleError, match="metric='val loss' is no single word"):
        lrs.Plateau("val loss").to_text()
    with pytest.raises(ScheduleError, match="Scaled: factor must be a Schedule"):
        lrs.feedback.Scaled(lrs.Plateau(), 2.0)  # type: ignore[attr-defined]


def test_a_kind_of_ones_own_is_read_and_belongs_to_one_class():
    @dataclass(frozen=True)
    class Halving(FeedbackSchedule, kind="halving_of_the_tests"):
        every: int = 3

        def init(self):
            return {}

        def update(self, state, step, observed):
            return state

        def value(self, state, step):
            return 0.5 ** (step // self.every)

    assert parse("halving_of_the_tests(every=1 epochs)", RUN, listening=True) == Halving(20)
    with pytest.raises(ScheduleError, match="kind 'plateau' already belongs to Plateau"):
        type("Other", (FeedbackSchedule,), {}, kind="plateau")


@pytest.mark.parametrize(
    "schedule",
    [lrs.Plateau(), lrs.TwoPhase(1.0, 0.1), lrs.AutoEnsemble(0.1, 1.0), CatapultWarmup(), GeN(0.1)],
    ids=lambda s: s.kind,
)
def test_all_hear_a_loss_with_its_graph_and_refuse_what_is_no_number(schedule):
    loss = torch.ones((), requires_grad=True) * 2
    seen = {"critical_lr": 0.1, "best_lr": 0.1, "curvature": 1.0, "forwards": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = schedule.update(schedule.init(), 0, {"loss": loss, **seen})
    assert state == schedule.update(schedule.init(), 0, {"loss": 2.0, **seen})
    for wrong in ("low", None, torch.ones(2)):
        with pytest.raises(ScheduleError, match=f"{type(schedule).__name__}: loss must be a number"):
            schedule.update(schedule.init(), 0, {"loss": wrong})
    if not isinstance(schedule, lrs.AutoEnsemble):  # which may also be told the distance alone
        with pytest.raises(ScheduleError, match=r"'loss' was not observed; .*call scheduler.observe\(loss=...\)"):
            schedule.update(schedule.init(), 0, {"los": 2.0})


def test_those_that_measure_say_where_they_live_without_torch():
    code = """
import sys
sys.modules['torch'] = None
from lrscope.schedules import parse, from_spec
print(parse('plateau * warmup(5)', listening=True).to_text())
for read in (lambda: parse('gen(start=1)', listening=True), lambda: from_spec({'kind': 'gen'}, listening=True)):
    try:
        read()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, text, spec = done.stdout.splitlines()
    assert first == "plateau() * linear(5, from=0.0, to=1.0)"
    assert "gen lives in lrscope.stability; import that first" in text
    assert "import lrscope.stability first" in spec
