"""Which parameters' size the loss does not see: known by construction, found by measurement."""

import pytest
import torch
from torch import nn

from lrscope import Objective
from lrscope.errors import MeasurementError
from lrscope.stability import scale_invariance


def objective_of(net, *, mode="train", shape=(16, 6), dtype=torch.float32):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    y = torch.randint(3, shape[:1], generator=torch.Generator().manual_seed(4))
    return Objective(net, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), [(x, y)], mode=mode)


def seeded(*layers):
    net = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return net


def verdicts(objective, groups=None):
    return {g.name: g.verdict for g in scale_invariance(objective, groups).groups}


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_weights_before_a_normalisation(eps):
    net = seeded(nn.Linear(6, 8, bias=False), nn.LayerNorm(8, eps=eps), nn.ReLU(), nn.Linear(8, 3))
    found = scale_invariance(objective_of(net))
    assert found["0.weight"].verdict == ("exact" if eps == 0 else "nearly")
    assert all(found[name].verdict == "no" for name in ("1.weight", "1.bias", "3.weight", "3.bias"))
    if eps:
        assert 1e-8 < found["0.weight"].deviation < 1e-3
        assert "nearly scale invariant (deviation" in str(found)
        assert "eps of a normalisation" in str(found)
    else:
        assert max(found["0.weight"].deviation, found["0.weight"].alignment) < 1e-12


def test_a_bias_is_invariant_only_together_with_its_weight():
    net = seeded(nn.Linear(6, 8), nn.LayerNorm(8, eps=0.0), nn.Linear(8, 3))
    with torch.no_grad():
        net[0].bias.copy_(torch.linspace(-1, 1, 8))
    objective = objective_of(net)
    apart = verdicts(objective)
    assert apart["0.weight"] == apart["0.bias"] == "no"
    together = verdicts(objective, {"layer": ["0.weight", "0.bias"], "all": ["0.weight", "0.bias", "2.weight"]})
    assert together == {"layer": "exact", "all": "no"}


def test_degrees_that_must_agree():
    """A residual sum of two layers before one normalisation: only their common scale is free."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)

        def forward(self, x):
            return self.a(x) + self.b(x.tanh())

    net = seeded(Sum(), nn.LayerNorm(6, eps=0.0, elementwise_affine=False), nn.Linear(6, 3, bias=False))
    objective = objective_of(net)
    assert set(verdicts(objective).values()) == {"no"}
    assert verdicts(objective, {"both": ["0.a.weight", "0.b.weight"]}) == {"both": "exact"}


def test_batch_norm_hides_the_scale_in_training_and_not_in_evaluation():
    net = seeded(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False, eps=1e-30), nn.ReLU(), nn.Linear(8, 3))
    assert verdicts(objective_of(net)) == {
        "0.weight": "exact",
        "0.bias": "unseen",  # the mean takes it away
        "3.weight": "no",
        "3.bias": "no",
    }
    assert verdicts(objective_of(net, mode="eval"))["0.weight"] == "no"


def test_a_part_silent_by_its_initialisation_is_not_taken_for_invariant():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.gate = nn.Linear(6, 6, bias=False), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x + self.gate * self.inner(x).relu()

    net = seeded(Gated(), nn.Linear(6, 3))
    assert verdicts(objective_of(net))["0.inner.weight"] == "no"


def test_what_the_loss_does_not_use_cannot_be_told():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return self.used(x) + 0 * self.idle(x)

    found = scale_invariance(objective_of(Unused()))
    assert found["idle.weight"].verdict == "unseen"
    assert "cannot be told" in str(found["idle.weight"])


def test_an_optimizers_groups_are_measured_whole_and_named():
    net = seeded(nn.Linear(6, 8, bias=False), nn.LayerNorm(8, eps=0.0), nn.Linear(8, 3))
    objective = objective_of(net)
    split = scale_invariance(objective).param_groups(net)
    assert [g["name"] for g in split] == ["scale_invariant", "rest"]
    assert [len(g["params"]) for g in split] == [1, 4]
    assert verdicts(objective, torch.optim.SGD(split, lr=0.1)) == {"scale_invariant": "exact", "rest": "no"}
    assert verdicts(objective, torch.optim.SGD(net.parameters(), lr=0.1)) == {"group 0": "no"}


def test_measuring_leaves_no_trace():
    net = seeded(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    net.train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    draws = torch.get_rng_state()
    objective = objective_of(net)
    one, two = scale_invariance(objective), scale_invariance(objective)
    assert one == two
    assert all(torch.equal(t, before[name]) and t.dtype == before[name].dtype for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(m.training for m in net.modules())
    assert one.cost.gradients == 3
    assert one.cost.forwards == 3 * 6 * 6  # points, parameters, three factors twice


class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x.float())


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda o: scale_invariance(o.model), TypeError, "expected a lrs.Objective"),
        (lambda o: scale_invariance(o, ["weight"]), TypeError, "expected an optimizer, a dict"),
        (lambda o: scale_invariance(o, {"a": ["nothing"]}), ValueError, "'a' must be a list of names"),
        (lambda o: scale_invariance(o, {"a": []}), ValueError, "'a' must be a list of names"),
        (lambda o: scale_invariance(o, factors=(1.0,)), ValueError, "greater than 0 and not 1"),
        (lambda o: scale_invariance(objective_of(Stubborn())), MeasurementError, "cannot be computed in float64"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, error, match):
    with pytest.raises(error, match=match) as caught:
        call(objective_of(nn.Linear(6, 3)))
    assert "\n" not in str(caught.value)
    if error is not MeasurementError:
        with pytest.raises(KeyError):
            scale_invariance(objective_of(nn.Linear(6, 3)))["nothing"]


def test_a_loss_that_is_not_finite_is_refused():
    net = nn.Linear(6, 3)
    with torch.no_grad():
        net.weight.fill_(float("nan"))
    with pytest.raises(MeasurementError, match="the loss is nan"):
        scale_invariance(objective_of(net))
