"""The translation of weight decay into a growing learning rate, and its tapered relatives: laws and closed forms."""

import dataclasses
import doctest
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError
from lrscope.schedules import (
    Constant,
    Cosine,
    Linear,
    Piecewise,
    exponential,
    exponential_equivalent,
    exponential_rate,
    tapered,
    texp,
)
from lrscope.schedules.exponential import StateMap, most_decay

EPOCH = 391
PAPER = {"base_lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9}
RULES = ["torch", "velocity", "decoupled"]
laws = settings(max_examples=80)


@dataclasses.dataclass(frozen=True, repr=False)
class Listed(lrs.Schedule, kind="listed_for_exponential"):
    """Values given one by one."""

    numbers: tuple[float, ...]

    @property
    def num_steps(self):
        return len(self.numbers) - 1

    def _at(self, t):
        return np.asarray(self.numbers)[np.minimum(t, self.num_steps).astype(int)]


@st.composite
def translations(draw, rules=RULES, max_scales=(None,)):
    """Any rates (zeros among them) and any weight decay that a rescaling can follow."""
    steps = draw(st.integers(2, 25))
    rule = draw(st.sampled_from(rules))
    rates = draw(st.lists(st.just(0.0) | st.floats(1e-6, 1), min_size=steps + 1, max_size=steps + 1))
    decays = draw(st.lists(st.floats(0, 0.5), min_size=steps + 1, max_size=steps + 1))
    gamma = draw(st.sampled_from([0.0, 0.5, 0.9]))
    s = (Listed(tuple(rates)), draw(st.floats(0.01, 1)), Listed(tuple(decays)), gamma, steps, rule)
    try:
        return lrs.ExponentialEquivalent(*s, draw(st.sampled_from(max_scales)))
    except ScheduleError as error:
        assume("no positive rescaling" not in str(error))
        raise


def original_run(s, grads, theta, buffer):
    """The run with weight decay, written out; yields the state before each update and after the last."""
    eta, lam, gamma = s.base_lr * s.schedule.values(s.steps), s.weight_decay.values(s.steps), s.momentum
    for t in range(s.steps):
        yield theta, buffer
        if s.rule == "torch":
            buffer = gamma * buffer + grads[t] + lam[t] * theta
            theta = theta - eta[t] * buffer
        elif s.rule == "velocity":
            buffer = gamma * buffer - eta[t] * (grads[t] + lam[t] * theta)
            theta = theta + buffer
        else:
            buffer = gamma * buffer + grads[t]
            theta = (1 - eta[t] * lam[t]) * theta - eta[t] * buffer
    yield theta, buffer


def translated_run(s, grads, theta, buffer):
    """The run without weight decay, on gradients that shrink as its weights grow."""
    lr, gamma = s.base_lr * s.values(), s.momentum * s.momentum_schedule().values(s.steps)
    for t in range(s.steps):
        factor = s.rebases.get(t, 1.0)
        theta, buffer = theta / factor, buffer / factor if s.rule == "velocity" else buffer * factor
        yield theta, buffer
        grad = grads[t] / s.state_map(t).scale
        if s.rule == "velocity":
            buffer = gamma[t] * buffer - lr[t] * grad
            theta = theta + buffer
        else:
            buffer = gamma[t] * buffer + grad
            theta = theta - lr[t] * buffer
    factor = s.rebases.get(s.steps, 1.0)
    yield theta / factor, buffer / factor if s.rule == "velocity" else buffer * factor


@laws
@given(translations(max_scales=(None, 1.5, 2.0)), st.integers(0, 99), st.booleans())
def test_the_two_runs_are_one_run_up_to_the_state_map(s, seed, warm_buffer):
    rng = np.random.default_rng(seed)
    grads, theta = rng.normal(size=(s.steps, 3)), rng.normal(size=3)
    buffer = rng.normal(size=3) if warm_buffer else np.zeros(3)
    pairs = zip(original_run(s, grads, theta, buffer), translated_run(s, grads, theta, buffer), strict=True)
    for t, (ours, theirs) in enumerate(pairs):
        m = s.state_map(t)
        for mapped, reached in zip(m.forward(*ours), theirs, strict=True):
            assert np.allclose(mapped, reached, rtol=1e-9, atol=1e-10 * max(1.0, np.abs(reached).max()))
        for back, there in zip(m.backward(*m.forward(*ours)), ours, strict=True):
            assert np.allclose(back, there, rtol=1e-12, atol=1e-12)


@laws
@given(translations(rules=["torch"]))
def test_the_norm_identity(s):
    """||theta~||^2 / eta~ = a ||theta||^2 / eta, with ||theta~|| = c ||theta||."""
    r, eta = s.recurrence, s.base_lr * s.schedule.values(s.steps + 1)
    assert np.allclose(np.exp(2 * r.log_scale) * eta, r.a * r.lr, rtol=1e-12)


@laws
@given(translations(rules=["torch"]))
def test_the_per_step_ratio(s):
    """eta~_{t+1} / eta~_t = (eta_{t+1} / eta_t) / (a_t a_{t+1}), written without division by a rate that may be 0."""
    r, eta = s.recurrence, s.base_lr * s.schedule.values(s.steps + 1)
    left, right = r.lr[1:] * eta[:-1] * r.a[:-1] * r.a[1:], eta[1:] * r.lr[:-1]
    assert np.allclose(left, right, rtol=1e-12, atol=1e-300)


@laws
@given(translations(), st.sampled_from([2.0, 2.0**5, 2.0**20]))
def test_rebasing_by_powers_of_two_rounds_nothing(s, most):
    rebased = dataclasses.replace(s, max_scale=most)
    r, plain = rebased.recurrence, s.recurrence
    assert np.array_equal(r.lr * most ** (2.0 * r.level), plain.lr)
    assert np.array_equal(r.a, plain.a)
    assert np.allclose(r.log_scale, plain.log_scale, rtol=1e-12, atol=1e-13)
    assert r.scale.max() < most
    assert math.prod(rebased.rebases.values()) == most ** r.level[-1]
    assert np.array_equal(rebased.momentum_schedule().values(s.steps), s.momentum_schedule().values(s.steps))


@laws
@given(st.floats(1e-4, 0.9), st.sampled_from([0.0, 0.5, 0.9, 0.95]))
def test_the_shrinking_falls_to_the_larger_root(share, gamma):
    eta, lam = 1.0, share * most_decay(gamma)
    r = exponential_equivalent(Constant(1.0), base_lr=eta, weight_decay=lam, momentum=gamma, steps=4000).recurrence
    alpha = exponential_rate(eta, lam, gamma)
    assert r.a[0] == pytest.approx(1 - eta * lam, rel=1e-15)
    assert (np.diff(r.a) <= 1e-15).all()
    assert r.a[-1] == pytest.approx(alpha, rel=1e-9)
    assert (r.a >= alpha * (1 - 1e-12)).all()
    x = alpha
    assert x * x - (1 + gamma - eta * lam) * x + gamma == pytest.approx(0, abs=1e-14)


@laws
@given(translations(max_scales=(None, 4.0)))
def test_a_translation_is_a_schedule_like_any_other(s):
    parts = [s, s.momentum_schedule()] if s.momentum and s.rule != "torch" else [s]
    for part in parts:
        table = part.values(s.steps + 5)
        assert [part(t) for t in range(s.steps + 5)] == table.tolist()
        assert (table[s.steps :] == part(s.steps)).all()  # the end value is held
        names = {**vars(lrs), "Listed": Listed}
        assert eval(repr(part), names) == part
        for back in (
            lrs.from_spec(json.loads(json.dumps(part.to_spec()))),
            pickle.loads(pickle.dumps(part)),
        ):
            assert back == part
            assert hash(back) == hash(part)
            assert np.array_equal(back.values(s.steps + 1), part.values(s.steps + 1))


def test_without_momentum_it_is_the_closed_form():
    """Every update scales by 1 - lr*wd, so the rate is (1 - lr*wd)^(-2t-1) times the original."""
    s = exponential_equivalent(Constant(1.0), base_lr=0.1, weight_decay=0.3, steps=50, max_scale=None)
    assert np.allclose(s.values(), 0.97 ** (-2 * np.arange(50) - 1.0), rtol=1e-13)
    both = [
        exponential_equivalent(Cosine(1, 0, 50), base_lr=0.1, weight_decay=0.3, steps=50, rule=r).values(60)
        for r in RULES
    ]
    assert np.allclose(both[0], both[1], rtol=1e-12)
    assert np.array_equal(both[0], both[2])


def test_without_weight_decay_nothing_changes():
    original = Linear(0.0, 1.0, 5).then(Cosine(1.0, 0.0, 20))
    for rule in RULES:
        s = exponential_equivalent(original, base_lr=1.0, weight_decay=0.0, momentum=0.9, rule=rule)
        assert np.array_equal(s.values(40), original.values(40))
        assert (s.momentum_schedule().values(40) == 1.0).all()
        assert s.rebases == {}


def test_growth_per_epoch_at_the_papers_setting():
    """Derived from the formula; the figure of the paper agrees: 1.481 per epoch, and 12.65, 12.33, 11.64."""
    assert [round(exponential_rate(lr, 5e-4, 0.9) ** (-2 * EPOCH), 4) for lr in (0.1, 0.01, 0.001)] == [
        1.4812,
        1.0399,
        1.0039,
    ]
    steps = Piecewise((1.0, 0.1, 0.01), (80 * EPOCH, 120 * EPOCH))
    tapered = texp(steps, **PAPER, steps=300 * EPOCH)
    exact = exponential_equivalent(steps, **PAPER, steps=300 * EPOCH, max_scale=None)
    ends = np.array([80, 120, 300]) * EPOCH - 1
    assert np.log10(0.1 * tapered.values()[ends]) == pytest.approx([12.65, 12.33, 11.64], abs=0.006)
    assert np.log10(0.1 * exact.values()[ends]) == pytest.approx([12.65, 12.33, 11.64], abs=0.012)


def test_texp_is_its_recursion():
    levels, starts, n = (1.0, 0.2, 0.04, 0.1), (7, 15, 16), 30
    s = texp(Piecewise(levels, starts), base_lr=0.1, weight_decay=0.01, momentum=0.9, steps=n)
    minus = lrs.texp_minus(Piecewise(levels, starts), base_lr=0.1, weight_decay=0.01, momentum=0.9, steps=n)
    phase = np.searchsorted(starts, np.arange(n), side="right")
    alpha = [exponential_rate(0.1 * level, 0.01, 0.9) for level in levels]
    with_drops, without = [1.0 / alpha[0]], [1.0 / alpha[0]]
    for t in range(1, n):
        now, before = phase[t], phase[t - 1]
        with_drops.append(with_drops[-1] * levels[now] / levels[before] / (alpha[now] * alpha[before]))
        without.append(without[-1] / (alpha[now] * alpha[before]))
    assert np.allclose(s.values(), with_drops, rtol=1e-12)
    assert np.allclose(minus.values(), without, rtol=1e-12)
    assert s.num_steps == minus.num_steps == n
    assert lrs.from_spec(s.to_spec()) == s


def test_texp_of_a_constant_is_the_theorem():
    s = texp(Constant(1.0), base_lr=0.1, weight_decay=0.01, momentum=0.9, steps=60)
    assert np.allclose(s.values(), exponential_rate(0.1, 0.01, 0.9) ** (-2 * np.arange(60) - 1.0), rtol=1e-12)


def test_the_exact_translation_of_texp_minus_is_a_divided_weight_decay():
    """The paper's reading of TEXP--, up to the correction of the buffer at the switch: the growths agree."""
    n = 4000
    divided = exponential_equivalent(
        Constant(1.0), base_lr=0.1, weight_decay=Piecewise((0.01, 0.001), (1000,)), momentum=0.9, steps=n
    )
    minus = lrs.texp_minus(Piecewise((1.0, 0.1), (1000,)), base_lr=0.1, weight_decay=0.01, momentum=0.9, steps=n)
    for t in (900, n - 2):
        factor = 2.0**40 if t + 1 in divided.rebases else 1.0
        assert factor * divided(t + 1) / divided(t) == pytest.approx(minus(t + 1) / minus(t), rel=1e-10)


def test_rates_of_zero_pass_weight_decay_on():
    """While the rate is 0 nothing moves, but the buffer gathers: the state map says how much of it is decay."""
    s = exponential_equivalent(Listed((1.0, 0.0, 0.0, 1.0, 1.0)), base_lr=0.1, weight_decay=0.5, momentum=0.5)
    assert s.values(3).tolist() == [s(0), 0.0, 0.0]
    q = s.recurrence.q
    assert q[2] == 0.5 + 0.5 * q[1]
    assert q[3] == 0.5 + 0.5 * q[2]
    assert s.state_map(3) == StateMap(s.recurrence.scale[3], 1 / s.recurrence.scale[3], q[3])


def test_a_scheduled_momentum_is_followed():
    gamma = Linear(0.95, 0.85, 20)
    s = exponential_equivalent(Constant(1.0), base_lr=0.1, weight_decay=0.01, momentum=gamma, steps=20)
    assert np.array_equal(s.recurrence.momentum[:20], gamma.values())
    assert s.momentum_schedule() == Constant(1.0)
    a, q = s.recurrence.a, 0.0
    for t in range(20):
        p = 0.01 + gamma(t) * q
        q = p / (1 - 0.1 * p)
        assert a[t] == pytest.approx(1 - 0.1 * p, rel=1e-15)


@pytest.mark.parametrize(("share", "first"), [(1.01, 576), (1.5, 67), (4.0, 22)], ids=lambda v: str(v))
def test_too_much_weight_decay_is_refused_at_its_step(share, first):
    lam = share * most_decay(0.9)
    arguments = {"base_lr": 1.0, "weight_decay": lam, "momentum": 0.9}
    exponential_equivalent(Constant(1.0), **arguments, steps=first - 1)  # short runs still have one
    with pytest.raises(ScheduleError, match=rf"step {first}: .*no positive rescaling.* 0.0026334;"):
        exponential_equivalent(Constant(1.0), **arguments, steps=10_000)
    with pytest.raises(ScheduleError, match=r"\(1 - sqrt\(momentum\)\)\*\*2 = 0.0026334"):
        exponential_rate(1.0, lam, 0.9)


def test_at_the_bound_there_is_a_translation():
    r = exponential_equivalent(
        Constant(1.0), base_lr=1.0, weight_decay=most_decay(0.9), momentum=0.9, steps=20_000
    ).recurrence
    assert r.a[-1] == pytest.approx(math.sqrt(0.9), rel=1e-3)  # slowly


def refused(match, **changes):
    arguments = {"schedule": Constant(1.0), **PAPER, "steps": 10, **changes}
    return pytest.param(arguments, match, id=match[:40])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        refused("nesterov=True has no exact equivalent", nesterov=True),
        refused("dampening must be 0, got 0.5", dampening=0.5),
        refused("never ends; say how many updates", steps=None),
        refused("schedule must be a Schedule", schedule=0.1),
        refused("base_lr must be greater than 0", base_lr=0.0),
        refused("weight_decay must be 0 or more, got -1 at step 0", weight_decay=-1.0),
        refused("schedule must be 0 or more, got -0.5 at step 3", schedule=Linear(1.0, -0.5, 3)),
        refused("momentum must be in .0, 1., got 1 at step 0", momentum=1.0),
        refused("momentum must be a number with rule='velocity'", rule="velocity", momentum=Constant(0.9)),
        refused("unknown rule 'decuopled'; did you mean 'decoupled'", rule="decuopled"),
        refused("max_scale must be greater than 1.01", max_scale=1.0),
        refused("steps must be a whole number", steps=0),
        refused("steps must be at most 10,000,000", steps=10_000_001),
        refused("step 155.*passes 1e30; let the run be rebased", weight_decay=2.0, momentum=0.0, max_scale=None, steps=999),
    ],
)  # fmt: skip
def test_what_has_no_translation_is_refused_in_one_line(arguments, match):
    with pytest.raises(ScheduleError, match=match) as caught:
        exponential_equivalent(**arguments)
    assert "\n" not in str(caught.value)


def test_decoupled_decay_is_bounded_by_one():
    with pytest.raises(ScheduleError, match="can stay at most 1 = 1"):
        exponential_equivalent(Constant(1.0), base_lr=1.0, weight_decay=1.0, steps=5, rule="decoupled")


def test_steps_between_steps_are_refused():
    s = exponential_equivalent(Constant(1.0), **PAPER, steps=10)
    with pytest.raises(ScheduleError, match=r"whole steps only, not at 0.5; stretch the original"):
        s._at(np.array([0.0, 0.5]))
    with pytest.raises(ScheduleError, match="step must be at most steps=10"):
        s.state_map(11)


def test_a_momentum_schedule_needs_a_momentum():
    with pytest.raises(ScheduleError, match="of must be an ExponentialEquivalent"):
        lrs.EquivalentMomentum(Constant(1.0))
    with pytest.raises(ScheduleError, match="of must change the momentum"):
        lrs.EquivalentMomentum(exponential_equivalent(Constant(1.0), base_lr=1, weight_decay=0.1, steps=2))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: texp(Cosine(1, 0, 9), **PAPER, steps=9), "must be a Piecewise or a Constant"),
        (lambda: texp(Piecewise((1.0, 0.0), (4,)), **PAPER, steps=9), "value of a phase must be greater"),
        (lambda: texp(Constant(1.0), **PAPER, steps=200 * EPOCH), "begins at step 0 grows beyond 1e30"),
        (lambda: texp(Constant(1.0), **PAPER, steps=20_000 * EPOCH), "begins at step 0 grows beyond 1e30"),
        (lambda: texp(Constant(1.0), base_lr=1, weight_decay=0.1, momentum=0.9, steps=9), "at most .* 0.0026334"),
        (lambda: exponential_rate(-1.0, 0.1), "must be 0 or more"),
        (lambda: exponential_rate(1.0, 1.0), "less than 1"),
    ],
)
def test_a_tapered_schedule_refuses(build, match):
    with pytest.raises(ScheduleError, match=match):
        build()


@pytest.mark.parametrize("module", [exponential, tapered], ids=lambda m: m.__name__)
def test_the_examples_print_what_they_say(module):
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
