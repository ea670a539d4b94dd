"""Alignment: the function stays, known permutations are found, and small cases are optimal by enumeration."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lrscope.errors import MeasurementError
from lrscope.landscape import align
from lrscope.landscape.symmetry import read_symmetry
from lrscope.tasks.models import CNN, MLP

D = torch.float64


class Residual(nn.Module):
    """Two blocks added to a stream, means over space at the end."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), norm(5), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), norm(6))
            for _ in range(2)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = torch.relu(h + block(h))
        return self.head(h.mean((2, 3)))


class Shared(nn.Module):
    """One layer used twice: its inputs and outputs are the same units."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(16, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x):
        h = self.first(x.view(x.shape[0], -1)).tanh()
        return self.last(self.again(self.again(h).tanh()).tanh())


def sequential(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


NETWORKS = {
    "mlp": lambda: MLP(16, 3, width=9, depth=3),
    "cnn": lambda: CNN(1, 3, width=4, cells=2, norm="none"),
    "batch norm": sequential(
        lambda: nn.Conv2d(1, 6, 3), lambda: nn.BatchNorm2d(6), nn.ReLU, lambda: nn.MaxPool2d(2), nn.Flatten,
        lambda: nn.BatchNorm1d(6), lambda: nn.Linear(6, 5), lambda: nn.LayerNorm(5), nn.GELU, lambda: nn.Linear(5, 3),
    ),
    "flattened maps": sequential(
        lambda: nn.Conv2d(1, 6, 3), nn.Flatten, lambda: nn.BatchNorm1d(24), lambda: nn.Linear(24, 3), lambda: nn.LogSoftmax(-1),
    ),
    "depthwise": sequential(
        lambda: nn.Conv2d(1, 6, 1), lambda: nn.Conv2d(6, 6, 3, groups=6), lambda: nn.GroupNorm(1, 6),
        lambda: nn.PReLU(6), lambda: nn.Conv2d(6, 5, 1), lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten, lambda: nn.Linear(5, 3),
    ),
    "residual": Residual,
    "residual, instance norm": lambda: Residual(nn.InstanceNorm2d),
    "shared": Shared,
}  # fmt: skip


def make(name, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[name]().to(D)
        for tensor in (*model.parameters(), *model.buffers()):  # norms that are not all alike
            if tensor.is_floating_point():
                tensor.data += 0.1 * torch.rand_like(tensor)
        return model.eval()


def images(n=11):
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=D)


def renamed(model, seed):
    """The model with its units shuffled at random, through the same reading but none of the matching."""
    other, rng = copy.deepcopy(model), np.random.default_rng(seed)
    tensors = dict([*other.named_parameters(), *other.named_buffers()])
    for group in read_symmetry(model):
        order = rng.permutation(group.size)
        for axis in group.axes:
            where = (order[:, None] * axis.block + np.arange(axis.block)).ravel()
            tensors[axis.tensor].data.copy_(tensors[axis.tensor].data.index_select(axis.dim, torch.from_numpy(where)))
    return other


@pytest.mark.parametrize("name", NETWORKS)
def test_any_renaming_keeps_the_function(name):
    model = make(name, 0)
    x = images()
    for seed in range(3):
        other = renamed(model, seed)
        torch.testing.assert_close(other(x), model(x), rtol=1e-11, atol=1e-11)
        changed = [n for n, p in other.named_parameters() if not torch.equal(p, dict(model.named_parameters())[n])]
        assert len(changed) > 1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_aligned_network_computes_what_it_did(name):
    a, b = make(name, 0), make(name, 1)
    found = align(a, b)
    torch.testing.assert_close(found.model(images()), b(images()), rtol=1e-11, atol=1e-11)
    found.model.train(), b.train()
    torch.testing.assert_close(found.model(images()), b(images()), rtol=1e-11, atol=1e-11)
    assert found.converged
    assert found.distance[1] < found.distance[0]
    flat = [nn.utils.parameters_to_vector(m.parameters()) for m in (a, b, found.model)]
    assert found.distance[0] == pytest.approx(float((flat[0] - flat[1]).norm().detach()))
    assert found.distance[1] == pytest.approx(float((flat[0] - flat[2]).norm().detach()))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_shuffled_copy_is_found_again(name):
    a = make(name, 0)
    found = align(a, renamed(a, 5))
    if name == "shared":  # a quadratic assignment, of which one step at a time finds a local optimum
        assert found.distance[1] <= found.distance[0]
        return
    assert found.distance[1] == pytest.approx(0, abs=1e-12)
    for p, q in zip(a.state_dict().values(), found.model.state_dict().values(), strict=True):
        assert torch.equal(p, q)


def test_one_hidden_layer_is_optimal_among_all_permutations():
    """With a single group the assignment is the whole problem: 120 permutations are tried."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).to(D) for _ in range(2))
    found = align(a, b)
    best = (
        min(
            (a[0].weight - b[0].weight[list(p)]).square().sum()
            + (a[0].bias - b[0].bias[list(p)]).square().sum()
            + (a[2].weight - b[2].weight[:, list(p)]).square().sum()
            for p in itertools.permutations(range(5))
        )
        + (a[2].bias - b[2].bias).square().sum()
    )
    assert found.distance[1] ** 2 == pytest.approx(float(best.detach()))


def test_units_outside_of_the_network_are_not_renamed():
    groups = read_symmetry(make("residual", 0))
    assert sorted(g.size for g in groups) == [5, 5, 6]
    stream = next(g for g in groups if g.size == 6)
    assert {axis.tensor for axis in stream.axes} >= {
        "stem.weight",
        "head.weight",
        "blocks.1.3.weight",
        "blocks.0.4.running_var",
    }
    assert not any(
        "head.bias" in axis.tensor or (axis.tensor, axis.dim) == ("stem.weight", 1) for g in groups for axis in g.axes
    )


def test_a_stream_that_starts_at_the_input_is_fixed():
    class FromInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x + self.outer(self.inner(x).relu()))

    (only,) = read_symmetry(FromInput())
    assert only.size == 6


def test_a_network_without_hidden_units():
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    found = align(a, b)
    assert found.permutations == {}
    assert found.sweeps == 0
    assert found.distance[0] == found.distance[1]


def test_the_order_of_layers_is_the_seeds():
    a, b = make("mlp", 0), make("mlp", 1)
    one, same = align(a, b, seed=3), align(a, b, seed=3)
    for p, q in zip(one.permutations.values(), same.permutations.values(), strict=True):
        np.testing.assert_array_equal(p, q)
    short = align(a, b, max_sweeps=1)
    assert (short.sweeps, short.converged) == (1, False)
    assert short.distance[1] >= one.distance[1] - 1e-9


def test_the_record():
    import json

    found = align(make("mlp", 0), make("mlp", 1))
    record = json.loads(json.dumps(found.to_dict()))
    assert sorted(record["permutations"]["hidden.0.weight"]) == list(range(9))
    assert "units renamed; distance" in repr(found)


@pytest.mark.parametrize(
    "make_one",
    [
        lambda: nn.LSTM(3, 4),
        lambda: nn.GRUCell(3, 4),
        lambda: nn.MultiheadAttention(8, 2),
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
    ],
)
def test_a_layer_whose_hidden_units_are_not_known_is_refused_as_it_is_inside_of_a_network(make_one):
    with pytest.raises(MeasurementError, match=f"align: the model is a {type(make_one()).__name__}, whose hidden"):
        align(make_one(), make_one())


def test_a_single_layer_has_no_hidden_units():
    assert align(nn.Linear(3, 4), nn.Linear(3, 4)).permutations == {}


@pytest.mark.parametrize(
    "norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm]
)
def test_weights_computed_from_others_are_refused(norm):
    a, b = (nn.Sequential(norm(nn.Linear(3, 8)), nn.ReLU(), norm(nn.Linear(8, 2))) for _ in range(2))
    with pytest.raises(MeasurementError, match="a weight of this model is computed from other parameters"):
        align(a, b)
