"""The objective is a function of theta, the same for any split of the data, and leaves everything as it was."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import cases
import lrscope as lrs
from fingerprints import everything
from lrscope.objective import Objective, num_examples
from lrscope.params import ParamLayout

NAMES = sorted(cases.TASKS)


def objective_of(name, batches=None, **kwargs):
    task = cases.TASKS[name](dtype=torch.float64)
    return Objective(task.model(0), task.loss_fn, task.batches() if batches is None else batches, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_value_gradient_and_product_agree_with_autograd_and_differences(name):
    objective = objective_of(name)
    theta = objective.point()
    torch.manual_seed(1)
    v = torch.randn_like(theta)
    loss, grad = objective.loss_and_grad(theta)
    assert objective.loss() == pytest.approx(loss, rel=1e-12)
    assert torch.equal(objective.grad(theta), grad)
    h = 1e-5
    slope = (objective.loss(theta + h * v) - objective.loss(theta - h * v)) / (2 * h)
    assert slope == pytest.approx(float(grad @ v), rel=1e-5, abs=1e-7)
    product = objective.hvp(theta, v)
    difference = (objective.grad(theta + h * v) - objective.grad(theta - h * v)) / (2 * h)
    if name != "relu":
        assert float((product - difference).norm()) <= 1e-5 * float(product.norm())
    w = torch.randn_like(theta)
    assert float(w @ product) == pytest.approx(float(v @ objective.hvp(theta, w)), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_every_call_leaves_no_trace(name):
    task = cases.TASKS[name](dtype=torch.float64)
    model = task.model(0)
    model.eval()
    next(iter(model.modules())).training = True
    task.loss_fn(model, task.batches(1)[0]).backward()  # gradients that must stay
    before = everything(model)
    objective = Objective(model, task.loss_fn, task.batches())
    theta = objective.point() + 0.1
    objective.loss(theta)
    objective.grad(theta)
    objective.hvp(theta, theta)
    assert everything(model) == before

    def breaks(m, batch):
        torch.rand(3)
        task.loss_fn(m, batch)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        Objective(model, breaks, task.batches()).grad(theta)
    assert everything(model) == before


@pytest.mark.parametrize("name", [n for n in NAMES if n != "batch_norm"])
@given(cuts=st.sets(st.integers(1, cases.NUM_TRAIN - 1), max_size=4))
@settings(max_examples=5)
def test_splitting_the_data_changes_nothing(name, cuts):
    task = cases.TASKS[name](dtype=torch.float64)
    whole = next(iter(torch.utils.data.DataLoader(list(_examples(task.batches())), cases.NUM_TRAIN)))
    edges = [0, *sorted(cuts), cases.NUM_TRAIN]
    parts = [_cut(whole, a, b) for a, b in itertools.pairwise(edges)]
    model = task.model(0)
    one, many = Objective(model, task.loss_fn, [whole]), Objective(model, task.loss_fn, parts)
    theta = one.point()
    assert many.loss(theta) == pytest.approx(one.loss(theta), rel=1e-10)
    assert torch.allclose(many.grad(theta), one.grad(theta), rtol=1e-9, atol=1e-12)
    assert torch.allclose(many.hvp(theta, theta), one.hvp(theta, theta), rtol=1e-8, atol=1e-10)


def _examples(batches):
    for batch in batches:
        for i in range(num_examples(batch)):
            yield _cut(batch, i, i + 1, squeeze=True)


def _cut(batch, a, b, *, squeeze=False):
    def cut(t):
        return t[a] if squeeze else t[a:b]

    if isinstance(batch, dict):
        return {k: cut(t) for k, t in batch.items()}
    return tuple(cut(t) for t in batch) if isinstance(batch, (tuple, list)) else cut(batch)


def test_dropout_is_off_and_other_draws_repeat():
    objective = objective_of("dropout")
    assert objective.loss() == objective.loss()
    noisy = Objective(
        nn.Linear(2, 1), lambda m, b: (m(b) + torch.randn(len(b), 1)).square().mean(), [torch.ones(4, 2)]
    )
    assert noisy.loss() == noisy.loss()


def test_eval_mode_uses_running_statistics():
    task = cases.TASKS["batch_norm"](dtype=torch.float64)
    model = task.model(0)
    train, evaluate = (Objective(model, task.loss_fn, task.batches(), mode=m) for m in ("train", "eval"))
    assert train.loss() != evaluate.loss()
    with torch.no_grad():
        model.eval()
        losses = [float(task.loss_fn(model, b)) * num_examples(b) for b in task.batches()]
    assert evaluate.loss() == pytest.approx(sum(losses) / cases.NUM_TRAIN, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_flat_and_named_parameters_are_the_same_thing(name):
    task = cases.TASKS[name](dtype=torch.float64)
    model = task.model(0)
    layout = ParamLayout.of(model)
    theta = layout.point(model)
    assert layout.size == sum(p.numel() for p in model.parameters() if p.requires_grad)
    named = layout.unflatten(theta)
    assert torch.equal(layout.flatten(named), theta)
    batch = task.batches(1)[0]
    model.eval()
    objective = Objective(model, task.loss_fn, [batch], mode="eval")
    moved = theta + 0.01
    other = task.model(1).eval()
    other.load_state_dict(model.state_dict())
    layout.write(other, moved)
    with torch.no_grad():
        assert objective.loss(moved) == pytest.approx(float(task.loss_fn(other, batch)), rel=1e-12)
    assert torch.equal(layout.point(model), theta)


def test_costs_are_counted():
    objective = objective_of("tuple")
    theta = objective.point()
    objective.loss()
    objective.grad(theta)
    objective.hvp(theta, theta)
    objective.hvp(theta, theta)
    assert (objective.spent.forwards, objective.spent.gradients, objective.spent.products) == (1, 1, 2)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Objective("model", lambda m, b: 0, [1]), TypeError, "model: expected"),
        (lambda: Objective(nn.Linear(1, 1), None, [1]), TypeError, "loss_fn: expected a function"),
        (
            lambda: Objective(nn.Linear(1, 1), lambda m, b: 0, torch.ones(2, 1)),
            TypeError,
            r"wrap one batch: \[batch\]",
        ),
        (
            lambda: Objective(nn.Linear(1, 1), lambda m, b: 0, (torch.ones(2, 1), torch.ones(2))),
            TypeError,
            r"tuple of tensors.*wrap one batch: \[batch\]",
        ),
        (lambda: Objective(nn.Linear(1, 1), lambda m, b: 0, {"x": torch.ones(2, 1)}), TypeError, "wrap one batch"),
        (
            lambda: Objective(nn.LazyLinear(1), lambda m, b: 0, [torch.ones(1)]),
            lrs.TaskError,
            "'weight'.* lazy module",
        ),
        (lambda: Objective(nn.Linear(1, 1), lambda m, b: 0, ()), lrs.TaskError, "batches: empty"),
        (lambda: Objective(nn.Linear(1, 1), lambda m, b: 0, []), lrs.TaskError, "batches: empty"),
        (lambda: Objective(nn.Linear(1, 1), lambda m, b: 0, ["text"]), lrs.TaskError, "give count="),
        (lambda: Objective(nn.Linear(1, 1), lambda m, b: 0, [torch.ones(0, 1)]), lrs.TaskError, "0 examples"),
        (lambda: Objective(nn.ReLU(), lambda m, b: 0, [torch.ones(1)]), lrs.TaskError, "no parameter that requires"),
        (lambda: Objective(nn.Linear(1, 1), lambda m, b: 0, [torch.ones(1)], mode="x"), ValueError, "mode"),
        (
            lambda: objective_of("tuple").loss(torch.ones(3)),
            ValueError,
            r"theta: expected a tensor of shape \(\d+,\)",
        ),
        (lambda: (o := objective_of("tuple")).hvp(o.point(), torch.ones(3)), ValueError, "v: expected"),
        (
            lambda: Objective(nn.Linear(1, 1), lambda m, b: m(b), [torch.ones(2, 1)]).loss(),
            lrs.TaskError,
            r"got \(2, 1\); reduce it",
        ),
    ],
)
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_mixed_dtypes_cannot_form_one_vector():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double())
    with pytest.raises(lrs.TaskError, match="must share one dtype"):
        ParamLayout.of(model)


def test_batches_come_as_any_iterable_of_batches():
    one = objective_of("tuple")
    for batches in (one.batches, list(one.batches), iter(one.batches)):
        assert Objective(one.model, one.loss_fn, batches).loss() == one.loss()


@pytest.mark.parametrize("change", [lambda p: p.requires_grad_(False), lambda p: p.requires_grad_(True)])
def test_other_trainable_parameters_than_at_first_are_another_theta(change):
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].weight.requires_grad_(not change(torch.ones(1)).requires_grad)
    objective = Objective(model, _cross_entropy, [(torch.randn(8, 6), torch.zeros(8, dtype=torch.long))])
    theta = objective.point()
    change(model[0].weight)
    optimizer = torch.optim.Adam(model.parameters())
    for call in (
        objective.point, objective.loss, lambda: objective.grad(theta), lambda: lrs.sharpness(objective),
        lambda: lrs.curvature.preconditioned_sharpness(objective, optimizer),
    ):  # fmt: skip
        with pytest.raises(lrs.MeasurementError, match=r"'0\.weight' was (un)?frozen .* make a new Objective"):
            call()
    assert lrs.sharpness(objective.on(objective.batches)).converged


class _Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.student, self.teacher = nn.Linear(6, 3), nn.Linear(6, 3).requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            self.teacher.weight.lerp_(self.student.weight, 0.1)
        return self.student(x) - self.teacher(x)


def test_a_teacher_that_forward_moves_stands_still():
    model = _Teacher()
    objective = Objective(model, _cross_entropy, [(torch.randn(8, 6), torch.zeros(8, dtype=torch.long))])
    before = everything(model)
    assert objective.loss() == objective.loss() == objective.loss_and_grad(objective.point())[0]
    lrs.sharpness(objective)
    assert everything(model) == before


def test_a_batch_is_not_changed_by_the_loss():
    x, y = torch.randn(8, 6), torch.zeros(8, dtype=torch.long)
    before, batch = x.clone(), {"x": x, "y": y}
    model = nn.Linear(6, 3)
    popping = Objective(model, lambda m, b: F.cross_entropy(m(b["x"]), b.pop("y")), [batch])
    assert popping.loss() == popping.loss()
    assert list(batch) == ["x", "y"]
    editing = Objective(model, lambda m, b: _cross_entropy(m, (b["x"].mul_(0.9), b["y"])), [batch])
    for call in (editing.loss, lambda: lrs.sharpness(editing)):
        with pytest.raises(lrs.TaskError, match="edits tensor 0 of the batch in place"):
            call()
        assert torch.equal(x, before)


def test_an_autocast_of_the_caller_does_not_count_but_one_inside_the_loss_does():
    batches = [(torch.randn(8, 6), torch.zeros(8, dtype=torch.long))]
    model = nn.Linear(6, 3)

    def coarse(m, b):
        with torch.autocast("cpu", torch.bfloat16):
            return _cross_entropy(m, b)

    plain, inside = Objective(model, _cross_entropy, batches), Objective(model, coarse, batches)
    expected, theta = plain.loss(), plain.point()
    grad = plain.grad(theta)
    assert inside.loss() != expected
    with torch.autocast("cpu", torch.bfloat16):
        assert plain.loss() == expected
        assert torch.equal(plain.grad(theta), grad)
        assert torch.is_autocast_enabled("cpu")


def test_a_collated_list_is_one_batch_where_its_kinds_say_so():
    x, y = torch.randn(8, 6), torch.zeros(8, dtype=torch.long)
    mean = lambda m, b: m(b).square().mean()  # noqa: E731
    with pytest.raises(TypeError, match=r"list of tensors, which looks like one batch; wrap one batch: \[batch\]"):
        Objective(nn.Linear(6, 3), mean, [x, y])
    assert len(Objective(nn.Linear(6, 3), mean, [x, x + 1, x[:3]]).batches) == 3
    assert len(Objective(nn.Linear(6, 3), _cross_entropy, [[x, y]]).batches) == 1


def _cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


class _Dropping(nn.Module):
    """Drops in every way but by a dropout layer, as far as it may."""

    def __init__(self, again=None):
        super().__init__()
        self.again = again  # use_reentrant of activation checkpointing, None for none
        self.recurrent = nn.LSTM(6, 8, 2, dropout=0.5)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        a, on = self.attention, self.training
        y = self.recurrent(x[:, None])[0]
        y = F.dropout(y, 0.5, on) + torch.dropout(y, p=0.5, train=on) + a(y, y, y)[0]
        weights = (a.in_proj_weight, a.in_proj_bias, None, None, False, 0.5, a.out_proj.weight, a.out_proj.bias)
        y = y + F.multi_head_attention_forward(y, y, y, 8, 2, *weights, on)[0]
        q = y.transpose(0, 1)
        q = q if self.again is None else checkpoint(self.late, q, use_reentrant=self.again)
        return self.head(self.norm(self.late(q)[0]))

    def late(self, q):
        q = F.scaled_dot_product_attention(q, q, q, None, 0.5 * self.training)
        return F.dropout(F.scaled_dot_product_attention(q, q, q, dropout_p=0.5 * self.training), 0.5, self.training)


@pytest.mark.parametrize(("compiled", "again"), [(False, None), (True, None), (False, False), (False, True)])
def test_whatever_drops_is_off_and_batch_statistics_are_not(compiled, again):
    torch.manual_seed(0)
    model = _Dropping(again).double()
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 3, (8,))
    loss_fn = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731
    with torch.no_grad():  # the oracle: rates set to nothing by hand, BatchNorm alone in train mode
        bare = copy.deepcopy(model).eval()
        bare.norm.train()
        expected = float(loss_fn(bare, (x, y)))
    loss_fn(bare, (x, y)).backward()
    slope = torch.cat([p.grad.flatten() for p in bare.parameters()])
    with torch.no_grad():
        assert float(loss_fn(model, (x, y))) != pytest.approx(expected, rel=1e-3)
    objective = Objective(torch.compile(model, backend="eager") if compiled else model, loss_fn, [(x, y)])
    theta = objective.point()
    assert objective.loss() == pytest.approx(expected, rel=1e-12)
    loss, grad = objective.loss_and_grad(theta)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(grad, slope, rtol=1e-9, atol=1e-12)
    with objective.undisturbed():  # draws nothing
        before = torch.get_rng_state()
        objective.batch_loss(theta, (x, y))
        assert torch.equal(torch.get_rng_state(), before)
    assert (model.recurrent.dropout, model.attention.dropout) == (0.5, 0.5)
