"""Weight decay against its translation, both trained by torch.optim.SGD: normalised weights and logits must agree.

The oracle is the run itself, with weight decay as torch applies it. Everything is float64 and the normalisation has
eps 0, since trajectories are chaotic: rounding is told from a wrong formula by six orders of magnitude. The second
half of the file holds the wrong formulas, which must be seen.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError
from lrscope.optimizers import EquivalentLR, ScheduledLR
from lrscope.schedules import Constant, Cosine, Piecewise, exponential_equivalent, exponential_rate

STEPS, BATCH, HELD_OUT = 240, 64, 100
SETTING = {"base_lr": 0.05, "weight_decay": 0.01, "momentum": 0.9}
EXACT, SEEN = 1e-10, 1e-4


@dataclasses.dataclass(frozen=True, repr=False)
class Random(lrs.Schedule, kind="random_for_equivalence"):
    """Lognormal values: no shape that a formula could have been fitted to."""

    seed: int
    scale: float

    @property
    def num_steps(self):
        return STEPS

    def _at(self, t):
        values = self.scale * np.exp(0.5 * np.random.default_rng(self.seed).normal(size=STEPS + 1))
        return values[np.minimum(t, STEPS).astype(int)]


class Net(nn.Module):
    """Three linear layers, each followed by a normalisation; the head is fixed unless asked."""

    def __init__(self, *, eps=0.0, affine=False, train_head=False):
        super().__init__()
        widths = [64, 24, 24, 24]
        self.hidden = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(widths))
        self.head = nn.Linear(24, 10).requires_grad_(train_head)
        self.affine = nn.ParameterList([nn.Parameter(torch.ones(2, 24)) for _ in self.hidden] if affine else [])
        self.eps = eps

    def forward(self, x):
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            x = (x - x.mean(0)) / (x.var(0, unbiased=False) + self.eps).sqrt()
            if len(self.affine):
                x = x * self.affine[i][0] + 0.1 * (self.affine[i][1] - 1)
            x = x.relu()
        return self.head(x)


@pytest.fixture(scope="module")
def data():
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x / 16 - 0.3)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], torch.tensor(y)[order]


def fresh(**options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net(**options).double()


def loss_of(net, data, t):
    x, y = data
    rows = torch.randint(HELD_OUT, len(x), (BATCH,), generator=torch.Generator().manual_seed(t))
    return nn.functional.cross_entropy(net(x[rows]), y[rows])


def train(net, data, optimizer, *, before=lambda t: None, after=lambda t: None, steps=STEPS):
    """Train and return, at every step, the directions of the hidden weights and the logits of held-out rows."""
    seen = []
    for t in range(steps):
        before(t)
        optimizer.zero_grad()
        loss_of(net, data, t).backward()
        optimizer.step()
        after(t)
        with torch.no_grad():
            directions = torch.cat([(m.weight / m.weight.norm()).flatten() for m in net.hidden])
            seen.append(torch.cat([directions, net(data[0][:HELD_OUT]).flatten()]))
    return torch.stack(seen)


def deviation(one, other):
    return float((one - other).detach().abs().max())


def writer(optimizer, group=0, **tables):
    """Writes ``tables[key][t]`` into a group before step t, as a reader of the formulas would by hand."""

    def before(t):
        optimizer.param_groups[group].update({key: float(table[t]) for key, table in tables.items()})

    return before


def sgd(net, lr=0.0, momentum=0.9, **options):
    return torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr, momentum=momentum, **options)


@functools.cache
def oracle_of(name, data):
    """The run with weight decay of a case, which every test of that case shares."""
    return original(data, CASES[name])


def original(data, s, *, net=None, **options):
    """The run with weight decay, which the translation ``s`` claims to equal."""
    net = fresh() if net is None else net
    decay = s.weight_decay if isinstance(s.weight_decay, lrs.Schedule) else Constant(s.weight_decay)
    optimizer = sgd(net, momentum=s.momentum, **options)
    tables = {"lr": s.base_lr * s.schedule.values(STEPS), "weight_decay": decay.values(STEPS)}
    return train(net, data, optimizer, before=writer(optimizer, **tables))


def by_table(data, lr, *, momentum=0.9, net=None, after=lambda t, net, optimizer: None, start=None, **options):
    """A run without weight decay under a table of learning rates."""
    net = fresh() if net is None else net
    optimizer = sgd(net, momentum=momentum, **options)
    if start is not None:
        start(net, optimizer)
    return train(
        net, data, optimizer, before=writer(optimizer, lr=lr), after=lambda t: after(t, net, optimizer)
    )  # fmt: skip


def equivalent(schedule, **changes):
    return exponential_equivalent(schedule, **{**SETTING, "steps": STEPS, "max_scale": None, **changes})


CASES = {
    "constant": equivalent(Constant(1.0)),
    "constant, usual setting": equivalent(Constant(1.0), base_lr=0.1, weight_decay=5e-4),
    "constant, at 95 % of the bound": equivalent(Constant(1.0), weight_decay=0.05),
    "no momentum": equivalent(Constant(1.0), momentum=0.0),
    "step decay": equivalent(Piecewise((1.0, 0.2, 0.04), (80, 160)), base_lr=0.1),
    "cosine per step, to zero": equivalent(Cosine(1.0, 0.0, 200), base_lr=0.1),
    "warmup from zero": equivalent(lrs.warmup(40).then(Constant(1.0, 1)).then(Constant(1.0))),
    "random rate and decay with warmup": equivalent(lrs.warmup(30) * Random(1, 1.0), weight_decay=Random(2, 0.01)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_translation_is_the_run_with_weight_decay(name, data):
    s = CASES[name]
    net = fresh()
    optimizer = sgd(net, s.base_lr, momentum=s.momentum)
    scheduler = ScheduledLR(optimizer, s)
    run = train(net, data, optimizer, after=lambda t: scheduler.step())
    assert deviation(run, oracle_of(name, data)) < EXACT


@pytest.mark.parametrize("name", ["constant", "step decay", "random rate and decay with warmup"])
def test_the_state_map_leads_back(name, data):
    s = CASES[name]
    with_decay, without = fresh(), fresh()
    theirs = sgd(with_decay, momentum=s.momentum)
    decay = s.weight_decay if isinstance(s.weight_decay, lrs.Schedule) else Constant(s.weight_decay)
    tables = {"lr": s.base_lr * s.schedule.values(STEPS), "weight_decay": decay.values(STEPS)}
    train(with_decay, data, theirs, before=writer(theirs, **tables))
    ours = sgd(without, momentum=s.momentum)
    train(without, data, ours, before=writer(ours, lr=s.base_lr * s.values(STEPS)))
    here = s.state_map(STEPS)
    for a, b in zip(with_decay.hidden, without.hidden, strict=True):
        theta, buffer = here.backward(b.weight, ours.state[b.weight]["momentum_buffer"])
        assert deviation(theta, a.weight) < EXACT
        assert deviation(buffer, theirs.state[a.weight]["momentum_buffer"]) < EXACT


class Textbook(torch.optim.Optimizer):
    """SGD in the two forms that torch does not have, written as in the table of their rules."""

    def __init__(self, params, rule, lr=0.0, momentum=0.0, weight_decay=0.0):
        self.rule = rule
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, gamma, decay = group["lr"], group["momentum"], group["weight_decay"]
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                if self.rule == "velocity":
                    buffer.mul_(gamma).sub_(lr * (p.grad + decay * p))
                    p.add_(buffer)
                else:
                    buffer.mul_(gamma).add_(p.grad)
                    p.mul_(1 - lr * decay).sub_(lr * buffer)


def textbook(data, s, **tables):
    net = fresh()
    optimizer = Textbook(list(net.hidden.parameters()), s.rule, momentum=s.momentum)
    return train(net, data, optimizer, before=writer(optimizer, **tables))


@pytest.mark.parametrize("rule", ["velocity", "decoupled"])
@pytest.mark.parametrize("decay", [0.02, Random(3, 0.02)], ids=["constant", "random"])
def test_the_other_rules_need_another_momentum(rule, decay, data):
    s = equivalent(lrs.warmup(20) * Cosine(1.0, 0.1, 200), base_lr=0.1, weight_decay=decay, rule=rule)
    decays = decay.values(STEPS) if isinstance(decay, lrs.Schedule) else Constant(decay).values(STEPS)
    oracle = textbook(data, s, lr=s.base_lr * s.schedule.values(STEPS), weight_decay=decays)
    lr, gamma = s.base_lr * s.values(STEPS), s.momentum * s.momentum_schedule().values(STEPS)
    assert deviation(textbook(data, s, lr=lr, momentum=gamma), oracle) < EXACT
    assert deviation(textbook(data, s, lr=lr), oracle) > SEEN  # the momentum kept as it was


def test_decoupled_weight_decay_is_translated_for_torch_itself(data):
    """Without weight decay the decoupled form is torch's own, so torch.optim.SGD runs the translation."""
    s = equivalent(Cosine(1.0, 0.0, 200), base_lr=0.1, weight_decay=0.02, rule="decoupled")
    decays = Constant(0.02).values(STEPS)
    oracle = textbook(data, s, lr=s.base_lr * s.schedule.values(STEPS), weight_decay=decays)
    net = fresh()
    optimizer = sgd(net, s.base_lr)
    scheduler = ScheduledLR(optimizer, {"lr": s, "momentum": s.momentum_schedule()})
    assert deviation(train(net, data, optimizer, after=lambda t: scheduler.step()), oracle) < EXACT


# The paper's own form: the growth frozen at its limit, with what makes it exact.


def start_with_decay_in_the_buffer(alpha, lr):
    def start(net, optimizer):
        for p in net.hidden.parameters():
            optimizer.state[p]["momentum_buffer"] = -((1 - alpha) / (alpha * lr)) * p.detach().clone()

    return start


def shift_of(lr, weight_decay):
    """Weight decay's settled part of the buffer, in units of the weights."""
    alpha = exponential_rate(lr, weight_decay, 0.9)
    return (1 - alpha) / (alpha * lr)


def test_the_theorem_with_its_initial_buffer(data):
    growth = lrs.texp(Constant(1.0), **SETTING, steps=STEPS).values()
    start = start_with_decay_in_the_buffer(exponential_rate(0.05, 0.01, 0.9), 0.05)
    oracle = oracle_of("constant", data)
    assert deviation(by_table(data, 0.05 * growth, start=start), oracle) < EXACT
    assert deviation(by_table(data, 0.05 * growth), oracle) > SEEN  # the initial condition ignored


@pytest.fixture(scope="module")
def step_decay(data):
    """TEXP of a step decay, and the run it stands for."""
    levels, switches = (1.0, 0.2, 0.04), (80, 160)
    phases = Piecewise(levels, switches)
    lr = 0.1 * lrs.texp(phases, base_lr=0.1, weight_decay=0.01, momentum=0.9, steps=STEPS).values()
    return levels, switches, lr, oracle_of("step decay", data)


def corrected(levels, switches, lr, scaled=1.0):
    """Adds, just before each switch, the change of the settled shift that the frozen growth leaves out."""

    def after(t, net, optimizer):
        if t + 1 not in switches:
            return
        i = switches.index(t + 1)
        old, new = 0.1 * levels[i], 0.1 * levels[i + 1]
        square = lr[t] / (exponential_rate(old, 0.01, 0.9) * old)
        change = scaled * (shift_of(old, 0.01) - shift_of(new, 0.01)) / square
        for p in net.hidden.parameters():
            optimizer.state[p]["momentum_buffer"].add_(p.detach(), alpha=change)

    return after


def test_texp_with_its_corrections(step_decay, data):
    levels, switches, lr, oracle = step_decay
    start = start_with_decay_in_the_buffer(exponential_rate(0.1, 0.01, 0.9), 0.1)
    run = by_table(data, lr, start=start, after=corrected(levels, switches, lr))
    assert deviation(run, oracle) < EXACT
    assert deviation(by_table(data, lr, start=start), oracle) > SEEN  # no corrections at the switches


# What must be seen: the mistakes that the formulas invite.


def test_growth_by_the_new_rate_alone_at_a_switch_is_seen(step_decay, data):
    levels, switches, lr, oracle = step_decay
    wrong = lr.copy()
    for i, switch in enumerate(switches):
        alphas = [exponential_rate(0.1 * level, 0.01, 0.9) for level in levels[i : i + 2]]
        wrong[switch:] *= alphas[0] / alphas[1]
    start = start_with_decay_in_the_buffer(exponential_rate(0.1, 0.01, 0.9), 0.1)
    assert deviation(by_table(data, wrong, start=start, after=corrected(levels, switches, wrong)), oracle) > SEEN


def test_weight_decay_switched_off_is_seen(data):
    s = CASES["constant"]
    assert deviation(by_table(data, s.base_lr * s.schedule.values(STEPS)), oracle_of("constant", data)) > SEEN


def test_a_cosine_with_frozen_growth_is_seen(data):
    s = CASES["cosine per step, to zero"]
    eta = s.base_lr * s.schedule.values(STEPS)
    alpha = np.array([exponential_rate(lr, s.weight_decay, s.momentum) for lr in eta])
    frozen = eta / alpha * np.cumprod(np.concatenate([[1.0], alpha[:-1]])) ** -2.0
    assert deviation(by_table(data, frozen), oracle_of("cosine per step, to zero", data)) > SEEN


def test_nesterov_is_seen(data):
    s = CASES["constant"]
    run = by_table(data, s.base_lr * s.values(STEPS), nesterov=True)
    assert deviation(run, original(data, s, nesterov=True)) > SEEN


def test_the_eps_of_a_normalisation_is_seen(data):
    s = CASES["constant"]
    run = by_table(data, s.base_lr * s.values(STEPS), net=fresh(eps=1e-5))
    assert deviation(run, original(data, s, net=fresh(eps=1e-5))) > SEEN


def test_a_head_under_the_exponential_rate_is_seen(data):
    s = CASES["constant"]
    run = by_table(data, s.base_lr * s.values(STEPS), net=fresh(affine=True, train_head=True))
    assert deviation(run, original(data, s, net=fresh(affine=True, train_head=True))) > SEEN


# Only some groups: what is not scale invariant keeps its rate and its weight decay.


def grouped(net, **options):
    rest = [*net.affine, *(p for p in net.head.parameters() if p.requires_grad)]
    groups = [
        {"params": [net.hidden[0].weight], "name": "first", "lr": 0.1, "weight_decay": 0.02},
        {"params": [m.weight for m in net.hidden[1:]], "name": "others"},
        {"params": rest, "name": "rest"},
    ]
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01, **options)


GROUP_DRIVES = {
    "cosine": Cosine(1.0, 0.0, 200),
    "rate and decay": {"lr": lrs.warmup(30) * Random(1, 1.0), "weight_decay": Random(2, 1.0)},
    "decay that follows the rate": {"lr": Cosine(1.0, 0.1, 200), "weight_decay": "lr"},
    "one cycle, momentum too": {"lr": lrs.warmup(100).then(lrs.Linear(1.0, 0.0, 140)), "momentum": lrs.Linear(1.0, 0.8, 240)},
}  # fmt: skip


@pytest.mark.parametrize("name", GROUP_DRIVES)
def test_affine_normalisation_and_head_train_as_before(name, data):
    net = fresh(affine=True, train_head=True)
    theirs = grouped(net)
    plain = ScheduledLR(theirs, GROUP_DRIVES[name])
    oracle = train(net, data, theirs, after=lambda t: plain.step())
    for max_scale in (None, 1.0625):
        translated = fresh(affine=True, train_head=True)
        ours = grouped(translated)
        scheduler = EquivalentLR(ours, GROUP_DRIVES[name], invariant=["first", 1], steps=STEPS, max_scale=max_scale)
        assert [g["weight_decay"] for g in ours.param_groups[:2]] == [0.0, 0.0]
        run = train(translated, data, ours, after=lambda t, scheduler=scheduler: scheduler.step())
        assert deviation(run, oracle) < EXACT
        assert all(bool(e.rebases) == (max_scale is not None) for e in scheduler.equivalents.values())
        back = scheduler.original_weights(translated)
        assert all(deviation(back[key], p) < EXACT for key, p in net.named_parameters())
        for group, reference in zip(ours.param_groups, theirs.param_groups, strict=True):
            where = scheduler.state_map(1 if group["name"] == "others" else "first")
            for p, q in zip(group["params"], reference["params"], strict=True):
                buffers = ours.state[p]["momentum_buffer"], theirs.state[q]["momentum_buffer"]
                mapped = buffers[0] if group["name"] == "rest" else where.backward(p, buffers[0])[1]
                assert deviation(mapped, buffers[1]) < EXACT


def test_a_head_named_invariant_by_mistake_is_seen(data):
    net, translated = (fresh(affine=True, train_head=True) for _ in range(2))
    theirs, ours = grouped(net), grouped(translated)
    oracle = train(net, data, theirs)
    scheduler = EquivalentLR(ours, Constant(1.0), invariant=[0, 1, 2], steps=STEPS)
    assert deviation(train(translated, data, ours, after=lambda t: scheduler.step()), oracle) > SEEN


def test_a_rebase_that_leaves_the_buffer_is_seen(data):
    net, translated = (fresh(affine=True, train_head=True) for _ in range(2))
    oracle = train(net, data, grouped(net))
    ours = grouped(translated)
    scheduler = EquivalentLR(ours, Constant(1.0), invariant=[0, 1], steps=STEPS, max_scale=2.0)
    due = scheduler.equivalents[0].rebases

    def after(t):
        if t + 1 in due:
            for p in ours.param_groups[0]["params"]:
                ours.state[p]["momentum_buffer"].div_(due[t + 1])  # undone
        scheduler.step()

    assert deviation(train(translated, data, ours, after=after), oracle) > SEEN


@pytest.mark.parametrize("rebase", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_a_run_resumed_at_a_rebase_is_bit_equal(rebase, optimizer_first, data, tmp_path):
    def start():
        net = fresh(affine=True, train_head=True)
        optimizer = grouped(net)
        return net, optimizer

    def build(optimizer):
        return EquivalentLR(optimizer, Cosine(1.0, 0.0, 200), invariant=[0, 1], steps=STEPS, max_scale=1.25)

    net, optimizer = start()
    scheduler = build(optimizer)
    at = list(scheduler.equivalents[0].rebases)[rebase]

    def save(t):
        if t + 1 == at:  # between the update and the scheduler's step, the worst moment
            states = {
                "model": net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": scheduler.state_dict(),
            }
            torch.save(states, tmp_path / "state.pt")
        scheduler.step()

    whole = train(net, data, optimizer, after=save)

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    net, optimizer = start()
    scheduler = None if optimizer_first else build(optimizer)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler = scheduler or build(optimizer)
    scheduler.load_state_dict(saved["schedule"])
    net.load_state_dict(saved["model"])
    seen = []
    for t in range(at, STEPS):
        optimizer.zero_grad()
        loss_of(net, data, t).backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            directions = torch.cat([(m.weight / m.weight.norm()).flatten() for m in net.hidden])
            seen.append(torch.cat([directions, net(data[0][:HELD_OUT]).flatten()]))
    assert torch.equal(torch.stack(seen), whole[at:])


def test_single_precision_stays_finite_where_one_curve_does_not(data):
    """2,400 steps at a decay that would grow the weights to 1e45: float32 ends at 3e38."""
    data = data[0].float(), data[1]
    steps, setting = 2400, {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.04}
    net = fresh().float()
    optimizer = torch.optim.SGD(list(net.hidden.parameters()), **setting)
    scheduler = EquivalentLR(optimizer, Constant(1.0), invariant=[0], steps=steps)
    found = scheduler.equivalents[0]
    assert found.recurrence.log_scale[-1] / np.log(10) > 38.6
    assert len(found.rebases) >= 6
    run = train(net, data, optimizer, after=lambda t: scheduler.step(), steps=steps)
    assert bool(run.isfinite().all())
    assert all(bool(p.isfinite().all()) and 1e-3 < float(p.detach().norm()) < 1e9 for p in net.hidden.parameters())
    with pytest.raises(ScheduleError, match="passes 1e30"):
        exponential_equivalent(Constant(1.0), base_lr=1.0, weight_decay=0.04, steps=steps, max_scale=None)
