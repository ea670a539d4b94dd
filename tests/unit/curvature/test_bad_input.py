"""What cannot be measured is refused in one line that says what and why, or answered in a way that has a name.

Every input goes through every call of tests/measuring.py. Three kinds of ends are right:

- a refusal: an error of lrscope, ValueError or TypeError, one line, with the words of the input's row;
- an answer, where the row names the call: no number was made up (a status, ``nan``, a loss that is what it is);
- from an objective's own methods and bare operators, what the user's model raises, as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import cases
from lrscope import Objective, SharpnessTracker, sharpness
from lrscope import curvature as C
from lrscope.errors import LrscopeError, MeasurementError, TaskError
from measuring import CALLS, direction

DOUBLE = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")

BARE = [
    name
    for name in CALLS
    if name.startswith(("Objective.", "block")) or name in (
        "ExactHessian", "ForwardHessian", "DifferenceHessian", "Scaled", "Preconditioned", "Deflated",
    )
]  # fmt: skip
"""The loss as a function and its algebra: nan in, nan out, and the user's own errors."""
WATCHING = ["Watch", "Watch with a cap", "SharpnessProbe"]
"""In a training, where what cannot be measured is an event, and no reason to stop."""
TRAINING = ["critical_constants", "measure_regime"]
"""These train copies of the model; what that raises comes as it is."""
STEPPING = ["critical_lr", "critical_lr of a name", "critical_sharpness"]
"""These say in a status why there is no number."""


def batches(dtype=DOUBLE, kind="features"):
    return list(zip(*(t[:12].split(4) for t in cases.data(dtype, kind)), strict=True))


def times(factor):
    return lambda model, batch: factor * cases.cross_entropy(model, batch)


def rooted(model, batch):
    return (0 * model(batch[0])).pow(2).sum().sqrt() + cases.cross_entropy(model, batch)


def silent(model, batch):
    with torch.no_grad():
        return cases.cross_entropy(model, batch)


def greedy(model, batch):
    loss = cases.cross_entropy(model, batch)
    loss.backward()
    return loss


def noisy():
    own = torch.Generator().manual_seed(0)

    def loss_fn(model, batch):
        x, y = batch
        return cases.cross_entropy(model, (x * (torch.rand(x.shape, generator=own) > 0.5), y))

    return loss_fn


class InPlace(nn.Module):
    """Overwrites what its backward pass needs."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(cases.FEATURES, 4), nn.Linear(4, cases.CLASSES)

    def forward(self, x):
        h = self.a(x).exp()
        y = self.head(h)
        h.mul_(2)
        return y


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.head = nn.Embedding(cases.VOCAB, 4, sparse=True), nn.Linear(4, cases.VOCAB)

    def forward(self, x):
        return self.head(self.token(x))


@dataclass
class Input:
    """One kind of bad input.

    Attributes:
        words: What every refusal says, one of them.
        answers: Calls that answer all the same.
        raises: Whether the model or the loss itself raises in a forward pass, or in a backward pass.
        only: Calls that it is bad for; all if empty.
        watched: Whether a training that is watched goes on, with an event.
    """

    words: str
    answers: list[str] = field(default_factory=list)
    loss_fn: object = cases.cross_entropy
    make: object = cases.mlp
    data: object = batches
    raises: str = ""
    optimizer: object = torch.optim.Adam
    only: list[str] = field(default_factory=list)
    watched: bool = True

    def world(self):
        torch.manual_seed(0)
        model = self.make().to(DOUBLE)
        loss_fn = self.loss_fn() if self.loss_fn is noisy else self.loss_fn
        return Objective(model, loss_fn, self.data()), self.optimizer(model.parameters())


NOT_FINITE = r"the loss is (nan|inf) at|nan or inf|is not finite"
NO_GRADIENT = r"no gradient|got no differentiable output"
NANS = ["SharpnessTracker", "StabilityGauge"]  # a diverged run is read as nan
LOSS_ONLY = ["Objective.point", "Objective.__call__", "Objective.loss", "Objective.on"]
FORWARD_ONLY = ["ForwardHessian"]  # the derivative of a constant is zero
BACKWARD = ["block"]  # of the last parameter, which the trouble lies before
UNSEEN = ["preconditioner", "gradient_noise_scale", "critical_lr of a name", "critical_sharpness", "scale_invariance"]
"""Made of one gradient, or of forward passes only: that these are other ones each time they do not see."""
ANY_OPTIMIZER = ["preconditioned_sharpness", "preconditioner", "SharpnessTracker", "critical_lr", "Watch"]

INPUTS = {
    "nan loss": Input(NOT_FINITE, [*BARE, *STEPPING, *NANS, "NTK", "measure_regime"], times(torch.nan)),
    "inf loss": Input(NOT_FINITE, [*BARE, *STEPPING, *NANS, "NTK", "measure_regime"], times(torch.inf)),
    "inf gradient": Input(
        NOT_FINITE, [*BARE, *STEPPING, *NANS, "NTK", "measure_regime", "scale_invariance"], rooted
    ),
    "zero gradient": Input(
        "gradient is zero at theta|the sharpness 0", [n for n in CALLS if n not in ("directional", "critical_constants")], times(0.0)
    ),
    "not a scalar": Input(r"shape \(\), got \(4, 3\); reduce it", [], lambda m, b: m(b[0]), watched=False),
    "one number in a vector": Input(r"shape \(\), got \(1,\)", [], lambda m, b: m(b[0]).mean()[None], watched=False),
    "a float": Input(r"shape \(\), got float", [], lambda m, b: m(b[0]).mean().item(), watched=False),
    "nothing": Input(r"shape \(\), got NoneType", [], lambda m, b: None, watched=False),
    "integers": Input("real numbers, got torch.int64", [], lambda m, b: (m(b[0]).argmax(-1) != b[1]).sum(), watched=False),
    "complex": Input("real numbers, got torch.complex128", [], times(1 + 1j), watched=False),
    "detached": Input(
        NO_GRADIENT, [*LOSS_ONLY, *FORWARD_ONLY, "NTK"], lambda m, b: m(b[0]).mean().detach(), raises="backward"
    ),
    "without graph": Input(NO_GRADIENT, [*LOSS_ONLY, *FORWARD_ONLY], silent, raises="backward"),
    "independent of the model": Input(
        NO_GRADIENT, [*LOSS_ONLY, *FORWARD_ONLY], lambda m, b: b[0].mean(), raises="backward"
    ),
    "of another leaf": Input(
        NO_GRADIENT + "|requires_grad_", LOSS_ONLY, lambda m, b: b[0].mean().requires_grad_(), raises="backward"
    ),
    "calls backward itself": Input("backward through the graph a second time", [], greedy, raises="forward backward"),
    "overwritten in place": Input("inplace operation", [*LOSS_ONLY, *BACKWARD], make=InPlace, raises="backward"),
    "sparse gradients": Input(
        "sparse", [*LOSS_ONLY, *BACKWARD], make=Sparse, data=lambda: batches(kind="tokens"), raises="backward"
    ),
    "another dtype": Input(
        "the loss cannot be computed: .*must have the same dtype.*must fit the model|same dtype", ["scale_invariance"],
        data=lambda: batches(torch.float32), raises="forward backward",
    ),
    "another device": Input(
        "device meta", data=lambda: [(x.to("meta"), y) for x, y in batches()], raises="forward backward"
    ),
    "another shape": Input(
        "shapes cannot be multiplied", data=lambda: [(x[:, :2], y) for x, y in batches()], raises="forward backward"
    ),
    "a generator of its own": Input(
        "not a function.*generator of its own", [*BARE, *UNSEEN, "NTK", "EmpiricalFisher of batches", "measure_regime"],
        noisy,
    ),
    "optimizer of another model": Input(
        "does not hold the trainable parameter 'hidden.0.weight'", optimizer=lambda _: torch.optim.Adam(cases.mlp().parameters()),
        only=[*ANY_OPTIMIZER, "critical_sharpness", "measure_regime", "scale_invariance", "StabilityGauge"],
    ),
    "optimizer of a part": Input(
        "does not hold the trainable parameter", optimizer=lambda ps: torch.optim.Adam(list(ps)[:2]),
        only=[*ANY_OPTIMIZER, "critical_sharpness", "measure_regime", "scale_invariance", "StabilityGauge"],
    ),
    "optimizer with a closure": Input(
        "LBFGS", optimizer=torch.optim.LBFGS, only=[*ANY_OPTIMIZER[:-1], "critical_sharpness", "measure_regime"]
    ),
    "optimizer that climbs": Input(
        "maximize=True climbs|uphill", ["critical_sharpness"], optimizer=lambda ps: torch.optim.Adam(ps, maximize=True),
        only=[*ANY_OPTIMIZER[:-1], "critical_sharpness"],
    ),
}  # fmt: skip


def ending(call, objective, optimizer):
    """The exception that a call ended with, or nothing."""
    try:
        call(objective, optimizer)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("name", INPUTS)
def test_bad_input_is_refused_in_words_or_answered_by_name(name):
    bad = INPUTS[name]
    for label in bad.only or CALLS:
        ended = ending(CALLS[label], *bad.world())
        told = (label, ended)
        if label in [*bad.answers, "Objective.point"] or (label in WATCHING and bad.watched and not bad.only):
            assert ended is None, told
        elif (
            bad.raises
            and label in [*BARE, "Sum", *TRAINING]
            and isinstance(ended, (RuntimeError, NotImplementedError))
        ):
            continue  # the user's own
        else:
            assert isinstance(ended, (LrscopeError, ValueError, TypeError)), told
            assert re.search(bad.words, str(ended)), told
            assert "\n" not in str(ended), told


def test_no_gradient_at_one_theta_says_nothing_of_another():
    """The choice of a product is remembered for the model; not where the loss is not finite."""
    model, gain = cases.mlp().to(DOUBLE), [torch.nan]
    objective = Objective(model, lambda m, b: gain[0] * cases.cross_entropy(m, b), batches())
    for _ in range(2):
        with pytest.raises(MeasurementError, match="the loss is nan"):
            C.choose(objective, objective.point())
    gain[0] = 1.0
    assert C.choose(objective, objective.point()).error < 1e-6
    assert sharpness(objective).converged


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_tracker_reads_nan_where_the_loss_is_and_goes_on_after_it(kind):
    model, gain = cases.mlp().to(DOUBLE), [1.0]
    objective = Objective(model, lambda m, b: gain[0] * cases.cross_entropy(m, b), batches())
    optimizer = kind(model.parameters())
    tracker = SharpnessTracker(objective, optimizer)
    for gain[0] in (torch.nan, torch.inf, 1.0, torch.nan, 1.0):
        reading = tracker.update()
        if gain[0] == 1.0:
            assert reading.value == pytest.approx(C.preconditioned_sharpness(objective, optimizer).value, rel=0.02)
        else:
            assert (reading.value, reading.converged) == (pytest.approx(torch.nan, nan_ok=True), False)


class Root(nn.Module):
    """|w|^1.5: at 0 there is a gradient, and no second derivative."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, dtype=DOUBLE))

    def forward(self, x):
        return (self.w.abs() ** 1.5).sum() + (x.sum(0) * self.w).sum()


@pytest.mark.parametrize("method", ["exact", "auto"])
def test_a_second_derivative_that_is_not_finite_is_not_called_exact(method):
    objective = Objective(Root(), lambda m, x: m(x), [torch.ones(4, 3, dtype=DOUBLE)])
    if method == "exact":
        with pytest.raises(MeasurementError, match=r"nan or inf entries.*method='difference'"):
            C.choose(objective, objective.point(), method=method)
    else:
        assert C.choose(objective, objective.point()).method == "difference"


def test_a_step_aside_that_leaves_the_domain_is_no_difference():
    model = nn.Linear(1, 1, bias=False).to(DOUBLE)
    with torch.no_grad():
        model.weight.fill_(1e-9)
    objective = Objective(model, lambda m, x: m(x).sqrt().mean().neg(), [torch.ones(4, 1, dtype=DOUBLE)])
    assert C.choose(objective, objective.point()).method == "exact"
    assert sharpness(objective).value == pytest.approx(0.25 * 1e-9**-1.5)
    with pytest.raises(MeasurementError, match=r"small step away from theta are nan.*method='exact'"):
        C.choose(objective, objective.point(), method="difference")


# Arguments: what is no vector of theta's kind.


def objective_of(dtype=DOUBLE):
    torch.manual_seed(0)
    return Objective(cases.mlp().to(dtype), cases.cross_entropy, batches(dtype))


VECTORS = {
    "a list": (lambda P: [0.0] * P, TypeError, "expected a tensor of shape .*, got list"),
    "an array": (lambda P: torch.zeros(P).numpy(), TypeError, "expected a tensor of shape .*, got ndarray"),
    "too short": (lambda P: torch.ones(P - 1, dtype=DOUBLE), ValueError, r"expected shape \(155,\).*, got \(154,\)"),
    "a scalar": (lambda P: torch.ones((), dtype=DOUBLE), ValueError, r"expected shape \(155,\).*, got \(\)"),
    "a row": (lambda P: torch.ones(1, P, dtype=DOUBLE), ValueError, r"expected shape \(155,\).*, got \(1, 155\)"),
    "integers": (lambda P: torch.ones(P, dtype=torch.long), ValueError, "floating-point numbers, got torch.int64"),
    "complex": (lambda P: torch.ones(P, dtype=torch.complex64), ValueError, "floating-point numbers, got torch.complex64"),
}  # fmt: skip
ARGUMENTS = {
    "sharpness theta": lambda o, x: sharpness(o, x),
    "sharpness start": lambda o, x: sharpness(o, start=x),
    "sharpness preconditioner": lambda o, x: sharpness(o, preconditioner=x),
    "trace theta": lambda o, x: C.trace(o, x),
    "spectral_density theta": lambda o, x: C.spectral_density(o, x),
    "layer_sharpness theta": lambda o, x: C.layer_sharpness(o, x),
    "gradient_noise_scale theta": lambda o, x: C.gradient_noise_scale(o, x),
    "directional theta": lambda o, x: C.directional(o, "gradient", x),
    "directional direction": lambda o, x: C.directional(o, x),
    "preconditioned_sharpness theta": lambda o, x: C.preconditioned_sharpness(
        o, torch.optim.Adam(o.model.parameters()), x
    ),
    "preconditioner gradient": lambda o, x: C.preconditioner(torch.optim.Adam(o.model.parameters()), o, x),
    "block theta": lambda o, x: C.block(o, "head", theta=x),
    "GaussNewton theta": lambda o, x: C.GaussNewton(o, x),
    "GaussNewton v": lambda o, x: C.GaussNewton(o) @ x,
    "ExactHessian v": lambda o, x: C.ExactHessian(o, o.point()) @ x,
    "DifferenceHessian v": lambda o, x: C.DifferenceHessian(o, o.point()) @ x,
    "DifferenceHessian gradient": lambda o, x: C.DifferenceHessian(o, o.point(), gradient=x),
    "Scaled v": lambda o, x: (2 * C.GaussNewton(o)) @ x,
    "Preconditioned preconditioner": lambda o, x: C.Preconditioned(C.GaussNewton(o), x),
    "Objective.grad theta": lambda o, x: o.grad(x),
    "Objective.hvp v": lambda o, x: o.hvp(o.point(), x),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_what_is_no_vector_is_refused_before_any_work(argument):
    objective, name = objective_of(), argument.split()[1]
    for kind, (make, error, words) in VECTORS.items():
        own = argument.startswith("Objective.")  # one class of errors for both
        with pytest.raises((TypeError, ValueError) if own else error, match=name) as raised:
            ARGUMENTS[argument](objective, make(objective.size))
        assert own or re.search(words, str(raised.value)), (kind, raised.value)
        assert "\n" not in str(raised.value)
    assert objective.spent.gradients == objective.spent.products == 0


def test_a_theta_of_another_dtype_is_named():
    objective = objective_of()
    with pytest.raises(
        MeasurementError, match=r"theta is torch\.float32 on cpu, the model torch\.float64 on cpu: convert"
    ):
        sharpness(objective, objective.point().float())


def test_vectors_of_another_dtype_are_converted():
    """Products are linear, so that costs the rounding of the vector and nothing else."""
    objective = objective_of()
    v = direction(objective).float()
    for A in (C.ExactHessian(objective, objective.point()), C.GaussNewton(objective)):
        torch.testing.assert_close(A @ v, A @ v.double(), rtol=1e-12, atol=1e-14)
    assert C.directional(objective, v).value == pytest.approx(C.directional(objective, v.double()).value, rel=1e-12)


@pytest.mark.parametrize("number", [3, 5, 9])
def test_batches_without_noise_have_no_negative_noise(number):
    for seed in range(10):
        torch.manual_seed(seed)
        objective = Objective(cases.mlp(), cases.cross_entropy, batches(torch.float32)[:1] * number)
        assert 0 <= C.gradient_noise_scale(objective).value < 1e-5


# Models: refused where the objective is made, before any work.


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(cases.FEATURES, cases.CLASSES, dtype=torch.complex64))


class LazyInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(cases.FEATURES, 4), nn.LazyBatchNorm1d())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nn.ReLU, "no parameter that requires a gradient.*unfreeze"),
        (lambda: cases.mlp().requires_grad_(False), "no parameter that requires a gradient.*unfreeze"),
        (Complex, "complex64.*real vector"),
        (lambda: nn.LazyLinear(3), "'weight' is not known before the first forward pass"),
        (LazyInside, "'body.1.*' is not known before the first forward pass"),
        (
            lambda: nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3).half()),
            "must share one dtype.*float16 on cpu.*float32",
        ),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3, device="meta")), "must share one dtype and device"),
    ],
)
def test_models_without_a_vector_of_parameters(make, words):
    with pytest.raises(TaskError, match=words) as raised:
        Objective(make(), cases.cross_entropy, batches(torch.float32))
    assert "\n" not in str(raised.value)


def test_data_parallel_is_the_model_inside():
    plain = objective_of()
    wrapped = Objective(nn.DataParallel(plain.model), plain.loss_fn, plain.batches)
    assert sharpness(wrapped, tol=1e-6).value == sharpness(plain, tol=1e-6).value
    adam = torch.optim.Adam(plain.model.parameters())
    assert SharpnessTracker(wrapped, adam).update().value == pytest.approx(
        SharpnessTracker(plain, adam).update().value
    )


@pytest.mark.parametrize("empty", [[], (), iter([]), torch.utils.data.DataLoader([])])
def test_no_data(empty):
    with pytest.raises(TaskError, match="batches: empty"):
        Objective(cases.mlp(), cases.cross_entropy, empty)
