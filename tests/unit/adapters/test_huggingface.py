"""Hugging Face's schedulers read from their configuration, judged by transformers' own functions."""

import itertools
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope.adapters.huggingface import schedule_from_config
from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers import ScheduledLR

transformers = pytest.importorskip("transformers")


def factors(config, steps, count, lr=1e-3):
    """What transformers itself multiplies the learning rate by, at steps 0 ... count - 1."""
    args = transformers.TrainingArguments
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    warm = config.get("warmup_steps", 0)
    # The Trainer's own conversion, without building (slow) TrainingArguments for every example.
    warm = args.get_warmup_steps(type("Given", (), {"warmup_steps": warm})(), steps)
    scheduler = transformers.get_scheduler(
        config["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=warm,
        num_training_steps=steps,
        scheduler_specific_kwargs=dict(config.get("lr_scheduler_kwargs", {})),
    )
    return np.array([scheduler.lr_lambdas[0](t) for t in range(count)], dtype=np.float64)


def assert_same(config, steps, lr=1e-3):
    count = 2 * steps + 7
    ours = schedule_from_config({**config, "learning_rate": lr}, steps).values(count)
    # 1 is the scale of a factor; near the zero of a cosine its relative error means nothing.
    np.testing.assert_allclose(ours, factors(config, steps, count, lr), rtol=1e-12, atol=1e-12)


CYCLES = st.one_of(st.integers(1, 6), st.floats(0.1, 4.0))
SHARES = st.floats(0.0, 1.0)
FLOORS = st.one_of(
    st.fixed_dictionaries({"min_lr": st.floats(0.0, 2e-3)}), st.fixed_dictionaries({"min_lr_rate": SHARES})
)
SHAPE = st.sampled_from(["linear", "cosine", "1-sqrt"])
KWARGS = {
    "linear": st.just({}),
    "cosine": st.fixed_dictionaries({}, optional={"num_cycles": CYCLES}),
    "cosine_with_restarts": st.fixed_dictionaries({}, optional={"num_cycles": st.integers(1, 21)}),
    "polynomial": st.fixed_dictionaries({}, optional={"lr_end": st.floats(0, 9e-4), "power": st.floats(0.2, 5.0)}),
    "constant": st.just({}),
    "constant_with_warmup": st.just({}),
    "inverse_sqrt": st.fixed_dictionaries({}, optional={"timescale": st.integers(1, 500)}),
    "cosine_with_min_lr": st.tuples(FLOORS, st.fixed_dictionaries({}, optional={"num_cycles": CYCLES})).map(
        lambda two: two[0] | two[1]
    ),
    "cosine_warmup_with_min_lr": st.tuples(
        FLOORS, st.fixed_dictionaries({}, optional={"num_cycles": CYCLES, "warmup_lr_rate": SHARES})
    ).map(lambda two: two[0] | two[1]),
    "warmup_stable_decay": st.fixed_dictionaries(
        {"num_decay_steps": st.integers(0, 60)},
        optional={"warmup_type": SHAPE, "decay_type": SHAPE, "min_lr_ratio": SHARES, "num_cycles": CYCLES},
    ),
}
LISTENING = {"reduce_lr_on_plateau", "greedy"}


def test_every_scheduler_of_transformers_is_read_or_refused():
    assert {t.value for t in transformers.SchedulerType} == set(KWARGS) | LISTENING


@pytest.mark.parametrize("name", KWARGS)
def test_values_equal_transformers_at_every_step_and_past_the_end(name):
    @settings(max_examples=150, deadline=None)
    @given(kwargs=KWARGS[name], steps=st.integers(1, 80), data=st.data())
    def holds(kwargs, steps, data):
        # A polynomial without a step between warmup and end divides by zero there.
        most = steps - 1 if name == "polynomial" else steps + 5
        warm = data.draw(st.one_of(st.integers(0, most), st.floats(0.0, 0.99 if name != "polynomial" else 0.0)))
        assert_same({"lr_scheduler_type": name, "warmup_steps": warm, "lr_scheduler_kwargs": kwargs}, steps)

    holds()


@pytest.mark.parametrize("stable", [0, 3, 40])
def test_stable_steps_of_their_own_win_over_the_length_of_the_run(stable):
    kwargs = {"num_decay_steps": 5, "num_stable_steps": stable}
    with pytest.warns(UserWarning, match="num_stable_steps will be used"):
        assert_same(
            {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 4, "lr_scheduler_kwargs": kwargs}, 20
        )


def test_restarts_at_whole_steps_are_at_the_peak_for_every_length():
    for cycles, steps in itertools.product(range(1, 22), range(1, 130)):
        kwargs = {"num_cycles": cycles}
        read = schedule_from_config(
            {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": kwargs}, steps
        )
        at = [i * steps // cycles for i in range(cycles) if i * steps % cycles == 0]
        np.testing.assert_allclose(read.values(steps)[at], 1.0, rtol=1e-12)


def test_a_restart_is_never_missed_where_transformers_misses_it_by_rounding():
    # 49 * (1 / 49) is a hair below 1, so there the update that should restart runs at 0.
    config = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 49}}
    assert factors(config, 490, 490)[10] < 1e-10
    assert schedule_from_config(config, 490)(10) == 1.0


def test_training_arguments_their_json_and_the_bare_fields_say_the_same(tmp_path):
    args = transformers.TrainingArguments(
        str(tmp_path),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": 1e-5},
        warmup_steps=0.1,
        learning_rate=1e-4,
        max_steps=50,
        use_cpu=True,
    )
    expected = schedule_from_config(args)
    assert expected(50) == pytest.approx(0.1, rel=1e-12)
    assert schedule_from_config(json.loads(args.to_json_string())) == expected
    fields = {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": '{"min_lr": 1e-5}',
        "warmup_ratio": 0.1,  # up to transformers 4
        "warmup_steps": 0,
        "learning_rate": 1e-4,
    }
    assert schedule_from_config(fields, steps=50) == expected


# What transformers does, and we do or do not (../users.md, section 4).


def test_a_warmup_there_wastes_the_first_update_and_here_is_read_as_it_is():
    read = schedule_from_config({"lr_scheduler_type": "linear", "warmup_steps": 4}, steps=10)
    assert read(0) == 0.0
    from lrscope.schedules import nonzero_warmup

    assert nonzero_warmup(4)(0) == 0.25  # the one that plans use


def test_another_horizon_on_resume_is_silent_there_and_an_error_here():
    def run(build, steps, resumed=None):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = build(optimizer, steps)
        if resumed:
            scheduler.load_state_dict(resumed)
        return optimizer, scheduler

    def theirs(optimizer, steps):
        return transformers.get_cosine_schedule_with_warmup(optimizer, 0, steps)

    def ours(optimizer, steps):
        return ScheduledLR(optimizer, schedule_from_config({"lr_scheduler_type": "cosine"}, steps))

    optimizer, scheduler = run(theirs, 10)
    for _ in range(6):
        optimizer.step()
        scheduler.step()
    before = optimizer.param_groups[0]["lr"]
    again, scheduler = run(theirs, 20, scheduler.state_dict())
    again.step()
    scheduler.step()
    after = again.param_groups[0]["lr"]
    assert before == pytest.approx(0.3455, abs=1e-4)
    assert after == pytest.approx(0.7270, abs=1e-4)  # step 7: twice as high, without a word

    optimizer, scheduler = run(ours, 10)
    for _ in range(6):
        optimizer.step()
        scheduler.step()
    with pytest.raises(ScheduleError, match="schedule"):
        run(ours, 20, scheduler.state_dict())


def test_the_floor_there_is_a_share_of_the_default_rate_and_is_read_as_that():
    groups = [{"params": [torch.zeros(1)], "lr": 0.1}, {"params": [torch.zeros(1)], "lr": 0.01}]
    config = {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 5e-4},
        "learning_rate": 1e-3,
    }
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    scheduler = transformers.get_scheduler("cosine_with_min_lr", optimizer, 0, 10, config["lr_scheduler_kwargs"])
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    ends = [group["lr"] for group in optimizer.param_groups]
    assert ends == pytest.approx([0.05, 0.005])  # not 5e-4
    read = schedule_from_config(config, steps=10)
    assert [0.1 * read(10), 0.01 * read(10)] == pytest.approx(ends)


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        ({"lr_scheduler_type": "cosin"}, 10, "did you mean 'cosine'"),
        ({"lr_scheduler_type": ["cosine"]}, 10, r"unknown \['cosine'\].*allowed: constant"),
        ({"lr_scheduler_type": "linear", "warmup_ratio": 5}, 10, "at most 1, got 5; .*give warmup_steps"),
        ({"lr_scheduler_type": "greedy"}, 10, "follows a metric"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, 10, "follows a metric"),
        ({"lr_scheduler_type": "cosine"}, None, "give steps="),
        ({"lr_scheduler_type": "cosine", "max_steps": 20}, 10, "max_steps of the configuration is 20"),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.5}, None, "give steps="),
        ({"lr_scheduler_type": "linear", "warmup_steps": -1}, 10, "warmup_steps must be 0 or more"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 1}}, 10, "did you mean 'num_cycles'"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 0}}, 10, "greater than 0"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": "{"}, 10, "is not JSON"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": [1]}, 10, "expected a dict"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, 10, "exactly one of min_lr and min_lr_rate"),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}}, 10, "learning_rate"),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": -1}}, 10, "0 or more"),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-8}, 10, "lr_end must be below"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, 10, "needs num_decay_steps"),
        (
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 1, "decay_type": "exp"},
            },
            10,
            "unknown decay_type",
        ),
        ({"learning": 1}, 10, "expected TrainingArguments"),
        ("cosine", 10, "expected TrainingArguments"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_what_to_do(config, steps, message):
    with pytest.raises(ScheduleError, match=message) as error:
        schedule_from_config(config, steps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("warmup_step", "warmup_steps"),
        ("num_warmup_steps", "warmup_steps"),
        ("warmup", "warmup_steps"),
        ("scheduler", "lr_scheduler_type"),
        ("lr_scheduler", "lr_scheduler_type"),
        ("learning_rates", "learning_rate"),
    ],
)
@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
def test_a_field_that_is_nearly_one_of_theirs_is_named(kind, wrong, right):
    config = kind(**{"lr_scheduler_type": "linear", wrong: 100})
    with pytest.warns(LrscopeWarning, match=f"'{wrong}' is not read and has no effect; did you mean '{right}'"):
        schedule_from_config(config, steps=1000)


def test_every_field_that_transformers_has_passes_without_a_word(tmp_path):
    args = transformers.TrainingArguments(str(tmp_path), max_steps=50, use_cpu=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert schedule_from_config(args) == schedule_from_config(args.to_dict())
