"""What muP promises of the digits MLP: sizes at the start and changes by a step, as powers of the width."""

import copy

import numpy as np
import pytest
import torch

from lrscope.tasks import digits
from lrscope.tasks.models import MLP, ScaledLinear

WIDTHS = (64, 128, 256, 512, 1024)


def coordinates(parameterization: str, width: int, seed: int, lr: float = 0.05) -> tuple[list[float], list[float]]:
    """Root mean squares of what comes out of every layer, and of its change by one step of SGD."""
    task = digits(width=width, parameterization=parameterization)
    model, batch = task.model(seed), task.batches(1)[0]
    before = outputs(model, batch)
    after = copy.deepcopy(model)
    task.loss_fn(after, batch).backward()
    torch.optim.SGD(after.parameters(), lr=lr).step()
    return [rms(x) for x in before], [rms(y - x) for x, y in zip(before, outputs(after, batch), strict=True)]


def outputs(model, batch):
    seen = []
    hooks = [m.register_forward_hook(lambda *a: seen.append(a[2].detach())) for m in model.modules() if is_linear(m)]
    model(batch[0])
    for hook in hooks:
        hook.remove()
    return seen


def is_linear(module):
    return isinstance(module, torch.nn.Linear)


def rms(x):
    return float(x.square().mean().sqrt())


def powers(parameterization: str) -> tuple[np.ndarray, np.ndarray]:
    """Powers of the width with which layers' outputs, and their changes, grow: slopes in logarithms, 4 seeds."""
    found = np.array([[coordinates(parameterization, w, seed) for seed in range(4)] for w in WIDTHS])
    mean = np.log(found).mean(1).reshape(len(WIDTHS), -1)
    slopes = np.polyfit(np.log(WIDTHS), mean, 1)[0]
    return np.split(slopes, 2)


def test_mup_outputs_start_at_one_over_root_width_and_every_layer_moves_alike_at_every_width():
    start, moved = powers("mup")
    np.testing.assert_allclose(start, [0, 0, -0.5], atol=0.1)
    np.testing.assert_allclose(moved, [0, 0, 0], atol=0.15)


def test_standard_outputs_start_alike_and_move_the_more_the_wider():
    start, moved = powers("standard")
    np.testing.assert_allclose(start, [0, 0, 0], atol=0.1)
    assert moved[-1] > 0.8  # one learning rate cannot suit two widths


def test_mup_is_the_standard_network_with_a_smaller_head_at_the_start():
    torch.manual_seed(0)
    standard = MLP(64, 10, width=256, depth=3)
    torch.manual_seed(0)
    mup = MLP(64, 10, width=256, depth=3, parameterization="mup")
    x = torch.randn(32, 64)
    torch.testing.assert_close(mup(x), standard(x) / 16)
    assert sum(p.numel() for p in mup.parameters()) == sum(p.numel() for p in standard.parameters())
    assert mup.state_dict().keys() == standard.state_dict().keys()


def test_biases_are_inside_the_multiplier():
    layer = ScaledLinear(2, 3, 0.5)
    torch.testing.assert_close(layer(torch.zeros(1, 2))[0], 0.5 * layer.bias)


def test_what_has_no_mup_is_refused():
    with pytest.raises(ValueError, match="only model='mlp'"):
        digits(model="cnn", parameterization="mup")
    with pytest.raises(ValueError, match="expected 'standard' or 'mup', got 'ntk'"):
        MLP(2, 2, parameterization="ntk")  # pyright: ignore[reportArgumentType]
