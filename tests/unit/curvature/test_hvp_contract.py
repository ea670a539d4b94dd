"""What every kind of Hessian product promises besides the number: no trace, and refusals that help."""

import itertools

import pytest
import torch
from torch import nn

import cases
import fingerprints
from hvp_cases import Checkpointed, compiled
from lrscope import Objective, sharpness
from lrscope.curvature import (
    DifferenceHessian,
    EmpiricalFisher,
    ExactHessian,
    ForwardHessian,
    GaussNewton,
    block,
    choose,
)
from lrscope.errors import MeasurementError, TaskError

METHODS = [ExactHessian, ForwardHessian, DifferenceHessian]


def batches(dtype=torch.float32, number=2):
    x, y = (t[:12] for t in cases.data(dtype))
    return list(zip(x.chunk(number), y.chunk(number), strict=True))


def problem(model=None, loss_fn=cases.cross_entropy, dtype=torch.float64):
    torch.manual_seed(0)
    model = cases.mlp() if model is None else model
    return Objective(model.to(dtype), loss_fn, batches(dtype))


def direction(objective):
    return torch.randn(objective.size, generator=torch.Generator().manual_seed(2)).to(objective.point())


def trained(model):
    """A model in the middle of training: moments, gradients, frozen and evaluated parts."""
    optimizer = torch.optim.Adam(model.parameters())
    for batch in batches(next(model.parameters()).dtype):
        cases.cross_entropy(model, batch).backward()
    optimizer.step()
    next(m for m in model.modules() if isinstance(m, nn.Linear)).eval()
    return optimizer


class Interrupted(BaseException):
    """Like Ctrl-C, no Exception."""


def interrupting(at):
    """A loss that draws random numbers and raises in its ``at``-th call."""
    calls = itertools.count(1)

    def loss_fn(model, batch):
        noise = torch.rand(())
        if next(calls) == at:
            raise Interrupted
        return cases.cross_entropy(model, batch) * (1 + 0 * noise)

    return loss_fn


WRAPPED = {
    "plain": cases.mlp,
    "batch_norm": lambda: cases.with_layer(lambda: nn.BatchNorm1d(8)),
    "dropout": lambda: cases.with_layer(lambda: nn.Dropout(0.5)),
    "checkpointing": lambda: Checkpointed(False),
    "reentrant": lambda: Checkpointed(True),
    "compiled": lambda: compiled(cases.mlp()),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("method", METHODS)
def test_no_trace_whether_it_ends_well_or_not(method, wrapping):
    torch.manual_seed(0)
    model = WRAPPED[wrapping]().double()
    optimizer = trained(model)
    before = fingerprints.everything(model, optimizer)
    for at in (None, 1, 2, 3):
        objective = Objective(model, interrupting(at), batches(torch.float64))
        theta = objective.point() + 0.1
        V = torch.stack([direction(objective)] * 2, dim=1)
        try:
            H = method(objective, theta)
            _ = H @ V[:, 0], H @ V
        except (Interrupted, RuntimeError):
            pass
        else:
            assert at is None or at == 3  # two batches are two calls; a kept graph needs no third
        assert fingerprints.everything(model, optimizer) == before


def test_hooks_on_the_parameters_are_not_set_off():
    objective = problem()
    seen = []
    for p in objective.model.parameters():
        p.register_hook(lambda g: seen.append("gradient"))
        p.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    for method in METHODS:
        method(objective, objective.point()) @ direction(objective)
    assert seen == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_it_does_not_matter_where_gradients_are_switched_off(method, around):
    objective = problem()
    v = direction(objective)
    truth = method(objective, objective.point()) @ v
    with around():
        assert torch.equal(method(objective, objective.point()) @ v, truth)
        assert sharpness(objective).value > 0


def test_theta_may_change_after_its_operator_was_made_ready():
    objective = problem()
    theta, v = objective.point(), direction(objective)
    H = ExactHessian(objective, theta)
    first = H @ v
    theta.add_(1)
    assert torch.equal(H @ v, first)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_is_right_away_from_where_the_model_stands(reentrant):
    torch.manual_seed(0)
    model = Checkpointed(reentrant).double()
    objective = Objective(model, cases.cross_entropy, batches(torch.float64))
    theta = objective.point() + 0.3
    gradient, product = objective.grad(theta), DifferenceHessian(objective, theta) @ direction(objective)
    model.reentrant = None
    torch.testing.assert_close(gradient, objective.grad(theta), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(product, objective.hvp(theta, direction(objective)), rtol=1e-5, atol=1e-8)


def test_gauss_newton_is_right_under_checkpointing_too():
    torch.manual_seed(0)
    model = Checkpointed(False).double()
    objective = Objective(model, cases.cross_entropy, batches(torch.float64))
    theta, v = objective.point() + 0.3, direction(objective)
    product = GaussNewton(objective, theta) @ v
    model.reentrant = None
    torch.testing.assert_close(product, GaussNewton(objective, theta) @ v, rtol=1e-12, atol=1e-14)


def test_the_empirical_fisher_takes_single_examples_under_checkpointing_too():
    torch.manual_seed(0)
    model = Checkpointed(False).double()
    objective = Objective(model, cases.cross_entropy, batches(torch.float64))
    theta, v = objective.point() + 0.3, direction(objective)
    product = EmpiricalFisher(objective, theta) @ v
    model.reentrant = None
    torch.testing.assert_close(product, EmpiricalFisher(objective, theta) @ v, rtol=1e-12, atol=1e-14)


# One probe for one loss and model.


def test_the_probe_is_shared_by_all_batches_of_one_loss():
    objective = problem(dtype=torch.float32)
    choose(objective, objective.point())
    spent = objective.spent
    other = objective.on(batches(number=4))
    choose(objective, objective.point(), purpose="track")
    choose(other, other.point())
    choose(next(objective.each()), objective.point())
    assert objective.spent == spent
    assert other.spent.products == 0
    alike = Objective(objective.model, objective.loss_fn, objective.batches)
    choose(alike, alike.point())  # what looks alike may have another loss inside
    assert alike.spent.products > 0


def test_a_choice_says_why_in_one_line():
    objective = problem()
    for purpose in ("solve", "track"):
        assert str(choose(objective, objective.point(), purpose=purpose)).count("\n") == 0
    assert str(choose(objective, objective.point())).startswith("exact: cheapest for many products at one point;")


def test_forward_over_reverse_steps_in_where_a_difference_is_too_coarse():
    class Once(torch.autograd.Function):
        """tanh whose double backward is missing, but which knows forward mode."""

        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return torch.tanh(x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(output)
            ctx.save_for_forward(output)

        @staticmethod
        def backward(ctx, grad):
            (y,) = ctx.saved_tensors
            return Slope.apply(y, grad)

        @staticmethod
        def jvp(ctx, tangent):
            (y,) = ctx.saved_tensors
            return (1 - y * y) * tangent

    class Slope(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(y, grad):
            return (1 - y * y) * grad

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            raise NotImplementedError("Slope has no backward")

        @staticmethod
        def jvp(ctx, y_tangent, grad_tangent):
            y, grad = ctx.saved_tensors
            return (1 - y * y) * grad_tangent - 2 * y * grad * y_tangent

    class Own(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.a, self.b, self.act = nn.Linear(cases.FEATURES, 8), nn.Linear(8, cases.CLASSES), act

        def forward(self, x):
            return self.b(self.act(self.a(x)))

    objective, plain = problem(Own(Once.apply), dtype=torch.float32), problem(Own(torch.tanh), dtype=torch.float32)
    choice = choose(objective, objective.point(), tol=1e-7)
    assert choice.method == "forward"
    assert "Slope has no backward" in choice.why
    v = direction(objective)
    torch.testing.assert_close(choice.at(objective, plain.point()) @ v, plain.hvp(plain.point(), v))
    assert choose(objective, objective.point()).method == "difference"  # two digits are wanted, it has four


# Bad input: a refusal that names what and what to do, or a choice that is named.


class Hidden(torch.autograd.Function):
    """x^3 whose backward pass hides x from autograd, so that its second derivative is there and zero."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.x**2 * grad


class Overwriting(torch.autograd.Function):
    """exp whose backward pass overwrites what its own derivative would need."""

    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        copy = y * 1
        product = grad * copy
        copy.zero_()
        return product


class Through(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(cases.FEATURES, cases.CLASSES), function

    def forward(self, x):
        return self.function(0.5 * self.linear(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_second_derivative_that_is_wrong_without_an_error_is_found_out(dtype):
    objective = problem(Through(Hidden.apply), dtype=dtype)
    plain = problem(Through(lambda x: x**3), dtype=dtype)
    found = sharpness(objective, tol=1e-3)
    assert found.method == "difference"
    assert "Hidden is a custom autograd function with a wrong second derivative" in found.note
    assert found.value == pytest.approx(sharpness(plain, tol=1e-5).value, rel=1e-2)
    with pytest.raises(MeasurementError, match=r"Hidden.*contradict.*method='difference'"):
        sharpness(objective, method="exact")


def test_a_backward_pass_that_works_in_place_is_measured_by_differences():
    objective = problem(Through(Overwriting.apply))
    found = sharpness(objective, tol=1e-4)
    assert found.method == "difference"
    assert found.value == pytest.approx(sharpness(problem(Through(torch.exp)), tol=1e-6).value, rel=1e-3)
    with pytest.raises(MeasurementError, match=r"inplace operation.*method='difference'"):
        choose(objective, objective.point(), method="exact")


def test_a_loss_that_is_another_one_each_time_is_refused():
    own = torch.Generator().manual_seed(0)

    def noisy(model, batch):
        x, y = batch
        keep = (torch.rand(x.shape, generator=own) > 0.5).to(x)
        return cases.cross_entropy(model, (x * keep, y))

    objective = problem(loss_fn=noisy)
    with pytest.raises(MeasurementError, match="not a function"):
        sharpness(objective)


def test_an_interrupt_that_torchscript_wraps_is_an_interrupt():
    def loss_fn(model, batch):
        raise RuntimeError("The following operation failed in the TorchScript interpreter.\nKeyboardInterrupt: ")

    objective = problem(loss_fn=loss_fn)
    H = ForwardHessian(objective, objective.point())
    for v in (direction(objective), direction(objective)[:, None].repeat(1, 2)):
        with pytest.raises(KeyboardInterrupt):
            H @ v


@pytest.mark.parametrize("method", METHODS)
def test_dropout_by_layer_is_off_and_by_function_repeats(method):
    def functional(model, batch):
        return cases.cross_entropy(lambda x: model(nn.functional.dropout(x, 0.5, training=True)), batch)

    for objective in (problem(cases.with_layer(lambda: nn.Dropout(0.5))), problem(loss_fn=functional)):
        theta, v = objective.point(), direction(objective)
        product = method(objective, theta) @ v
        torch.testing.assert_close(product, objective.hvp(theta, v), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_means_no_curvature_and_no_error(method):
    objective = problem(loss_fn=lambda model, batch: 0 * model(batch[0]).pow(2).sum())
    assert not (method(objective, objective.point()) @ direction(objective)).any()
    assert sharpness(objective).value == 0


def test_integer_parameters_stand_still():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.index = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
            self.body = cases.mlp()

        def forward(self, x):
            return self.body(x)[:, self.index]

    objective = problem(Table())
    v = direction(objective)
    for method in METHODS:
        product = method(objective, objective.point()) @ v
        torch.testing.assert_close(product, objective.hvp(objective.point(), v), rtol=1e-5, atol=1e-7)


def test_complex_parameters_are_refused():
    class Wave(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(cases.FEATURES, cases.CLASSES, dtype=torch.complex64))

    with pytest.raises(TaskError, match=r"complex64.*real"):
        Objective(Wave(), cases.cross_entropy, batches())


@pytest.mark.parametrize(
    ("loss_fn", "data", "error", "words"),
    [
        (lambda m, b: cases.cross_entropy(m, b) * float("nan"), None, MeasurementError, "the loss is nan"),
        (lambda m, b: m(b[0]), None, TaskError, r"shape \(\), got \(6, 3\); reduce it"),
        (cases.cross_entropy, [], TaskError, "empty"),
        (lambda m, b: b[0].mean(), None, MeasurementError, "no gradient"),
    ],
)
def test_refusals(loss_fn, data, error, words):
    with pytest.raises(error, match=words):
        sharpness(Objective(cases.mlp(), loss_fn, batches() if data is None else data))


def test_nothing_to_train_is_refused():
    with pytest.raises(TaskError, match="unfreeze"):
        Objective(cases.mlp().requires_grad_(False), cases.cross_entropy, batches())


def test_wrong_arguments_of_a_difference_are_named():
    objective = problem()
    with pytest.raises(ValueError, match="gradient: expected shape"):
        DifferenceHessian(objective, objective.point(), gradient=torch.zeros(2))
    with pytest.raises(ValueError, match="widen: expected"):
        DifferenceHessian(objective, objective.point(), widen=0.0)
    with pytest.raises(ValueError, match="method: expected 'auto', 'exact', 'forward' or 'difference'"):
        choose(objective, objective.point(), method="finite")


# Costs.


def test_a_difference_costs_two_gradients_and_one_to_one_side():
    objective = problem()
    theta, v, count = objective.point(), direction(objective), []
    gradient = objective.grad(theta)
    grad = objective.grad
    objective.grad = lambda theta: count.append(1) or grad(theta)
    for options, cost in (({}, 2), ({"gradient": gradient}, 1)):
        count.clear()
        DifferenceHessian(objective, theta, **options) @ v
        assert len(count) == cost
    choice = choose(objective, theta, method="difference")
    assert choice.at(objective, theta, gradient=gradient).gradient is not None


def test_columns_are_counted_as_products():
    objective = problem()
    for method in METHODS:
        H, before = method(objective, objective.point()), objective.spent
        H @ torch.stack([direction(objective)] * 3, dim=1)
        assert H.num_matvecs == 3
        assert objective.spent.products - before.products == 3
        assert (H @ torch.zeros(objective.size, 0, dtype=H.dtype)).shape == (objective.size, 0)


def test_a_block_has_the_products_of_its_own_columns_only():
    whole = problem()
    head = block(whole, "head")
    H = ExactHessian(whole, whole.point()) @ torch.eye(whole.size, dtype=torch.float64)
    for method in METHODS:
        own = method(head, head.point()) @ torch.eye(head.size, dtype=torch.float64)
        torch.testing.assert_close(own, H[-head.size :, -head.size :], rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")
def test_autocast_gets_a_wider_step():
    def loss_fn(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return cases.cross_entropy(model, batch)

    objective, plain = problem(loss_fn=loss_fn, dtype=torch.float32), problem()
    choice = choose(objective, objective.point(), method="difference")
    assert choice.widen > 1
    v = objective.hvp(objective.point(), direction(objective))
    truth = plain.hvp(objective.point().double(), v.double())
    off = {
        w: float((DifferenceHessian(objective, objective.point(), widen=w) @ v - truth).norm())
        for w in (1.0, choice.widen)
    }
    assert off[choice.widen] < off[1.0] / 2
