"""timm's schedulers and configurations, imported, against timm run as its training script runs it.

timm cannot be imported whole without torchvision, which these tests do not need: its scheduler package alone is loaded,
from wherever timm is installed (``pip install --no-deps timm==1.0.31``) or from the folder named by ``TIMM_PATH``.
"""

import doctest
import importlib.util
import math
import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrscope import schedules as lrs
from lrscope.adapters import timm as adapter
from lrscope.adapters.timm import TimmStepping, from_timm
from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers import ScheduledLR

RTOL, ATOL = 1e-12, 1e-14


def _load():
    """The package ``timm.scheduler`` behind a bare module in the place of ``timm``."""
    places = [Path(p) / "timm" for p in [os.environ.get("TIMM_PATH")] if p]
    if not places:
        spec = importlib.util.find_spec("timm")
        places = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    if not any((p / "scheduler" / "__init__.py").exists() for p in places):
        return None
    before = sys.modules.get("timm")
    bare = types.ModuleType("timm")
    bare.__path__ = [str(p) for p in places]
    sys.modules["timm"] = bare
    try:
        import timm.scheduler as found
    finally:
        if before is None:
            del sys.modules["timm"]
        else:
            sys.modules["timm"] = before
    return found


ts = _load()
needs_timm = pytest.mark.skipif(ts is None, reason="timm is not installed")


def optimizer(rates=(0.1,), scales=(None,)):
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr": lr} | ({} if scale is None else {"lr_scale": scale})
        for lr, scale in zip(rates, scales, strict=True)
    ]
    return torch.optim.SGD(groups)


def as_the_script_runs_it(opt, scheduler, updates, updates_per_epoch, metrics=None):
    """The rates of every update: ``step_update`` after each, ``step`` with the next epoch's number after each epoch."""
    rows = []
    for done in range(1, updates + 1):
        rows.append([float(g["lr"]) for g in opt.param_groups])
        opt.step()
        if scheduler is not None:
            scheduler.step_update(done, 0.5)
            if done % updates_per_epoch == 0:
                epoch = done // updates_per_epoch
                scheduler.step(epoch, None if metrics is None else metrics[epoch - 1])
    return np.array(rows)


def compare(ours, theirs, opt, reference, updates_per_epoch, updates):
    ours = TimmStepping(ours.run(opt), updates_per_epoch)
    got = as_the_script_runs_it(opt, ours, updates, updates_per_epoch)
    expected = as_the_script_runs_it(reference, theirs, updates, updates_per_epoch)
    np.testing.assert_allclose(got, expected, rtol=RTOL, atol=ATOL)


@st.composite
def configs(draw):
    """A configuration, and how many updates an epoch has."""
    epochs = draw(st.integers(2, 9))
    config = {
        "sched": draw(
            st.sampled_from(["cosine", "tanh", "poly", "step", "constant", "multistep", "wsd", "rsqrt", "none"])
        ),
        "epochs": epochs,
        "lr": 0.1,
        "min_lr": draw(st.sampled_from([0.0, 1e-5, 0.02])),
        "warmup_epochs": draw(st.integers(0, 3)),
        "warmup_lr": draw(st.sampled_from([0.0, 1e-5, 0.03])),
        "warmup_prefix": draw(st.booleans()),
        "cooldown_epochs": draw(st.integers(0, 2)),
        "decay_epochs": draw(st.sampled_from([1, 2, 2.4, 0.5])),
        "decay_milestones": sorted(draw(st.lists(st.integers(1, 9), max_size=3))),
        "decay_rate": draw(st.sampled_from([0.1, 0.5, 0.97, 1.0, 2.0])),
        "lr_cycle_mul": draw(st.sampled_from([1.0, 1.0, 2.0, 3.0])),
        "lr_cycle_decay": draw(st.sampled_from([0.1, 0.5, 1.0])),
        "lr_cycle_limit": draw(st.integers(1, 3)),
        "lr_k_decay": draw(st.sampled_from([1.0, 1.0, 0.5, 1.7])),
        "lr_decay_fn": draw(st.sampled_from([None, "linear", "1-sqrt", "cosine", "power", "exp"])),
        "lr_stable_timescale": draw(st.sampled_from([2, 3.5])),
        "sched_on_updates": draw(st.booleans()),
        "dataset": "other keys are not ours",
    }
    return config, draw(st.integers(1, 5))


@needs_timm
@settings(max_examples=400, deadline=None)
@given(drawn=configs(), scales=st.sampled_from([(None, None), (1.0, 0.5)]))
def test_a_configuration_is_timms_schedule_at_every_update(drawn, scales):
    config, per_epoch = drawn
    rates = (0.1, 0.4)
    reference, opt = optimizer(rates, scales), optimizer(rates, scales)
    updates = 40 * per_epoch
    try:
        theirs, _ = ts.create_scheduler(types.SimpleNamespace(**config), reference, updates_per_epoch=per_epoch)
    except ValueError:  # the decay of wsd does not fit
        with pytest.raises(ScheduleError, match="decay_epochs"):
            from_timm(config, updates_per_epoch=per_epoch, optimizer=opt)
        return
    if config["sched"] == "none":
        scales = (None, None)
        assert theirs is None
        assume(opt.param_groups[0].get("lr_scale") is None)
    ours = from_timm(config, updates_per_epoch=per_epoch, optimizer=opt, steps=updates)
    if theirs is not None:
        assert from_timm(theirs, updates_per_epoch=per_epoch, steps=updates) == ours
    compare(ours, theirs, opt, reference, per_epoch, updates)


@needs_timm
@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "CosineLRScheduler",
            {"t_initial": 7, "cycle_mul": 1.5, "cycle_limit": 3, "cycle_decay": 0.5, "lr_min": 1e-3},
        ),
        ("PolyLRScheduler", {"t_initial": 9, "power": 2.0, "k_decay": 2.0, "warmup_t": 3}),
        ("TanhLRScheduler", {"t_initial": 9, "lb": -3.0, "ub": 2.0, "warmup_t": 2, "warmup_lr_init": 1e-4}),
        ("WSDLRScheduler", {"t_initial": 12, "decay_t": 5, "stable_fn": "power", "stable_power": 0.3, "warmup_t": 4}),
        ("WSDLRScheduler", {"t_initial": 12, "decay_t": 12, "decay_fn": lambda x: (1 - x) ** 3, "warmup_t": 4}),
        ("WSDLRScheduler", {"t_initial": 12, "decay_t": 3, "decay_fn": "exp", "decay_ratio": 0.01, "lr_min": 0.01}),
        ("MultiStepLRScheduler", {"decay_t": [1, 4, 4], "decay_rate": 0.5}),
    ],
)
@pytest.mark.parametrize("in_epochs", [True, False])
def test_what_no_configuration_can_say_is_read_from_the_scheduler(name, options, in_epochs):
    reference, opt = optimizer(), optimizer()
    theirs = getattr(ts, name)(reference, t_in_epochs=in_epochs, **options)
    ours = from_timm(theirs, updates_per_epoch=3 if in_epochs else None)
    compare(ours, theirs, opt, reference, 3, 120)


@needs_timm
@settings(max_examples=50, deadline=None)
@given(
    metrics=st.lists(st.floats(0, 2), min_size=12, max_size=12),
    eval_metric=st.sampled_from(["top1", "loss"]),
    patience=st.integers(0, 3),
    min_lr=st.sampled_from([0.0, 1e-3]),
)
def test_plateau(metrics, eval_metric, patience, min_lr):
    config = {"sched": "plateau", "eval_metric": eval_metric, "patience_epochs": patience, "min_lr": min_lr}
    config |= {"warmup_epochs": 0, "decay_rate": 0.3, "lr": 0.1}
    reference, opt = optimizer(), optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs, _ = ts.create_scheduler(types.SimpleNamespace(**config), reference)
    ours = from_timm(config, updates_per_epoch=2, optimizer=opt)
    assert from_timm(theirs).only() == ours.only()
    got = as_the_script_runs_it(opt, TimmStepping(ours.run(opt), 2), 24, 2, metrics)
    np.testing.assert_allclose(got, as_the_script_runs_it(reference, theirs, 24, 2, metrics), rtol=RTOL)


@needs_timm
def test_timm_can_miss_a_restart_by_the_rounding_of_its_logarithm():
    """The one difference that docs/from_timm.md names: with five cycles of 3 times the length, and more."""
    reference = optimizer((1.0,))
    theirs = ts.CosineLRScheduler(reference, 2, cycle_mul=3.0, cycle_limit=6, t_in_epochs=False)
    values = from_timm(theirs).only().values(800)
    expected = as_the_script_runs_it(reference, theirs, 800, 800)[:, 0]
    missed = np.flatnonzero(~np.isclose(values, expected, rtol=RTOL, atol=ATOL))
    restarts = [2 * (3**i - 1) // 2 for i in range(7)]
    assert missed.tolist() == [t for t in restarts if math.floor(math.log(1 + t, 3.0)) != round(math.log(1 + t, 3.0))]
    assert missed.size == 1
    assert values[missed[0]] == 1.0
    assert expected[missed[0]] < 1e-12


def test_a_configuration_is_read_without_timm_and_as_formulas():
    config = {"sched": "cosine", "epochs": 10, "lr": 0.5, "min_lr": 0.05, "warmup_epochs": 2, "warmup_lr": 0.005}
    on_updates = from_timm(config | {"sched_on_updates": True}, updates_per_epoch=100).only()
    assert on_updates == lrs.Linear(0.01, 1.0, 200).then(lrs.Cosine(1.0, 0.1, 1000).after(200))
    prefix = config | {"sched_on_updates": True, "warmup_prefix": True}
    assert from_timm(prefix, updates_per_epoch=100).only() == lrs.Linear(0.01, 1.0, 200).then(
        lrs.Cosine(1, 0.1, 1000)
    )
    stairs = from_timm(config, updates_per_epoch=100).only()
    by_epoch = lrs.Linear(0.01, 1.0, 2).then(lrs.Cosine(1.0, 0.1, 10).after(2)).values(15)
    assert stairs.values(1500).tolist() == np.repeat(by_epoch, 100).tolist()


def test_the_face_is_stateless_as_timms_and_resumes_by_number():
    s = lrs.warmup(6).then(lrs.Cosine(1.0, 0.0, 14))
    straight, resumed = optimizer(), optimizer()
    whole = as_the_script_runs_it(straight, TimmStepping(ScheduledLR(straight, s), 5), 20, 5)[:, 0]
    assert whole.tolist() == [0.1 * s(t) for t in range(20)]
    again = TimmStepping(ScheduledLR(resumed, s), 5)
    again.step(2)  # as the script does with --resume at epoch 2, before any update
    assert resumed.param_groups[0]["lr"] == whole[10]
    again.step_update(13)
    assert resumed.param_groups[0]["lr"] == whole[13]
    state = again.state_dict()
    third = TimmStepping(ScheduledLR(other := optimizer(), s), 5)
    third.load_state_dict(state)
    assert other.param_groups[0]["lr"] == whole[13]


@pytest.mark.parametrize(("given", "real", "jumps"), [(5, 6, True), (6, 6, False), (7, 6, True)])
def test_a_wrong_length_of_the_epoch_is_said_once_not_at_every_jump(given, real, jumps):
    opt = optimizer()
    stepping = TimmStepping(ScheduledLR(opt, lrs.Linear(1.0, 0.0, 40)), given)
    stepping.step(0)  # before the first update, as on resume
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        as_the_script_runs_it(opt, stepping, 4 * real, real)
    told = [str(w.message) for w in said if issubclass(w.category, LrscopeWarning)]
    assert (
        told
        == [
            f"TimmStepping: step(epoch=1) goes to update {given}, but the loop has just reported {real} updates; "
            f"updates_per_epoch={given} does not fit the loop"
        ]
        * jumps
    )


def test_without_an_optimizer_the_factors_are_for_looking_at():
    config = {"sched": "cosine", "epochs": 10, "lr": 0.1, "warmup_epochs": 0, "min_lr": 0.01}
    unknown = from_timm(config, updates_per_epoch=2)
    opt = optimizer((0.1, 0.4), (1.0, 0.5))
    with pytest.raises(ScheduleError, match=r"was read without an optimizer.*give the importer optimizer="):
        unknown.run(opt)
    assert all("initial_lr" not in g for g in opt.param_groups)
    from_timm(config, updates_per_epoch=2, optimizer=opt).run(opt)
    assert [g["lr"] for g in opt.param_groups] == [0.1, 0.2]
    unknown.run(other := optimizer((0.3,)), base="own")
    assert other.param_groups[0]["lr"] == 0.3


OTHER_KEYS = [
    "model_ema_warmup",
    "mixup_off_epoch",
    "epoch_repeats",
    "start_epoch",
    "cooldown_epochs",
    "lr_base",
    "lr_base_scale",
    "lr_noise_pct",
    "lr_noise_std",
    "layer_decay",
    "weight_decay",
    "model_ema_decay",
    "eval_metric",
    "grad_accum_steps",
    "seed",
    "opt",
    "batch_size",
]
"""Of timm's training script: those that resemble the keys of the schedule, and some others."""


def test_a_key_that_is_nearly_one_of_timms_is_named_and_other_keys_are_not():
    config = {"sched": "cosine", "epochs": 10, "lr": 0.1}
    for wrong, right in [("warmup_epoch", "warmup_epochs"), ("Epochs", "epochs"), ("num_warmup", "warmup_lr")]:
        for given_config in (config | {wrong: 10}, types.SimpleNamespace(**config, **{wrong: 10})):
            with pytest.warns(
                LrscopeWarning, match=f"'{wrong}' is not read and has no effect; did you mean '{right}'"
            ):
                from_timm(given_config, updates_per_epoch=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_timm(dict.fromkeys(OTHER_KEYS, "top1") | config, updates_per_epoch=5)


def test_what_cannot_be_read_is_refused_in_one_line():
    config = {"sched": "cosine", "epochs": 10, "lr": 0.1}
    cases = [
        ({"sched": "cosin", "lr": 0.1}, "unknown 'cosin'; did you mean 'cosine'"),
        (config | {"lr_noise": [0.4, 0.9]}, "lr_noise: a rate with random noise is no schedule"),
        (config | {"lr": None}, "lr: needed to turn min_lr"),
        (config | {"sched": "step", "decay_epochs": 2.4}, "steps: needed to tabulate the values"),
        (config | {"sched": "plateau"}, "plateau: a warmup before"),
        (config | {"sched": "wsd", "decay_epochs": 30}, "decay_epochs: the decay of 30 must fit in the 5"),
        (config | {"sched": "rsqrt", "decay_epochs": 2, "warmup_epochs": 0}, "lr_stable_timescale: needed"),
        (
            config | {"sched": "wsd", "decay_epochs": 2, "lr_decay_fn": "sqrt"},
            "unknown 'sqrt'; did you mean '1-sqrt'",
        ),
        (config | {"warmup_epochs": 1.5}, r"config: warmup_epochs must be a whole number of epochs, got 1\.5"),
        (
            config | {"warmup_epochs": 0.5, "sched_on_updates": True},
            r"config: warmup_epochs must be a whole number of updates \(epochs times updates_per_epoch\), got 0\.5",
        ),
        (config | {"warmup_epochs": -1}, "config: warmup_epochs must be a whole number of epochs, got -1"),
        (config | {"sched": "wsd", "epochs": 7.5}, r"config: epochs must be a whole number of epochs, got 7\.5"),
        (config | {"epochs": "300"}, "epochs must be a number greater than 0, got '300'"),
        (config | {"epochs": 0}, "epochs must be greater than 0"),
        (config | {"lr_cycle_limit": 1.5}, "config: lr_cycle_limit must be a whole number"),
        (config | {"sched": "multistep", "decay_milestones": 30}, "decay_milestones must be a list"),
        ({"lr": 0.1}, "expected a timm scheduler or a configuration with sched"),
    ]
    for given_config, match in cases:
        with pytest.raises(ScheduleError, match=match) as caught:
            from_timm(given_config, updates_per_epoch=5)
        assert "\n" not in str(caught.value)
    with pytest.raises(ScheduleError, match="updates_per_epoch: needed"):
        from_timm(config)
    with pytest.raises(ScheduleError, match="lr_scale cannot be read"):
        from_timm(
            config | {"sched": "plateau", "warmup_epochs": 0},
            updates_per_epoch=5,
            optimizer=optimizer((0.1,), (0.5,)),
        )
    with pytest.raises(TypeError, match="expected a ScheduledLR, got SGD"):
        TimmStepping(optimizer(), 5)
    with pytest.raises(ScheduleError, match="num_updates"):
        TimmStepping(ScheduledLR(optimizer(), lrs.Constant(1.0)), 5).step_update(-1)


def test_examples_run():
    assert doctest.testmod(adapter).failed == 0
