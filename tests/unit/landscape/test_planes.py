"""Slices: where points lie on them, what directions are, and that their values are the loss there."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from lrscope.landscape import (
    barrier,
    connect,
    curvature,
    pca_plane,
    plane,
    profile,
    random_directions,
    random_line,
    random_plane,
)

D = torch.float64


def objective(name="tuple"):
    task = cases.TASKS[name](D)
    return lrs.Objective(task.model(0), task.loss_fn, task.batches())


def cloud(objective, count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [objective.point() + torch.randn(objective.size, generator=g, dtype=D) for _ in range(count)]


def values_are_the_loss(objective, found):
    for j, y in enumerate(found.y):
        for i, x in enumerate(found.x):
            theta = found.origin + x * found.directions[0] + y * found.directions[1]
            assert found.values["train_loss"][j, i] == pytest.approx(objective.loss(theta), rel=1e-10)


def test_three_points_lie_on_their_plane():
    o = objective()
    a, b, c = cloud(o, 3)
    found = plane(o, a, b, c, num_points=4)
    values_are_the_loss(o, found)
    u, v = found.directions
    assert float(u @ v) == pytest.approx(0, abs=1e-12)
    assert found.scale == pytest.approx((1, 1))
    assert found.marks["a"] == pytest.approx((0, 0))
    assert found.marks["b"] == pytest.approx((float((b - a).norm()), 0))
    assert found.marks["c"][1] > 0
    assert np.hypot(*found.marks["c"]) == pytest.approx(float((c - a).norm()))
    seen = found.project([a, b, c, (a + b + c) / 3])
    np.testing.assert_allclose(seen.lost[1:], 0, atol=1e-12)
    assert np.isnan(seen.lost[0])
    wide = found.x[-1] - found.x[0], found.y[-1] - found.y[0]
    inner = np.ptp([m[0] for m in found.marks.values()]), np.ptp([m[1] for m in found.marks.values()])
    np.testing.assert_allclose(np.subtract(wide, inner), 0.4 * max(inner))


def test_projection_is_the_nearest_place():
    o = objective()
    a, b, c, far = cloud(o, 4)
    found = plane(o, a, b, c, num_points=2)
    (xy,), (lost,) = found.project([far]).xy, found.project([far]).lost
    near = a + xy[0] * found.directions[0] + xy[1] * found.directions[1]
    for d in found.directions:
        assert float((far - near) @ d) == pytest.approx(0, abs=1e-10)
    assert lost == pytest.approx(float((far - near).norm() / (far - a).norm()))


def test_the_pca_plane_is_the_svds():
    o = objective()
    walk = torch.stack(cloud(o, 6)).cumsum(0)
    found = pca_plane(o, list(walk), num_points=3)
    _, s, Vt = np.linalg.svd((walk - walk.mean(0)).numpy(), full_matrices=False)
    np.testing.assert_allclose(found.explained, (s**2 / (s**2).sum())[:2], rtol=1e-10)
    for mine, theirs in zip(found.directions, Vt[:2], strict=True):
        assert abs(float(mine @ torch.from_numpy(theirs))) == pytest.approx(1, rel=1e-10)
    values_are_the_loss(o, found)
    assert torch.equal(found.origin, walk[-1])
    away = (walk - walk[-1]).numpy()
    want = away @ torch.stack(found.directions).numpy().T
    np.testing.assert_allclose(found.trajectory.xy, want, atol=1e-10)
    rest = np.linalg.norm(away - want @ torch.stack(found.directions).numpy(), axis=1)
    np.testing.assert_allclose(found.trajectory.lost[:-1], rest[:-1] / np.linalg.norm(away[:-1], axis=1), rtol=1e-9)


def test_a_random_walk_looks_like_training_to_pca():
    """What the docstring warns of: 61 % and 15 % of the variance, in the limit of many steps and dimensions."""
    o = lrs.Objective(
        nn.Linear(100, 40, bias=False, dtype=D), lambda m, x: m(x).mean(), [torch.ones(1, 100, dtype=D)]
    )
    g = torch.Generator().manual_seed(0)
    walk = torch.randn(200, o.size, generator=g, dtype=D).cumsum(0)
    found = pca_plane(o, list(walk), num_points=2)
    assert found.explained == pytest.approx((6 / np.pi**2, 6 / np.pi**2 / 4), rel=0.06)


@pytest.mark.parametrize("name", ["tuple", "conv", "lstm", "attention_tied"])
def test_random_directions_are_as_long_as_the_filters(name):
    task = cases.TASKS[name](D)
    model = task.model(0)
    found = random_directions(task, model, count=3, seed=1)
    layout = lrs.Objective(model, task.loss_fn, task.batches(1)).layout
    theta = layout.point(model)
    for v, norm, share in zip(found.vectors, found.norms, found.relative, strict=True):
        assert norm == pytest.approx(float(v.norm()))
        assert share == pytest.approx(float(v.norm() / theta.norm()))
        for key, piece in layout.unflatten(v).items():
            own = layout.unflatten(theta)[key]
            if own.ndim < 2:
                assert not piece.any()
            else:
                torch.testing.assert_close(piece.flatten(1).norm(dim=1), own.flatten(1).norm(dim=1))
    assert found.still == sum(p.numel() for p in model.parameters() if p.ndim < 2) / layout.size
    assert not torch.equal(found.vectors[0], found.vectors[1])
    assert torch.equal(found.vectors, random_directions(task, model, count=3, seed=1).vectors)
    assert f"{found.norms[0]:.4g}" in str(found)


def test_random_slices():
    o = objective("conv")
    found = random_plane(o, o.point(), num_points=3, extent=0.5, seed=2)
    values_are_the_loss(o, found)
    assert found.x[0] == found.y[0] == -0.5
    assert found.values["train_loss"][1, 1] == pytest.approx(o.loss(o.point()), rel=1e-12)
    assert found.scale == pytest.approx(random_directions(o, o.point(), seed=2).norms)
    cut = random_line(o, o.point(), num_points=3, extent=0.5, seed=2)
    np.testing.assert_allclose(cut["train_loss"], found.values["train_loss"][1], rtol=1e-10)
    assert cut.travelled[-1] == pytest.approx(found.scale[0])
    # directions that are not at right angles are taken into account
    inside = found.project([found.origin + 0.3 * found.directions[0] - 0.2 * found.directions[1]])
    np.testing.assert_allclose(inside.xy, [[0.3, -0.2]], rtol=1e-9)


def test_scaling_filters_does_not_change_a_normalised_picture():
    """A ReLU layer scaled up and the next one down: the same function, and the same picture."""
    x, y = cases.data(D)

    def build():
        return nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).to(D)

    o = lrs.Objective(build(), cases.cross_entropy, [(x, y)])
    a = o.point()
    b = torch.cat([5 * a[:48], a[48:] / 5])
    one, other = (random_plane(o, p, num_points=4) for p in (a, b))
    np.testing.assert_allclose(one.values["train_loss"], other.values["train_loss"], rtol=1e-9)


@pytest.mark.parametrize("of", ["train_loss", "test_error"])
def test_pictures_show_what_was_measured(of):
    task = cases.TASKS["tuple"]()
    a, b = task.model(0), task.model(1)
    c = connect(task, a, b, steps=3, num_points=2)
    found = plane(task, a, b, c.bends[0], num_points=3)
    ax = found.plot(of=of, trajectory=[c(t) for t in (0.0, 0.3, 1.0)])
    assert {t.get_text() for t in ax.texts} == {"a", "b", "c"}
    assert ax.get_xlabel() == "distance from a towards b"
    assert len(ax.collections) >= 3  # contours twice, and the trajectory
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert np.shape(record["values"][of]) == (3, 3)
    assert "3 x 3 points" in str(found)


def test_a_picture_of_infinite_losses_is_refused():
    o = lrs.Objective(nn.Linear(2, 1, bias=False), lambda m, x: m(x).mean() * np.inf, [torch.ones(1, 2)])
    with pytest.raises(ValueError, match="nothing to draw"):
        random_plane(o, o.point(), num_points=2).plot()


def test_curvature_along_a_path_of_a_quartic():
    """L = sum (theta^2 - 1)^2: gradient 4 theta (theta^2 - 1), Hessian 12 theta^2 - 4, all along the line."""
    model = nn.Linear(2, 1, bias=False, dtype=D)
    o = lrs.Objective(model, lambda m, x: ((m.weight**2 - 1) ** 2).sum() * x.mean(), [torch.ones(3, dtype=D)])
    a, b = torch.tensor([-1.5, 1.0], dtype=D), torch.tensor([1.5, 1.0], dtype=D)
    found = curvature(o, [a, b], num_points=7, tol=1e-6)
    w = -1.5 + 3 * found.t
    np.testing.assert_allclose(found["train_loss"], (w**2 - 1) ** 2, atol=1e-12)
    np.testing.assert_allclose(found["gradient_norm"], np.abs(4 * w * (w**2 - 1)), atol=1e-12)
    np.testing.assert_allclose(found["sharpness"], np.maximum(12 * w**2 - 4, 8), rtol=1e-6)
    assert found.cost.products > 0
    assert found.plot(of="sharpness").get_ylabel() == "sharpness"


def test_curvature_of_a_task_is_that_of_its_training_loss():
    task = cases.TASKS["batch_norm"](D)
    a, b = task.model(0), task.model(1)
    path = connect(task, a, b, steps=3, num_points=3)
    found = curvature(task, path, num_points=3, num_batches=2)
    o = task.objective(num_batches=2)
    want = lrs.sharpness(o, path(0.5), tol=1e-4).value
    assert found["sharpness"][1] == pytest.approx(want, rel=0.02)
    assert found["train_loss"][1] == pytest.approx(o.loss(path(0.5)), rel=1e-10)


def test_curvature_knows_what_is_frozen():
    task = cases.TASKS["frozen"](D)
    a, b = task.model(3), task.model(4)
    b.hidden[0].weight.data.copy_(a.hidden[0].weight)
    found = curvature(task, [a, b], num_points=2)
    assert found["train_loss"][0] == pytest.approx(task.objective(num_batches=4, model=a).loss(), rel=1e-10)
    with pytest.raises(lrs.TaskError, match=r"^path: 'hidden.0.weight' is not trained and differs"):
        curvature(task.objective(), [a, b])


def test_barriers_and_planes_agree():
    task = cases.TASKS["conv"](D)
    a, b, c = (task.model(s) for s in (0, 1, 2))
    found = plane(task, a, b, c, num_points=2, margin=0)
    assert found.values["test_loss"][0, 0] == pytest.approx(barrier(task, a, b, of="test_loss").ends[0], rel=1e-9)
    assert found.values["test_loss"][0, 1] == pytest.approx(
        profile(task, [a, b], num_points=2)["test_loss"][1], rel=1e-9
    )
