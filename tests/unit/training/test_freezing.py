"""Layers held for the first steps: bit-equal until then, and no trace of the time when they are released."""

from functools import partial

import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from lrscope.schedules import Constant
from lrscope.stability import SharpnessProbe
from lrscope.tasks import Task
from lrscope.training import GradientNorm, train
from lrscope.training.freezing import Freezing

RULES = ["sgd(momentum=0.9, weight_decay=0.1)", "adamw(weight_decay=0.1)"]


class Watching:
    """Keeps the parameters before every update."""

    name, every = "watching", None

    def __init__(self):
        self.seen = []

    def __call__(self, state):
        self.seen.append({n: p.detach().clone() for n, p in state.model.named_parameters()})
        return {}

    def finish(self, model, step):
        self.seen.append({n: p.detach().clone() for n, p in model.named_parameters()})


def watched(task, optimizer="sgd", steps=12, **options):
    watching = Watching()
    train(task, optimizer, Constant(0.05), steps, probes=[watching], **options)
    return watching.seen


def changed_at(seen, name):
    return [t for t in range(len(seen) - 1) if not torch.equal(seen[t][name], seen[t + 1][name])]


@pytest.mark.parametrize("optimizer", RULES)
def test_held_layers_are_bit_equal_until_their_step_and_then_train(optimizer):
    seen = watched(cases.TASKS["tuple"](), optimizer, frozen={"head.*": 7, "hidden.0.bias": 3})
    assert changed_at(seen, "head.weight") == list(range(7, 12))
    assert changed_at(seen, "head.bias") == list(range(7, 12))
    assert changed_at(seen, "hidden.0.bias") == list(range(3, 12))
    assert changed_at(seen, "hidden.0.weight") == list(range(12))


def test_a_tied_weight_is_held_under_each_of_its_names():
    task = cases.TASKS["attention_tied"]()
    model = task.model(0)
    first = {id(p): name for name, p in model.named_parameters()}
    name, alias = next(
        (first[id(p)], n) for n, p in model.named_parameters(remove_duplicate=False) if first[id(p)] != n
    )
    for pattern in (name, alias, alias.rpartition(".")[0]):
        assert changed_at(watched(task, steps=6, frozen={pattern: 4}), name) == [4, 5]


@pytest.mark.parametrize("optimizer", RULES)
def test_the_others_train_as_if_the_held_ones_were_constants(optimizer):
    task = cases.TASKS["tuple"](dtype=torch.float64)

    def build(seed):
        model = task.build(seed)
        for p in model.head.parameters():
            p.requires_grad_(False)
        return model

    held = watched(task, optimizer, steps=8, frozen={"head": 100})
    constant = watched(Task(build, task.loss_fn, task.train, task.evaluate), optimizer, steps=8)
    for a, b in zip(held, constant, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", RULES)
def test_a_released_layer_starts_with_the_optimizers_first_step(optimizer):
    """No stale momentum, no moments of gradients it did not follow: as a fresh optimizer over it would step."""
    task = cases.TASKS["tuple"](dtype=torch.float64)
    grads = {}

    class Last:
        name, every = "last", None

        def __call__(self, state):
            if state.step == 5:
                grads.update({n: p.grad.clone() for n, p in state.model.named_parameters()})
            return {}

    watching = Watching()
    train(task, optimizer, Constant(0.05), 6, probes=[watching, Last()], frozen={"head": 5})
    before, after = watching.seen[5], watching.seen[6]
    p = nn.Parameter(before["head.weight"].clone())
    fresh = lrs.optimizers.OptimizerSpec.parse(optimizer).build([p], lr=0.05)
    p.grad = grads["head.weight"]
    fresh.step()
    torch.testing.assert_close(p.detach(), after["head.weight"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["tuple", "batch_norm", "dropout", "attention_tied"])
@pytest.mark.parametrize("after", [2, 5, 9])
def test_resume_equals_no_interruption(name, after, tmp_path):
    task = cases.TASKS[name](dtype=torch.float64)
    first = next(n for n, _ in task.model(0).named_parameters())
    run = partial(train, task, RULES[1], Constant(0.01), 12, frozen={first: 5}, name="run")
    whole = run(out=tmp_path / "whole")

    def stop(state):
        if state.step + 1 == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "cut", on_step=stop)
    again = run(out=tmp_path / "cut", resume=True)
    assert again["loss"].value.tolist() == whole["loss"].value.tolist()
    ends = [torch.load(tmp_path / part / "run.pt", weights_only=True)["model"] for part in ("whole", "cut")]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
    assert whole.config["frozen"] == {first: 5}


def test_a_run_held_otherwise_is_another_run(tmp_path):
    task = cases.TASKS["tuple"]()
    run = partial(train, task, "sgd", Constant(0.01), 4, out=tmp_path, resume=True)
    run(frozen={"head": 3})
    for other in ({"head": 2}, {"hidden": 3}, None):
        with pytest.raises(ValueError, match=r"resume: .* holds another run \(frozen: stored \{'head': 3\}"):
            run(frozen=other)
    assert "frozen" not in train(task, "sgd", Constant(0.01), 1).config


def test_probes_live_with_layers_that_have_no_gradient():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    for optimizer in RULES:
        probes = [SharpnessProbe(task, every=2), GradientNorm()]
        run = train(task, optimizer, Constant(0.01), 8, probes=probes, frozen={"head": 5})
        assert len(run["sharpness"].value) == 4
        assert run["gradient_norm"].value[4] < run["gradient_norm"].value[5]


def test_the_longer_of_two_patterns_holds():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    freeze = Freezing({"0.*": 3, "0.bias": 5, "*.bias": 4}, model)
    for step, expected in ((2, ["1.weight"]), (3, ["0.weight", "1.weight"]), (4, ["0.weight", "1.weight", "1.bias"])):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        freeze(step)
        assert [n for n, p in model.named_parameters() if p.grad is not None] == expected


@pytest.mark.parametrize(
    ("frozen", "says"),
    [
        ({"hidde": 3}, r"frozen: 'hidde' matches no trainable parameter \(did you mean 'hidden'"),
        (
            {"zzz.*": 3},
            r"frozen: 'zzz.\*' matches no trainable parameter; there are hidden.0.weight, hidden.0.bias, ",
        ),
        ({"*": 3}, "frozen: '\\*' hold every trainable parameter, so nothing would train before step 3"),
        ({"head": 0}, "frozen: 'head' must be held for a positive number of steps, got 0"),
        ({"head": 2.5}, "frozen: 'head' must be held for a positive number of steps, got 2.5"),
        ({"head": True}, "frozen: 'head' must be held for a positive number of steps, got True"),
        ({3: 4}, "frozen: expected patterns of parameter names"),
        ({}, r"frozen: expected a dict such as \{'head.\*': 200\}, got \{\}"),
        (["head"], "frozen: expected a dict"),
    ],
)
def test_what_cannot_be_held_is_refused_before_any_work(frozen, says, tmp_path):
    with pytest.raises(ValueError, match=says) as caught:
        train(lrs.tasks.digits(), "sgd", Constant(0.1), 2, frozen=frozen, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
