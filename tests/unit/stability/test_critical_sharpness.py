"""Critical sharpness against closed forms and the sharpness it stands for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cases
from fingerprints import everything
from lrscope import Objective, sharpness
from lrscope.curvature import directional
from lrscope.stability import critical_sharpness


def quadratic(h, x):
    h = torch.tensor(h, dtype=torch.float64)
    model = torch.nn.ParameterList([torch.tensor(x, dtype=torch.float64)])
    return Objective(model, lambda m, batch: 0.5 * (h * m[0] ** 2).sum() * batch.mean(), [torch.ones(1)])


@given(h=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5), data=st.data())
def test_on_a_quadratic_it_is_the_curvature_along_the_gradient_in_fewer_than_ten_passes(h, data):
    x = data.draw(st.lists(st.floats(0.1, 10), min_size=len(h), max_size=len(h)))
    objective = quadratic(h, x)
    found = critical_sharpness(objective)
    exact = directional(objective).value
    assert found.status == "found"
    assert found.low <= exact * (1 + 1e-6)
    assert exact <= found.high * (1 + 1e-6)
    assert found.value <= max(h) * 1.1
    assert found.forwards < 10
    assert found.cost.gradients == 1


@pytest.mark.parametrize("name", ["mlp", "gpt"])
@pytest.mark.parametrize("optimizer", ["sgd(momentum=0)", "adamw"])
def test_on_networks_the_step_at_the_low_end_lowers_the_loss_and_at_the_high_end_raises_it(name, optimizer):
    torch.manual_seed(0)
    model = getattr(cases, name)().double()
    batch = tuple(cases.data(torch.float64, "tokens" if name == "gpt" else "features"))
    objective = Objective(model, cases.cross_entropy, [batch])
    before = everything(model)
    found = critical_sharpness(objective, optimizer)
    assert before == everything(model)
    again = critical_sharpness(objective, optimizer, start=found.lr)
    assert found.forwards <= 9
    assert again.forwards <= 6
    assert again.value == pytest.approx(found.value, rel=0.1)
    if optimizer.startswith("sgd"):
        theta = objective.point()
        g, L = objective.grad(theta), objective.loss(theta)
        assert objective.loss(theta - 2 / found.high * g) <= L
        assert objective.loss(theta - 2 / found.low * g) > L


def test_it_follows_the_sharpness_once_the_sharpest_direction_leads_the_step():
    objective = quadratic([1.0, 50.0], [1e-3, 1.0])
    assert critical_sharpness(objective).value == pytest.approx(sharpness(objective).value, rel=0.05)


def test_what_cannot_be_told_is_said():
    flat = quadratic([1.0], [0.0])
    found = critical_sharpness(flat)
    assert found.status == "zero gradient"
    assert found.value != found.value
    assert "zero gradient" in str(found)
    with pytest.raises(ValueError, match="start"):
        critical_sharpness(flat, start=-1.0)
    with pytest.raises(ValueError, match="max_forwards"):
        critical_sharpness(flat, max_forwards=2)
    with pytest.raises(TypeError, match="Objective"):
        critical_sharpness(torch.nn.Linear(1, 1))
