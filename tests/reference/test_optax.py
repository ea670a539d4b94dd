"""Our schedules inside optax: the same values, traced."""

import sys

import numpy as np
import pytest

from lrscope import schedules as lrs
from lrscope.adapters.optax import to_optax
from lrscope.errors import MissingExtraError, ScheduleError

SCHEDULE = lrs.warmup(5).then(lrs.Cosine(1.0, 0.1, 20))


@pytest.mark.parametrize("x64", [False, True])
def test_values_are_ours_rounded_once_under_jit_vmap_and_scan(x64):
    jax = pytest.importorskip("jax")
    with jax.experimental.enable_x64(x64) if hasattr(jax.experimental, "enable_x64") else jax.enable_x64(x64):
        jnp, rate = jax.numpy, to_optax(SCHEDULE, base=3e-4)
        dtype = np.float64 if x64 else np.float32
        expected = (3e-4 * SCHEDULE.values(40)).astype(dtype)
        counts = jnp.arange(40)
        plain = np.array([rate(t) for t in range(40)])
        assert plain.dtype == dtype
        assert (plain == expected).all()
        assert (np.array([jax.jit(rate)(t) for t in counts]) == expected).all()
        assert (np.asarray(jax.vmap(rate)(counts)) == expected).all()
        assert (np.asarray(rate(counts)) == expected).all()
        _, scanned = jax.lax.scan(lambda t, _: (t + 1, rate(t)), 0, None, length=40)
        assert (np.asarray(scanned) == expected).all()
        with pytest.raises(TypeError, match="whole number"):
            rate(0.5)


def test_optax_trains_with_it_as_with_its_own():
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")

    def run(rate):
        optimizer = optax.sgd(rate)

        @jax.jit
        def step(theta, state):
            updates, state = optimizer.update(jax.grad(lambda x: (x**2).sum() / 2)(theta), state)
            return optax.apply_updates(theta, updates), state

        theta = jax.numpy.ones(3)
        state, path = optimizer.init(theta), []
        for _ in range(30):
            theta, state = step(theta, state)
            path.append(float(theta[0]))
        return path

    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.5, warmup_steps=5, decay_steps=25, end_value=0.05)
    np.testing.assert_allclose(run(to_optax(SCHEDULE, base=0.5)), run(theirs), rtol=1e-5)


def test_a_schedule_is_already_a_callable_of_the_step():
    optax = pytest.importorskip("optax")
    theirs = optax.linear_schedule(0.0, 1.0, 4)
    assert [lrs.warmup(4)(t) for t in range(7)] == [float(theirs(t)) for t in range(7)]
    joined = optax.join_schedules([to_optax(lrs.warmup(4)), to_optax(lrs.Linear(1.0, 0.0, 4))], boundaries=[4])
    assert [float(joined(t)) for t in (2, 4, 6, 99)] == [0.5, 1.0, 0.5, 0.0]


def test_what_cannot_be_done_is_said_before_jax_is_asked_for(monkeypatch):
    with pytest.raises(ScheduleError, match="never ends; say how many values: steps="):
        to_optax(lrs.InverseSqrt(1.0, 5))
    with pytest.raises(ScheduleError, match="must be a Schedule"):
        to_optax(0.1)
    with pytest.raises(ScheduleError, match="steps"):
        to_optax(SCHEDULE, steps=-1)
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setitem(sys.modules, "jax.numpy", None)
    with pytest.raises(MissingExtraError, match="pip install jax optax"):
        to_optax(SCHEDULE)
