"""Distillation: the loss in closed form, a teacher that nothing trains, and a student that runs everywhere."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cases
import lrscope as lrs
from fingerprints import everything
from lrscope.errors import TaskError
from lrscope.tasks import distill
from lrscope.tasks.distill import DistillationLoss
from lrscope.training import Cell, replicas, run_cells, train_one


def teacher_of(task, seed=7):
    model = task.model(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model


def gradient(task, model, batch):
    return torch.autograd.grad(task.loss_fn(model, batch), list(model.parameters()))


class Free(nn.Module):
    """Logits that are parameters themselves, so that gradients in the logits can be read off."""

    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z.clone())

    def forward(self, x):
        return self.z[: len(x)]


def free_task(z, labels):
    return lrs.Task(
        lambda _: Free(z), lambda m, b: F.cross_entropy(m(b[0]), b[1]), [(torch.zeros(len(z), 1).to(z), labels)]
    )


@pytest.fixture
def logits():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 6, 4, generator=g, dtype=torch.float64) * 2
    return z[0], z[1], torch.randint(4, (6,), generator=g)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("weight", [1.0, 0.7, 0.0])
def test_the_gradient_in_the_logits_is_the_closed_form(logits, weight, temperature, scale):
    student, taught, labels = logits
    task = distill(free_task(student, labels), Free(taught), temperature, weight, scale=scale)
    model, (batch,) = task.model(0), task.train
    (found,) = gradient(task, model, batch)
    p, q = (F.softmax(z / temperature, -1) for z in (student, taught))
    hard = F.softmax(student, -1) - F.one_hot(labels, 4)
    factor = temperature if scale else 1 / temperature
    expected = (weight * factor * (p - q) + (1 - weight) * hard) / len(student)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_loss_is_the_divergence_and_the_teachers_entropy(logits):
    student, taught, labels = logits
    task = distill(free_task(student, labels), Free(taught), 3.0)
    q = F.softmax(taught / 3, -1)
    divergence = F.kl_div(F.log_softmax(student / 3, -1), q, reduction="batchmean")
    entropy = -(q * q.log()).sum(-1).mean()
    found = task.loss_fn(task.model(0), task.train[0]).detach()
    torch.testing.assert_close(found, 9 * (divergence + entropy), rtol=1e-12, atol=0)
    # The floor: a student that says what the teacher says.
    torch.testing.assert_close(task.loss_fn(Free(taught), task.train[0]).detach(), 9 * entropy, rtol=1e-12, atol=0)


def test_hot_teachers_match_centred_logits(logits):
    """Hinton et al. 2015, section 2.1, without its assumption of zero means."""
    student, taught, labels = logits
    centred = (student - student.mean(-1, keepdim=True)) - (taught - taught.mean(-1, keepdim=True))
    limit = centred / (4 * len(student))
    errors = []
    for temperature in (1e2, 1e3):
        task = distill(free_task(student, labels), Free(taught), temperature)
        (found,) = gradient(task, task.model(0), task.train[0])
        errors.append(float((found - limit).norm() / limit.norm()))
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)  # first order in 1 / temperature


def test_without_weight_it_is_the_task_and_no_teacher_is_asked():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    teacher = teacher_of(task)
    student = distill(task, teacher, weight=0.0)
    student.loss_fn.teacher.forward = None  # any call would raise
    model, (batch,) = task.model(0), task.batches(1)
    for a, b in zip(gradient(student, model, batch), gradient(task, model, batch), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["tuple", "batch_norm", "dropout", "attention_tied"])
def test_one_forward_pass_serves_both_losses(name):
    """As written by hand: BatchNorm moves once and one dropout mask is drawn."""
    task = cases.TASKS[name](dtype=torch.float64)
    teacher = teacher_of(task)
    student = distill(task, teacher, 2.0, 0.6)
    model, (batch,) = task.model(0).train(), task.batches(1)
    by_hand = copy.deepcopy(model)
    calls = []
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    handle = head.register_forward_hook(lambda *_: calls.append(1))
    forward = model.forward

    torch.manual_seed(3)
    loss = student.loss_fn(model, batch)
    handle.remove()
    assert len(calls) == 1
    torch.manual_seed(3)
    z = by_hand(batch[0])
    with torch.no_grad():
        q = F.softmax(teacher.eval()(batch[0]) / 2, -1)
    soft = -(q * F.log_softmax(z / 2, -1)).sum(-1).mean()
    expected = 0.6 * 4 * soft + 0.4 * F.cross_entropy(z.flatten(0, -2), batch[1].flatten())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for a, b in zip(model.buffers(), by_hand.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    assert model.forward == forward
    assert "forward" not in vars(model)


def test_a_loss_that_raises_leaves_the_student_as_it_was():
    task = cases.TASKS["tuple"]()
    student = distill(task, teacher_of(task), weight=0.5)
    broken = DistillationLoss(replace(task, loss_fn=lambda m, b: 1 / 0), student.loss_fn.teacher, 5, 0.5, True,
                              student.loss_fn.logits)  # fmt: skip
    model, (batch,) = task.model(0), task.batches(1)
    before = everything(model)
    with pytest.raises(ZeroDivisionError):
        broken(model, batch)
    assert everything(model) == before
    assert "forward" not in vars(model)


def test_the_teacher_is_copied_and_nothing_trains_it():
    task = cases.TASKS["batch_norm"]()
    teacher = teacher_of(task).train()
    teacher(task.batches(1)[0][0]).sum().backward()
    before = everything(teacher)
    student = distill(task, teacher, weight=0.5)
    assert everything(teacher) == before
    held = student.loss_fn.teacher
    values = {k: v.clone() for k, v in held.state_dict().items()}
    made = []

    def optimizer(params):
        made.append(torch.optim.SGD(params, lr=1.0))
        return made[0]

    lrs.train(student, optimizer, lrs.schedules.Constant(0.05), 5)
    assert everything(teacher) == before
    assert all(torch.equal(v, values[k]) for k, v in held.state_dict().items())
    assert not any(m.training for m in held.modules())
    assert not any(p.requires_grad or p.grad is not None for p in held.parameters())
    trained = {id(p) for group in made[0].param_groups for p in group["params"]}
    assert not trained & {id(p) for p in (*held.parameters(), *teacher.parameters())}
    assert student.model(0).state_dict().keys() == task.model(0).state_dict().keys()
    with torch.no_grad():
        teacher.get_parameter(next(iter(dict(teacher.named_parameters())))).add_(1.0)
    assert all(torch.equal(v, values[k]) for k, v in held.state_dict().items())


def test_a_checkpoint_holds_the_student_alone(tmp_path):
    task = cases.TASKS["tuple"]()
    lrs.train(distill(task, teacher_of(task)), "sgd", lrs.schedules.Constant(0.01), 3, out=tmp_path)
    stored = torch.load(tmp_path / "train.pt", weights_only=True)
    assert stored["model"].keys() == task.model(0).state_dict().keys()


def test_students_with_and_without_a_teacher_are_judged_alike():
    task = cases.TASKS["tuple"]()
    student = distill(task, teacher_of(task))
    model = task.model(3)
    assert lrs.training.evaluate(student, model) == lrs.training.evaluate(task, model)
    constant = lrs.schedules.Constant(0.0)
    for engine in ("serial", "replicas"):
        taught, plain = (run_cells(t, "sgd", [Cell(constant, 0)], 2, engine=engine)[0] for t in (student, task))
        assert taught.final("eval_loss") == plain.final("eval_loss")
        assert taught["loss"].value[0] != plain["loss"].value[0]


@pytest.mark.parametrize("name", ["tuple", "batch_norm", "attention_tied"])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_replicas_train_as_one_after_the_other(name, weight):
    task = cases.TASKS[name](dtype=torch.float64)
    student = distill(task, teacher_of(task), 3.0, weight)
    cells = [Cell(lrs.schedules.Constant(lr), seed) for lr in (0.02, 0.005) for seed in (0, 1)]
    together = replicas(student, "sgd(momentum=0.9)", cells, 12)
    for cell, run in zip(cells, together, strict=True):
        alone = train_one(student, "sgd(momentum=0.9)", cell, 12)
        torch.testing.assert_close(
            torch.tensor(run["loss"].value), torch.tensor(alone["loss"].value), rtol=1e-9, atol=1e-12
        )


def test_a_student_nears_its_teacher():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    teacher = teacher_of(task)
    student = distill(task, teacher, 2.0)
    run = lrs.train(student, "adam", lrs.schedules.Linear(0.03, 0.0, 300), 300)
    weights = torch.tensor([8, 8, 4], dtype=torch.float64) / 20  # the batches of an epoch
    with torch.no_grad():
        floor = float(weights @ torch.stack([student.loss_fn(teacher, batch) for batch in student.batches()]))
    first, last = (float(weights @ torch.tensor(run["loss"].value[part])) for part in (slice(3), slice(-3, None)))
    assert -1e-9 < last - floor < 0.02 * (first - floor)


def test_batches_that_are_tensors_mappings_and_outputs_with_logits():
    class Answer:
        def __init__(self, logits):
            self.logits = logits

    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, inputs, labels=None):
            return Answer(self.linear(inputs))

    batch = {"inputs": torch.randn(5, 3), "labels": torch.randint(4, (5,))}
    task = lrs.Task(lambda _: Keywords(), lambda m, b: F.cross_entropy(m(**b).logits, b["labels"]), [batch])
    student = distill(task, Keywords())
    assert student.loss_fn(student.model(0), batch).shape == ()

    plain = lrs.Task(lambda _: nn.Linear(3, 4), lambda m, b: m(b).square().mean(), [batch["inputs"]])
    assert distill(plain, nn.Linear(3, 4)).loss_fn(plain.model(0), batch["inputs"]).shape == ()

    chosen = distill(task, nn.Linear(3, 4), logits=lambda m, b: getattr(m, "linear", m)(b["inputs"]))
    assert chosen.loss_fn(chosen.model(0), batch).shape == ()


def test_the_precision_is_the_students():
    task = cases.TASKS["tuple"](dtype=torch.float32)
    teacher = teacher_of(cases.TASKS["tuple"](dtype=torch.float64)).float().bfloat16()
    student = distill(task, teacher, logits=lambda m, b: m(b[0].to(next(m.parameters()).dtype)))
    assert student.loss_fn(task.model(0), task.batches(1)[0]).dtype == torch.float32


def test_task_checks_and_objectives_work_on_it():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    student = distill(task, teacher_of(task), weight=0.5)
    before = everything()
    student.check()
    assert everything() == before
    assert math.isfinite(lrs.sharpness(student.objective(0), tol=1e-2).value)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"temperature": 0}, ValueError, "temperature: expected a number above 0, got 0"),
        ({"temperature": -1.0}, ValueError, "temperature: expected a number above 0, got -1.0"),
        ({"temperature": math.inf}, ValueError, "temperature: expected a number above 0, got inf"),
        ({"temperature": "5"}, ValueError, "temperature: expected a number above 0, got '5'"),
        ({"weight": 1.5}, ValueError, "weight: expected a share between 0 and 1, got 1.5"),
        ({"weight": math.nan}, ValueError, "weight: expected a share between 0 and 1, got nan"),
        ({"teacher": {"w": 1}}, TypeError, "teacher: expected a torch.nn.Module, got dict"),
        ({"teacher": nn.Linear(6, 5)}, TaskError, "teacher: it tells 5 classes apart and the student 3"),
        ({"teacher": nn.Linear(9, 3)}, TaskError, "teacher: called with the first batch, .* it raised RuntimeError"),
        ({"teacher": nn.Sequential(nn.Linear(6, 3), nn.Flatten(0))}, TaskError, "teacher: expected logits of shape"),
        ({"logits": 3}, TypeError, "logits: expected a function of"),
        ({"logits": lambda m, b: m(b[0]).argmax(-1)}, TaskError, "student: expected logits of shape"),
        ({"task": 3}, TypeError, "task: expected a lrscope Task, got int"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, error, says):
    task = cases.TASKS["tuple"]()
    arguments = {"task": task, "teacher": nn.Linear(6, 3)} | change
    before = everything()
    with pytest.raises(error, match=says) as caught:
        distill(arguments.pop("task"), arguments.pop("teacher"), **arguments)
    assert "\n" not in str(caught.value)
    assert everything() == before


def test_a_teacher_that_cannot_be_copied_is_refused():
    teacher = nn.Linear(6, 3)
    teacher.held = (x for x in ())
    with pytest.raises(TaskError, match=r"teacher: it could not be copied \(TypeError"):
        distill(cases.TASKS["tuple"](), teacher)
