"""LEAP: the noise is what the formula says, under any optimizer, and belongs to the update, not to the process."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import cases
from lrscope.optimizers import ScheduledLR, leap
from lrscope.schedules import Constant, Cosine, Linear
from lrscope.training import train

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
}


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))


def steps(model, optimizer, count, *, start=0, after=lambda: None):
    for t in range(start, start + count):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(t))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        after()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_sigma_zero_is_the_unperturbed_run_to_the_bit_and_without_a_draw(make):
    plain, perturbed = net(), net()
    state = torch.get_rng_state()
    expected = steps(plain, make(plain.parameters()), 6)
    got = steps(perturbed, leap(make(perturbed.parameters()), 0.0), 6)
    assert torch.equal(expected, got)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_entry_of_the_first_update_is_multiplied_by_one_plus_noise(make):
    plain, perturbed = net(), net()
    start = torch.cat([p.detach().flatten() for p in plain.parameters()])
    move = steps(plain, make(plain.parameters()), 1) - start
    state = torch.get_rng_state()
    got = steps(perturbed, leap(make(perturbed.parameters()), 0.3, seed=4), 1) - start
    assert torch.equal(state, torch.get_rng_state()), "the program's generator was drawn from"
    xi = (got / move - 1)[move.abs() > 1e-4] / 0.3
    assert xi.unique().numel() > 0.9 * xi.numel(), "weights share their noise"
    assert abs(float(xi.mean())) < 4 / xi.numel() ** 0.5
    assert abs(float(xi.std()) - 1) < 4 / xi.numel() ** 0.5


def test_for_plain_sgd_it_is_sgd_on_gradients_multiplied_by_the_noise():
    """The other form in which the rule is written, with the noise read off and put into the gradients by hand."""
    perturbed, by_hand = net().double(), net().double()
    optimizer = leap(torch.optim.SGD(perturbed.parameters(), lr=0.1), 0.5, seed=2)
    for t in range(5):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(t)).double()
        for model in (perturbed, by_hand):
            model.zero_grad()
            model(x).square().mean().backward()
        olds = [p.detach().clone() for p in perturbed.parameters()]
        optimizer.step()
        with torch.no_grad():
            for old, p, hand in zip(olds, perturbed.parameters(), by_hand.parameters(), strict=True):
                factor = torch.where(p.grad == 0, 1.0, (p - old) / (-0.1 * p.grad))
                hand -= 0.1 * (factor * hand.grad)
    for p, hand in zip(perturbed.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, hand, rtol=1e-12, atol=1e-13)


def test_variance_of_the_step_is_that_of_the_formula():
    """Var = lr^2 ((1 + s^2) C + s^2 G^2) for a gradient of mean G and variance C, by 4e5 draws."""
    sigma, lr, mean, std, n = 0.5, 0.1, 2.0, 1.5, 400_000
    weight = nn.Parameter(torch.zeros(n, dtype=torch.float64))
    optimizer = leap(torch.optim.SGD([weight], lr=lr), sigma)
    weight.grad = mean + std * torch.randn(n, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    optimizer.step()
    expected = lr**2 * ((1 + sigma**2) * std**2 + sigma**2 * mean**2)
    assert float(weight.detach().var()) == pytest.approx(expected, rel=0.01)
    assert float(weight.detach().mean()) == pytest.approx(-lr * mean, rel=0.01)


def test_noise_differs_between_updates_seeds_and_devices_shapes_do_not_matter():
    def factors(seed, count):
        weight = nn.Parameter(torch.zeros(1000))
        optimizer = leap(torch.optim.SGD([weight], lr=1.0), 1.0, seed=seed)
        seen = []
        for _ in range(count):
            weight.grad = torch.ones(1000)
            old = weight.detach().clone()
            optimizer.step()
            seen.append((old - weight.detach() - 1).numpy())
        return seen

    # Runs with neighbouring seeds must not be each other's noise one update later.
    columns = [*factors(0, 3), *factors(1, 3)]
    off_diagonal = np.corrcoef(columns) - np.eye(6)
    assert np.abs(off_diagonal).max() < 5 / 1000**0.5


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_resume_at_any_update_is_bit_equal(make):
    whole = net()
    optimizer = leap(make(whole.parameters()), 0.4, seed=3)
    scheduler = ScheduledLR(optimizer, Cosine(1.0, 0.0, 9))
    expected = steps(whole, optimizer, 9, after=scheduler.step)
    for at in (1, 4, 8):
        first = net()
        optimizer = leap(make(first.parameters()), 0.4, seed=3)
        scheduler = ScheduledLR(optimizer, Cosine(1.0, 0.0, 9))
        steps(first, optimizer, at, after=scheduler.step)
        file = io.BytesIO()
        torch.save([first.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        second = net()
        second.load_state_dict(saved[0])
        optimizer = leap(make(second.parameters()), 0.9, seed=99)  # what is saved counts
        scheduler = ScheduledLR(optimizer, Cosine(1.0, 0.0, 9))
        optimizer.load_state_dict(saved[1])
        scheduler.load_state_dict(saved[2])
        assert torch.equal(expected, steps(second, optimizer, 9 - at, start=at, after=scheduler.step))


def test_a_state_saved_without_it_starts_the_noise():
    model = net()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    steps(model, plain, 2)
    optimizer = leap(torch.optim.SGD(model.parameters(), lr=0.1), 0.2, seed=5)
    optimizer.load_state_dict(plain.state_dict())
    steps(model, optimizer, 1)
    assert optimizer.param_groups[0]["leap_sigma"] == 0.2
    assert optimizer.param_groups[0]["leap_step"] == 1


def test_sigma_of_a_group_of_its_own_and_driven_by_a_schedule():
    a, b = nn.Parameter(torch.zeros(50)), nn.Parameter(torch.zeros(50))
    optimizer = leap(torch.optim.SGD([{"params": [a], "leap_sigma": 0.0}, {"params": [b]}], lr=1.0), 0.5)
    scheduler = ScheduledLR(optimizer, {"lr": Constant(1.0), "leap_sigma": Linear(1.0, 0.0, 2)})
    spread = []
    for _ in range(3):
        a.grad, b.grad = torch.ones(50), torch.ones(50)
        old = b.detach().clone()
        optimizer.step()
        scheduler.step()
        spread.append(float((b.detach() - old).std()))
    assert torch.equal(a.detach(), torch.full((50,), -3.0))
    assert spread[0] > 0.3
    assert 0.1 < spread[1] < 0.35
    assert spread[2] < 1e-6  # rounding of the weights themselves


def test_weights_without_a_gradient_and_added_groups_and_copies():
    frozen, moved, late = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer = leap(torch.optim.SGD([frozen, moved], lr=0.1), 0.5)
    optimizer.add_param_group({"params": [late]})
    moved.grad, late.grad = torch.ones(3), torch.ones(3)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(3))
    assert len({float(x) for x in late}) == 3
    copied = copy.deepcopy(optimizer)  # torch copies no hooks: the copy is a plain optimizer, to be perturbed anew
    assert leap(copied, 0.5) is copied


def test_a_step_that_raises_leaves_nothing_behind():
    weight = nn.Parameter(torch.zeros(3))
    optimizer = leap(torch.optim.SGD([weight], lr=0.1), 0.5)
    weight.grad = torch.ones(3)

    def broken():
        raise ArithmeticError("batch")

    with pytest.raises(ArithmeticError, match="batch"):
        optimizer.step(broken)
    assert torch.equal(weight, torch.zeros(3))
    optimizer.step()
    assert optimizer.param_groups[0]["leap_step"] == 1


def test_in_train_it_resumes_to_the_bit(tmp_path):
    task = cases.TASKS["dict"]()

    def perturbed(params):
        return leap(torch.optim.SGD(params, lr=0.1, momentum=0.9), 0.5, seed=1)

    def stop(state):
        if state.step == 5:
            raise KeyboardInterrupt

    whole = train(task, perturbed, Linear(1.0, 0.0, 12), 12)
    with pytest.raises(KeyboardInterrupt):
        train(task, perturbed, Linear(1.0, 0.0, 12), 12, out=tmp_path, on_step=stop)
    resumed = train(task, perturbed, Linear(1.0, 0.0, 12), 12, out=tmp_path, resume=True)
    plain = train(task, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), Linear(1.0, 0.0, 12), 12)
    assert whole["loss"].value.tolist() == resumed["loss"].value.tolist()
    assert whole["loss"].value.tolist() != plain["loss"].value.tolist()


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("sgd",), {}, "optimizer: must be a torch Optimizer, got str"),
        ((None, -0.1), {}, "leap_sigma: expected a finite number of 0 or more, got -0.1"),
        ((None, float("nan")), {}, "got nan"),
        ((None, "0.1"), {}, "got '0.1'"),
        ((None, 0.1), {"seed": -1}, "seed: expected an integer of 0 or more, got -1"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, options, said):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    first = optimizer if arguments[0] is None else arguments[0]
    with pytest.raises((TypeError, ValueError), match=said) as raised:
        leap(first, *arguments[1:], **options)
    assert "\n" not in str(raised.value)


def test_twice_is_refused():
    optimizer = leap(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    with pytest.raises(ValueError, match="perturbed already"):
        leap(optimizer)
