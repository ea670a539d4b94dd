"""Training a curve: step by step what a plain loop with torch's own optimizer does, on every kind of network."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import cases
import lrscope as lrs
from lrscope.landscape import barrier, connect
from lrscope.landscape.connect import lr_factor
from lrscope.landscape.path import weights
from lrscope.tasks import BatchStream, Task

D = torch.float64


def flat(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_the_sheets_shape_of_the_learning_rate():
    """1 up to half of the steps, 1 - 0.99 (alpha - 0.5) / 0.4 up to 0.9, then 0.01."""
    for alpha in np.linspace(0, 1, 101):
        want = 1 if alpha <= 0.5 else 1 - 0.99 * (alpha - 0.5) / 0.4 if alpha <= 0.9 else 0.01
        assert lr_factor(alpha) == pytest.approx(want)


RULES = {
    "sgd(momentum=0.9)": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
    "sgd(momentum=0)": lambda p: torch.optim.SGD(p, lr=1.0),
    "adam": lambda p: torch.optim.Adam(p),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "bends"), [("bezier", 1), ("chain", 1), ("bezier", 3), ("chain", 2)])
def test_training_is_the_plain_loop(kind, bends, rule):
    """The reference: a dict of parameters per bend, their weighted sum called functionally, the L2 term in the loss."""
    task = cases.TASKS["batch_norm"](D)
    a, b = task.model(0), task.model(1)
    steps, lr, decay, seed = 12, 0.05, 0.01, 3
    found = connect(
        task, a, b, kind=kind, bends=bends, steps=steps, optimizer=rule, lr=lr, weight_decay=decay, seed=seed
    )

    names = [n for n, _ in a.named_parameters()]
    ends = [{n: p.detach() for n, p in m.named_parameters()} for m in (a, b)]
    shares = [(j + 1) / (bends + 1) for j in range(bends)]
    middle = [{n: ((1 - s) * ends[0][n] + s * ends[1][n]).requires_grad_() for n in names} for s in shares]
    optimizer = RULES[rule]([p for bend in middle for p in bend.values()])
    stream, model = BatchStream(task.train, seed), task.model(0).train()
    ts = np.random.default_rng(seed).random(steps)
    for i, t in enumerate(ts):
        w = weights(kind, np.array([t]), bends + 2)[0]
        phi = {n: sum(float(c) * p[n] for c, p in zip(w, [ends[0], *middle, ends[1]], strict=True)) for n in names}
        x, y = next(stream)
        loss = nn.functional.cross_entropy(functional_call(model, phi, (x,)), y)
        assert found.losses[i] == pytest.approx(float(loss.detach()), rel=1e-9)
        optimizer.zero_grad()
        (loss + decay / 2 * sum((p**2).sum() for p in phi.values())).backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_factor(i / steps)
        optimizer.step()
    for bend, want in zip(found.bends, middle, strict=True):
        theirs = torch.cat([want[n].detach().reshape(-1) for n in names])
        torch.testing.assert_close(bend, theirs, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(found.ts, ts)


def test_before_training_the_curve_is_the_straight_line():
    task = cases.TASKS["tuple"](D)
    a, b = task.model(0), task.model(1)
    for kind, bends in (("bezier", 1), ("bezier", 4), ("chain", 2)):
        found = connect(task, a, b, kind=kind, bends=bends, steps=1, lr=1e-12, weight_decay=0)
        for t in (0.0, 0.3, 0.8, 1.0):
            torch.testing.assert_close(found(t), (1 - t) * flat(a) + t * flat(b), rtol=1e-9, atol=1e-9)
        assert found.detour == pytest.approx(1, abs=1e-9)


def huggingface(seed):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=1, n_head=2, n_embd=8, vocab_size=cases.VOCAB, n_positions=8, loss_type="ForCausalLM",
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def huggingface_task():
    tokens, _ = cases.data(torch.float32, "tokens")
    batches = [{"input_ids": x, "labels": x} for x in tokens.split(8)]
    return Task(huggingface, lambda m, b: m(**b).loss, batches[:3], batches[3:], count=lambda b: len(b["input_ids"]))


@pytest.mark.parametrize("target", ["task", "objective"])
@pytest.mark.parametrize("name", [*sorted(cases.TASKS), "huggingface"])
def test_every_kind_of_network_is_connected(name, target):
    task = huggingface_task() if name == "huggingface" else cases.TASKS[name]()
    a, b = task.model(0), task.model(1)
    if name == "frozen":
        b.hidden[0].weight.data.copy_(a.hidden[0].weight)
    it = task if target == "task" else lrs.Objective(task.model(2), task.loss_fn, task.batches(), count=task.count)
    if name == "frozen" and target == "objective":
        it.model.hidden[0].weight.data.copy_(a.hidden[0].weight)
    found = connect(it, a, b, steps=30, num_points=5, optimizer="adam", lr=0.01)
    assert found.status == "done"
    ends = [torch.cat([p.detach().reshape(-1) for p in m.parameters() if p.requires_grad]) for m in (a, b)]
    assert torch.equal(found(0), ends[0])
    assert torch.equal(found(1), ends[1])
    straight = barrier(it, a, b, num_points=5)
    assert found.barrier.ends == pytest.approx(straight.ends, rel=1e-6)
    assert not torch.equal(found.bends[0], (ends[0] + ends[1]) / 2)
    inner = np.isin(found.profile.t, [0.25, 0.5, 0.75])
    assert inner.sum() == 3
    assert found.profile["train_loss"][inner].mean() < straight.profile["train_loss"][1:-1].mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_bends_of_half_precision_are_trained_in_single(dtype):
    task = cases.TASKS["tuple"](dtype)
    found = connect(task, task.model(0), task.model(1), steps=20, lr=1e-4, num_points=3)
    assert found(0.5).dtype == dtype
    assert found.bends[0].dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(found(1), flat(task.model(1)))
    assert not torch.equal(found.bends[0], ((flat(task.model(0)) + flat(task.model(1))) / 2).to(found.bends[0].dtype))


def test_a_seed_repeats_and_another_does_not():
    task = cases.TASKS["attention_dropout"]()
    a, b = task.model(0), task.model(1)
    one, same, other = (connect(task, a, b, steps=5, num_points=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.bends[0], same.bends[0])
    np.testing.assert_array_equal(one.losses, same.losses)
    assert not torch.equal(one.bends[0], other.bends[0])


def test_dropout_is_on_in_the_training_of_a_task_only():
    task = cases.TASKS["dropout"](D)
    a = task.model(0)
    found = connect(task, a, a, steps=8, lr=1e-9, weight_decay=0, num_points=3)
    plain = barrier(task, a, a, num_points=3).ends[0]
    assert np.ptp(found.profile["train_loss"]) < 1e-6
    assert abs(found.losses.mean() - plain) > 1e-3
    quiet = connect(task.objective(num_batches=3, model=a), a, a, steps=6, lr=1e-9, weight_decay=0, num_points=3)
    assert sorted(np.round(quiet.losses[:3], 6)) == sorted(np.round(quiet.losses[3:], 6))  # each batch once an epoch


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(cases.FEATURES, 8), nn.Linear(8, cases.CLASSES), reentrant

    def forward(self, x):
        h = self.first(x).tanh()
        return checkpoint(self.last, h, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    x, y = cases.data(D)
    task = Task(lambda s: Checkpointed(reentrant).to(D), cases.cross_entropy, [(x, y)])
    plain = Task(
        lambda s: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(D), cases.cross_entropy, [(x, y)]
    )
    a, b = task.model(0), task.model(1)
    found = connect(task, a, b, steps=5, num_points=3)
    want = connect(plain, flat(a), flat(b), steps=5, num_points=3)
    torch.testing.assert_close(found.bends[0], want.bends[0])


def test_divergence_is_a_status():
    task = cases.TASKS["linear_squared"]()
    found = connect(task, task.model(0), task.model(1), steps=400, lr=1e3, num_points=5)
    assert found.status == "diverged"
    assert not np.isfinite(found.losses[-1])
    assert np.isfinite(found.losses[:-1]).all()
    assert len(found.losses) == len(found.ts) < 400
    assert torch.equal(found(0), flat(task.model(0)))
    assert "diverged" in str(found)


def test_a_loss_without_a_gradient():
    x, y = cases.data(D)
    task = Task(lambda s: nn.Linear(6, 3, dtype=D), lambda m, b: m(b[0]).detach().mean(), [(x, y)])
    with pytest.raises(lrs.MeasurementError, match="the loss has no gradient"):
        connect(task, task.model(0), task.model(1))


def ridge(model, x):
    """A narrow wall at theta_0 = 0, which a coarse grid steps over."""
    w = model.weight[0]
    return (torch.exp(-((w[0] / 0.02) ** 2)) + 0 * w[1]) * x.mean()


def test_the_grid_is_refined_around_its_worst_point():
    objective = lrs.Objective(nn.Linear(2, 1, bias=False, dtype=D), ridge, [torch.ones(2, dtype=D)])
    a, b = torch.tensor([-1.0, 0.0], dtype=D), torch.tensor([1.03, 0.0], dtype=D)
    found = connect(objective, a, b, steps=1, lr=1e-9, weight_decay=0, num_points=61)
    coarse = found.profile["train_loss"][np.isin(found.profile.t, np.linspace(0, 1, 61))].max()
    assert coarse < 0.7 < 0.97 < found.barrier.height <= 1
    assert found.barrier.resolution == pytest.approx(found.barrier.height - coarse)
    assert len(found.profile.t) == 61 + 16
    assert (np.diff(found.profile.t) > 0).all()


def test_the_cost_is_what_was_done():
    task = cases.TASKS["tuple"]()
    found = connect(task, task.model(0), task.model(1), steps=7, num_points=5)
    points = len(found.profile.t)
    assert found.cost.gradients == found.cost.updates == 7
    assert found.cost.forwards == pytest.approx(points * (20 + 12) / 8)


def test_progress_and_record():
    import json

    seen = []
    task = cases.TASKS["tuple"]()
    found = connect(task, task.model(0), task.model(1), steps=3, num_points=3, on_progress=lambda *p: seen.append(p))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["settings"]["optimizer"] == "sgd(momentum=0.9)"
    assert record["settings"]["lr"] == 0.03
    assert record["length"] == found.length
    assert found.plot(of="test_loss").get_ylabel() == "test loss"
