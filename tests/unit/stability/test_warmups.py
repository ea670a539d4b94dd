"""Warmups that know the landscape: closed forms, quadratics, torch's own steps; every awkward reality of the start."""

import io
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lrscope as lrs
from fingerprints import everything
from lrscope.errors import LrscopeWarning, MeasurementError, ScheduleError
from lrscope.records import Cost, CriticalLR
from lrscope.schedules import Constant, Linear
from lrscope.stability import CatapultWarmup, critical_lr, find_jump, warmup_from_critical
from lrscope.stability.built_up import built_up

CURVATURE = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)


class Bowl(torch.nn.Module):
    """A quadratic plus a quartic, so that catapults come back."""

    def __init__(self, quartic=0.0, start=(1.0, -2.0, 0.5)):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.quartic = quartic

    def forward(self, scale):
        return scale * (0.5 * (CURVATURE * self.theta**2).sum() + self.quartic * (self.theta**4).sum())


def loss_fn(model, batch):
    return model(batch).mean()


def ready(optimizer="SGD", quartic=0.0, **options):
    model = Bowl(quartic)
    opt = getattr(torch.optim, optimizer)(model.parameters(), **({"lr": 1.0} | options))
    batch = torch.ones(2, dtype=torch.float64)
    loss_fn(model, batch).backward()
    return model, opt, lrs.Objective(model, loss_fn, [batch])


# -- warmup_from_critical ------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-6, 10), st.floats(1e-3, 10), st.integers(1, 2000))
def test_the_slope_is_kept_and_the_peak_is_reached_when_the_formula_says(critical, peak, steps):
    found = warmup_from_critical(critical, peak, steps)
    values = found.schedule.values(found.reach_steps + 3)
    expected = [min(critical + peak * t / steps, peak) for t in range(found.reach_steps + 3)]
    if critical >= peak:
        expected = [peak] * len(values)
    assert values == pytest.approx(expected, rel=1e-9)
    assert values[found.reach_steps] == values[-1] == pytest.approx(peak, rel=1e-12)
    formula = max(1.0, steps * (1 - critical / peak))
    assert formula - 1e-6 * steps <= found.reach_steps <= formula + 1
    assert found.schedule.num_steps == found.reach_steps
    assert found.saved_steps == steps - found.reach_steps
    assert found.start == min(critical, peak)


@pytest.mark.parametrize(
    ("status", "start", "said"),
    [
        ("found", 0.2, "where the loss begins to rise"),
        ("stable up to the largest", 0.4, "the largest that was tried"),
        ("unstable at the smallest", 0.1, "a tenth of the peak, as no critical learning rate was found: unstable"),
        ("zero gradient", 0.1, "zero gradient"),
        ("momentum points uphill", 0.1, "momentum points uphill"),
        ("loss not finite", 0.1, "loss not finite"),
    ],
)
def test_every_status_of_the_search_has_a_start_and_says_why(status, start, said):
    nan = math.nan
    lr, low, high = {"found": (0.2, 0.19, 0.21)}.get(status, (nan, 0.4, 0.4))
    critical = CriticalLR(lr, low, high, status, optimizer="sgd(momentum=0)", cost=Cost(forwards=8, gradients=1))
    found = warmup_from_critical(critical, 1.0, 100)
    assert found.schedule(0) == pytest.approx(start)
    assert said in str(found)
    assert found.search_steps == 5
    assert found.saved_steps == pytest.approx(100 * start - 5)


def test_momentum_makes_the_start_smaller_and_a_dear_search_is_told():
    _, _, objective = ready()
    plain = critical_lr(objective, "sgd(momentum=0)", curvature=False)
    built = critical_lr(
        objective, torch.optim.SGD(objective.model.parameters(), lr=1.0, momentum=0.9), curvature=False
    )
    assert built.lr == plain.lr  # the first step is the same
    assert warmup_from_critical(built, 10.0, 50).start == pytest.approx(0.1 * plain.lr)
    assert warmup_from_critical(plain, 10.0, 50).start == plain.lr
    assert "divided by 10, as later steps" in str(warmup_from_critical(built, 10.0, 50))
    dear = warmup_from_critical(CriticalLR(1e-3, 1e-3, 1e-3, "found", cost=Cost(forwards=8)), 1.0, 10)
    assert dear.saved_steps == -4
    assert "4 training steps lost, as the search cost more than it brought" in str(dear)


def test_it_goes_on_into_another_schedule_and_is_plain_data():
    schedule = warmup_from_critical(0.3, 1.0, 10).schedule.then(lrs.schedules.Cosine(1.0, 0.0, 20))
    assert lrs.schedules.from_spec(json.loads(json.dumps(schedule.to_spec()))) == schedule
    assert schedule.num_steps == 27
    for wrong in ({"critical_lr": 0.0}, {"critical_lr": math.nan}, {"peak": -1.0}, {"steps": 0}, {"steps": 1.5}):
        with pytest.raises(ScheduleError):
            warmup_from_critical(**({"critical_lr": 0.1, "peak": 1.0, "steps": 10} | wrong))


# -- find_jump -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.floats(0.005, 1.0), st.floats(0, 3.0), st.sampled_from(["SGD", "Adam", "AdamW", "RMSprop"]))
def test_the_jump_raises_the_loss_of_torchs_own_step_by_delta_at_most(delta, quartic, name):
    model, optimizer, objective = ready(name, quartic)
    before = everything(model, optimizer)
    jump = find_jump(objective, optimizer, smallest=1e-6, largest=1e6, delta=delta)
    assert everything(model, optimizer) == before
    assert jump.status == "found"
    assert jump.forwards <= 26
    level = float(objective.loss())
    optimizer.param_groups[0]["lr"] = jump.lr
    optimizer.step()
    assert level * (1 - 1e-12) < float(objective.loss()) <= level * (1 + delta) * (1 + 1e-9)


def test_on_a_quadratic_it_is_where_the_closed_form_says():
    model, optimizer, objective = ready()
    g = model.theta.grad
    true = 2 * float(g @ g) / float(g @ (CURVATURE * g))
    assert find_jump(objective, optimizer, smallest=1e-6, largest=1e6, delta=1e-3).lr == pytest.approx(true, rel=1e-2)
    stable = find_jump(objective, optimizer, smallest=1e-6, largest=true / 2)
    assert (stable.lr, stable.status) == (true / 2, "stable up to the largest")
    unstable = find_jump(objective, optimizer, smallest=2 * true, largest=10 * true, start=2 * true)
    assert (unstable.lr, unstable.status, unstable.forwards) == (2 * true, "unstable at the smallest", 2)


def test_it_steps_with_the_gradients_that_are_ready_and_never_over_a_cliff():
    model, optimizer, objective = ready()
    whole = find_jump(objective, optimizer, smallest=1e-6, largest=1e6, delta=1e-3)
    model.theta.grad.mul_(0.1)  # clipped
    clipped = find_jump(objective, optimizer, smallest=1e-6, largest=1e6, delta=1e-3)
    assert clipped.lr == pytest.approx(10 * whole.lr, rel=1e-2)

    class Cliff(Bowl):
        def forward(self, scale):
            inside = self.theta[1] < -0.5  # the loss is not even a number beyond
            return super().forward(scale) if inside else scale * math.nan

    steep = Cliff()
    opt = torch.optim.SGD(steep.parameters(), lr=1.0)
    batch = torch.ones(2, dtype=torch.float64)
    loss_fn(steep, batch).backward()
    jump = find_jump(lrs.Objective(steep, loss_fn, [batch]), opt, smallest=1e-6, largest=1e6)
    opt.param_groups[0]["lr"] = jump.lr
    opt.step()
    assert math.isfinite(loss_fn(steep, batch).item())


@pytest.mark.parametrize("how", ["zero", "nan gradient", "nan loss", "uphill"])
def test_where_there_is_no_answer_it_says_why(how):
    model, optimizer, objective = ready(momentum=0.9)
    if how == "zero":
        model.theta.grad.zero_()
    elif how == "nan gradient":
        model.theta.grad[0] = math.nan
    elif how == "nan loss":
        model.theta.data[0] = math.nan
    else:
        optimizer.state[model.theta]["momentum_buffer"] = -10 * model.theta.grad
    jump = find_jump(objective, optimizer, smallest=1e-6, largest=1e6)
    assert math.isnan(jump.lr)
    said = {"zero": "zero gradient", "nan gradient": "gradient not finite", "nan loss": "loss not finite"}
    assert jump.status == said.get(how, "momentum points uphill")
    assert jump.forwards <= 1


def test_without_gradients_it_says_when_to_ask():
    _, optimizer, objective = ready()
    optimizer.zero_grad()
    with pytest.raises(MeasurementError, match=r"after loss.backward\(\) and before optimizer.step\(\)"):
        find_jump(objective, optimizer, smallest=1e-6, largest=1.0)


# -- CatapultWarmup ------------------------------------------------------------------------------------------------------


def turn(warmup, state, loss, **seen):
    return warmup.update(state, 0, {"loss": loss, **seen})


def test_its_states_are_those_of_the_rule():
    """The reference is the mean over ``over`` updates; a search is due below it only; the rate never falls."""
    warmup = CatapultWarmup(10.0, over=2)
    state = turn(warmup, warmup.init(), 4.0, critical_lr=1.0, forwards=7)
    assert (state["lr"], state["reference"], state["count"]) == (1.0, 4.0, 0)
    state = turn(warmup, state, 1.0)  # one lucky batch is no reason
    state = turn(warmup, state, 9.0)
    assert (state["lr"], state["count"], state["searches"]) == (1.0, 0, 1)  # mean 5
    state = turn(warmup, state, 3.0)
    with pytest.raises(MeasurementError, match=r"has to search .* measure_on=lambda: lrs.Objective"):
        turn(warmup, state, 4.0)
    lower = turn(warmup, state, 4.0, critical_lr=0.5, forwards=2)
    assert (lower["lr"], lower["reference"]) == (1.0, 3.5)
    assert turn(warmup, state, 4.0, critical_lr=math.nan, forwards=1)["lr"] == 1.0
    state = turn(warmup, state, 4.0, critical_lr=99.0, forwards=3)
    assert state["lr"] == warmup.value(state, 5) == 10.0
    assert warmup.is_done(state)
    assert turn(warmup, state, 0.1) == state
    assert state["path"] == [[0, 1.0], [0, 10.0]]
    assert "reached: 1 (update 0) > 10 (update 0); 2 searches, 10 forward passes, the work of 5 training steps" in (
        warmup.told(state)
    )
    assert turn(warmup, lower, math.nan) == lower


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("between", [False, True])
def test_a_loop_of_ones_own_goes_on_to_the_bit_from_any_step(name, between):
    """A catapult in a bowl with a quartic wall; the state travels through torch.save, weights_only."""
    options = {"momentum": 0.5} if name == "SGD" else {}
    schedule = CatapultWarmup(1.0, 0.2, over=1) * Linear(1.0, 0.5, 30)

    def loop(steps, saved=None, save_at=None):
        model = Bowl(quartic=0.05)
        opt = getattr(torch.optim, name)(model.parameters(), lr=3.0, **options)
        scheduler = lrs.ScheduledLR(opt, schedule)
        trail, file = [], io.BytesIO()
        if saved is not None:
            state = torch.load(saved, weights_only=True)
            model.load_state_dict(state["model"])
            opt.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
        batch = torch.ones(2, dtype=torch.float64)

        def save():
            torch.save(
                {"model": model.state_dict(), "optimizer": opt.state_dict(), "scheduler": scheduler.state_dict()},
                file,
            )
            file.seek(0)

        for t in steps:
            opt.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            scheduler.observe(loss=loss, measure_on=lambda: lrs.Objective(model, loss_fn, [batch]))
            trail.append((float(loss.detach()), opt.param_groups[0]["lr"]))
            opt.step()
            if between and t == save_at:
                save()
            scheduler.step()
            if not between and t == save_at:
                save()
        return trail, file, scheduler

    whole, _, scheduler = loop(range(30))
    assert scheduler.heard["lr"]["searches"] > 1
    assert len({lr for _, lr in whole}) > 3
    for stop in (0, 1, 2, 7, 20):
        _, file, _ = loop(range(stop + 1), save_at=stop)
        rest, _, _ = loop(range(stop + 1, 30), saved=file)
        assert rest == whole[stop + 1 :]


def test_on_a_quadratic_the_first_jump_is_where_the_loss_rises_and_with_momentum_a_tenth_of_it():
    rates = {}
    for momentum in (0.0, 0.9):
        model, optimizer, objective = ready(momentum=momentum)
        scheduler = lrs.ScheduledLR(optimizer, CatapultWarmup(1e3, 1e-3))
        scheduler.observe(loss=objective.loss(), measure_on=lambda o=objective: o)
        rates[momentum] = optimizer.param_groups[0]["lr"]
    g = model.theta.grad
    assert rates[0.0] == pytest.approx(2 * float(g @ g) / float(g @ (CURVATURE * g)), rel=1e-2)
    assert rates[0.9] == pytest.approx(0.1 * rates[0.0], rel=1e-2)


@pytest.mark.parametrize(
    "settings", [{}, {"nesterov": True}, {"dampening": 0.5}, {"dampening": 0.9}, {"dampening": 0.8}], ids=str
)
def test_how_far_steps_have_built_up_is_that_of_torchs_own_steps(settings):
    def lengths(optimizer, theta, steps):
        built, made = [], []
        for t in range(steps):
            theta.grad = torch.ones_like(theta)
            built.append(built_up(optimizer, t))
            before = theta.detach().clone()
            optimizer.step()
            made.append(float((before - theta.detach())[0]))
        return torch.tensor(built, dtype=torch.float64), torch.tensor(made, dtype=torch.float64)

    theta = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    built, made = lengths(torch.optim.SGD([theta], lr=0.1, momentum=0.8, **settings), theta, 40)
    late = 0.1 * (1 - settings.get("dampening", 0.0)) / (1 - 0.8)
    torch.testing.assert_close(built, made / late, rtol=1e-9, atol=0)
    built, made = lengths(lrs.optimizers.GIAdam([theta], lr=0.1, betas=(0.9, 0.99)), theta, 40)
    torch.testing.assert_close(built, made / 0.1, rtol=1e-6, atol=0)
    built, made = lengths(torch.optim.Adam([theta], lr=0.1), theta, 10)
    torch.testing.assert_close(built, made / 0.1, rtol=1e-6, atol=0)


def test_groups_keep_their_ratios_and_another_schedule_in_one_of_them_is_refused():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)).double()
    groups = [{"params": net[0].parameters(), "lr": 0.2, "name": "body"}, {"params": net[1].parameters(), "lr": 0.02}]
    batch = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def square(model, x):
        return (model(x) - 1).square().mean()

    optimizer = torch.optim.SGD(groups)
    square(net, batch).backward()
    objective = lrs.Objective(net, square, [batch])
    scheduler = lrs.ScheduledLR(optimizer, CatapultWarmup(100.0))
    level = objective.loss()
    scheduler.observe(loss=level, measure_on=lambda: objective)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] == pytest.approx(10 * rates[1])
    optimizer.step()
    assert level < objective.loss() <= 1.1 * level
    other = lrs.ScheduledLR(torch.optim.SGD(groups), CatapultWarmup(1.0), groups={"body": Constant(0.1)})
    with pytest.raises(ScheduleError, match=r"lr of group body follows another schedule; let it drive lr of every"):
        other.observe(loss=level, measure_on=lambda: objective)


@pytest.mark.parametrize("how", ["zero", "nan gradient", "nan loss"])
def test_where_the_first_search_has_no_answer_a_tenth_is_used_and_the_next_update_searches_again(how):
    model, optimizer, objective = ready()
    kept, theta = model.theta.grad.clone(), model.theta.detach().clone()
    scheduler = lrs.ScheduledLR(optimizer, CatapultWarmup(5.0))
    if how == "nan loss":
        model.theta.data[0] = math.nan
        scheduler.observe(loss=math.nan, measure_on=lambda: objective)  # nothing can be said of it
    else:
        model.theta.grad.mul_(0.0 if how == "zero" else math.nan)
        with pytest.warns(LrscopeWarning, match="no critical learning rate at step 0 .*a tenth of the target"):
            scheduler.observe(loss=1.0, measure_on=lambda: objective)
    assert optimizer.param_groups[0]["lr"] == 0.5
    model.theta.grad.copy_(kept)
    model.theta.data.copy_(theta)
    scheduler.observe(loss=objective.loss(), measure_on=lambda: objective)
    assert scheduler.heard["lr"]["lr"] > 0.5


def test_targets_below_critical_are_reached_at_once_also_below_float_resolution():
    for target in (1e-3, 1e-30):
        _, optimizer, objective = ready()
        warmup = CatapultWarmup(target)
        scheduler = lrs.ScheduledLR(optimizer, warmup)
        scheduler.observe(loss=objective.loss(), measure_on=lambda o=objective: o)
        assert optimizer.param_groups[0]["lr"] == target
        assert warmup.is_done(scheduler.heard["lr"])
        assert objective.spent.forwards <= 4


def test_a_loss_that_rises_at_the_smallest_rate_starts_there_and_climbs_once_it_can():
    model, optimizer, objective = ready()
    scheduler = lrs.ScheduledLR(optimizer, CatapultWarmup(5.0, over=1))
    model.theta.grad.neg_()  # an ascent direction: each step raises the loss
    scheduler.observe(loss=objective.loss(), measure_on=lambda: objective)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-6)
    assert scheduler.heard["lr"]["forwards"] <= 26
    model.theta.grad.neg_()
    scheduler.observe(loss=objective.loss() * 0.999, measure_on=lambda: objective)
    assert optimizer.param_groups[0]["lr"] > 1.0


def test_frozen_parameters_stay_out_of_it():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)).double()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    batch = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    objective = lrs.Objective(net, lambda m, x: (m(x) - 1).square().mean(), [batch])
    (net(batch) - 1).square().mean().backward()
    jump = find_jump(objective, optimizer, smallest=1e-6, largest=1e3)
    assert jump.status == "found"


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": 0.0},
        {"target": -1.0},
        {"target": math.inf},
        {"delta": 0.0},
        {"delta": 2.0},
        {"over": 0},
        {"share": 0.0},
        {"share": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ScheduleError, match=next(iter(wrong))):
        CatapultWarmup(**wrong)


def test_nobody_who_forgets_to_observe_is_left_alone():
    _, optimizer, _ = ready()
    scheduler = lrs.ScheduledLR(optimizer, CatapultWarmup(1.0))
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    optimizer.step()
    with pytest.warns(LrscopeWarning, match="CatapultWarmup: nothing was observed in 10 updates"):
        scheduler.step()
    with pytest.raises(ScheduleError, match="'loss' was not observed"):
        scheduler.observe(los=1.0)
