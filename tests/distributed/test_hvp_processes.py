"""Products of a model on two processes equal those of one process with all batches, on each of them."""

import copy

import pytest
import torch

import cases
import fingerprints
from lrscope import Objective, SharpnessTracker, sharpness
from lrscope.curvature import DifferenceHessian, ExactHessian, ForwardHessian, GaussNewton, block, choose
from lrscope.errors import TaskError
from processes import in_two_processes

METHODS = {"exact": ExactHessian, "forward": ForwardHessian, "difference": DifferenceHessian}
WRAPPINGS = ("DDP", "compiled DDP", "FSDP2", "FSDP2, gathered after forward", "FSDP2, mixed precision")
KINDS = ("mlp", "gpt", "checkpointed")


def build(kind):
    from hvp_cases import Checkpointed

    torch.manual_seed(0)
    return {"mlp": cases.mlp, "gpt": lambda: cases.gpt(tied=False), "checkpointed": lambda: Checkpointed(False)}[
        kind
    ]()


def wrapped(model, wrapping):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if wrapping.endswith("DDP"):
        ddp = torch.nn.parallel.DistributedDataParallel(model)
        return torch.compile(ddp, backend="aot_eager") if "compiled" in wrapping else ddp
    options = {"reshard_after_forward": "gathered" not in wrapping}
    if "mixed" in wrapping:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for child in model.children():
        if not isinstance(child, torch.nn.ModuleList) and any(True for _ in child.parameters()):
            fully_shard(child, **options)
    return fully_shard(model, **options)


def batches_of(kind, rank=None):
    """Unequal shares: 12 examples in two batches for rank 0, 5 in two for rank 1; all of them without a rank."""
    tensors = [t[:17] for t in cases.data(torch.float32, "tokens" if kind == "gpt" else "features")]
    parts = list(zip(*(t.split([8, 4, 3, 2]) for t in tensors), strict=True))
    return parts if rank is None else parts[2 * rank : 2 * rank + 2]


def loss_fn(model, batch):
    return cases.cross_entropy(model, batch).float()


def states(model, optimizer):
    """Hash of all that this process holds of a model."""
    local = lambda t: t.to_local() if hasattr(t, "to_local") else t  # noqa: E731
    params = {n: local(p.detach()) for n, p in model.named_parameters()}
    grads = {n: None if p.grad is None else local(p.grad) for n, p in model.named_parameters()}
    moments = [local(t) for state in optimizer.state.values() for t in state.values()]
    modes = [m.training for m in model.modules()]
    return fingerprints.digest([params, grads, moments, modes]) + fingerprints.random_states()


def measure(rank, kind, wrapping):
    """Relative errors against the single-process objective, and whether everything was left as it was."""
    plain = build(kind)
    single = Objective(copy.deepcopy(plain), loss_fn, batches_of(kind))
    model = wrapped(plain, wrapping)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in batches_of(kind, rank):  # an ordinary step, gradients left behind
        loss_fn(model, batch).backward()
    optimizer.step()
    ours = Objective(model, loss_fn, batches_of(kind, rank))
    before = states(model, optimizer)
    start = ours.point()
    generator = torch.Generator().manual_seed(5)
    theta = start + 0.1 * torch.randn(start.shape, generator=generator)
    v = single.hvp(theta, torch.randn(theta.shape, generator=generator))
    v /= v.norm()
    truth = ExactHessian(single, theta) @ v
    found = {"products": {}, "bits": {}}
    for name, method in METHODS.items():
        try:
            product = method(ours, theta) @ v
        except (RuntimeError, NotImplementedError) as error:
            found["products"][name] = str(error)
            continue
        found["products"][name] = float((product - truth).norm() / truth.norm())
        found["bits"][name] = fingerprints.digest(product)
    loss, grad = ours.loss_and_grad(theta)
    reference, gradient = single.loss_and_grad(theta)
    found["loss"] = [loss, ours.loss(theta), reference]
    found["grad"] = float((grad - gradient).norm() / gradient.norm())
    found["sharpness"] = [sharpness(o, theta, tol=1e-4, method="exact").value for o in (ours, single)]
    if "DDP" in wrapping and kind != "checkpointed":
        curved = [GaussNewton(o, theta) @ v for o in (ours, single)]
        found["gauss_newton"] = float((curved[0] - curved[1]).norm() / curved[1].norm())
    found["trace"] = before == states(model, optimizer)
    # Training goes on as if nothing had been measured.
    optimizer.zero_grad()
    for batch in batches_of(kind, rank):
        loss_fn(model, batch).backward()
    optimizer.step()
    found["after"] = fingerprints.digest(ours.point())
    return found


def every_way(rank):
    result = {}
    for kind in KINDS:
        for wrapping in WRAPPINGS:
            if not (wrapping == "compiled DDP" and kind == "checkpointed"):
                result[f"{kind}/{wrapping}"] = measure(rank, kind, wrapping)
    return result


def trace_of_training(rank):
    """The same run twice, once measured at each step: the weights must be the same to the bit."""
    ends, readings = [], []
    for measured in (False, True):
        model = wrapped(build("mlp"), "FSDP2")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        objective = Objective(model, loss_fn, batches_of("mlp", rank))
        tracker = SharpnessTracker(objective, optimizer)
        for _ in range(4):
            if measured:
                readings.append(tracker.update().value)
            for batch in batches_of("mlp", rank):
                loss_fn(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(fingerprints.digest(objective.point()))
    return {"ends": ends, "readings": readings}


def cut(model):
    """Its layers cut across the processes, as DTensors; no data parallelism."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {"hidden.0": ColwiseParallel(), "hidden.2": RowwiseParallel()}
    return parallelize_module(model, init_device_mesh("cpu", (2,)), plan)


def tensor_parallel(rank):
    """Both processes see the same batches."""
    model = build("mlp")
    single = Objective(copy.deepcopy(model), loss_fn, batches_of("mlp"))
    model = cut(model)
    ours = Objective(model, loss_fn, batches_of("mlp"))
    optimizer = torch.optim.SGD(model.parameters())
    before = states(model, optimizer)
    theta = single.point() + 0.1
    v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0))
    truth = single.hvp(theta, v)
    product = DifferenceHessian(ours, theta) @ v
    return {
        "point": torch.equal(ours.point(), single.point()),
        "grad": float((ours.grad(theta) - single.grad(theta)).norm() / single.grad(theta).norm()),
        "difference": float((product - truth).norm() / truth.norm()),
        "choice": str(choose(ours, theta)),
        "trace": before == states(model, optimizer),
    }


def refusals(rank):
    words = {}

    def refused(name, do, error=TaskError):
        try:
            do()
        except error as raised:
            words[name] = str(raised)

    model = wrapped(build("mlp"), "FSDP2")
    refused("batches", lambda: Objective(model, loss_fn, batches_of("mlp")[: rank + 1]))
    objective = Objective(model, loss_fn, batches_of("mlp", rank))
    theta = objective.point()
    refused("autograd", lambda: objective(theta.requires_grad_()))
    optimizer = torch.optim.SGD(model.parameters())
    before = states(model, optimizer)
    calls = []

    def breaks(model, batch):
        calls.append(1)
        loss = loss_fn(model, batch)
        if len(calls) == 2:
            raise KeyError("in the second batch")
        return loss

    broken = Objective(model, breaks, batches_of("mlp", rank))
    refused("error", lambda: broken.grad(theta.detach() + 1), KeyError)
    words["restored"] = before == states(model, optimizer)
    choice = choose(objective, theta.detach(), purpose="track")
    words["choice"] = str(choice)
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: None)
    refused("hook", lambda: Objective(model, loss_fn, batches_of("mlp", rank)).grad(theta))
    head = block(Objective(wrapped(build("mlp"), "DDP"), loss_fn, batches_of("mlp", rank)), "head")
    alone = block(Objective(build("mlp"), loss_fn, batches_of("mlp")), "head")
    words["head"] = [sharpness(o, tol=1e-4).value for o in (head, alone)]
    sharded = block(Objective(wrapped(build("mlp"), "FSDP2"), loss_fn, batches_of("mlp", rank)), "head")
    words["head sharded"] = [sharpness(o, tol=1e-4, method="exact").value for o in (sharded, alone)]
    return words


def all_of_it(rank):
    return {
        "ways": every_way(rank),
        "training": trace_of_training(rank),
        "tensor": tensor_parallel(rank),
        "refusals": refusals(rank),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return in_two_processes(all_of_it, tmp_path_factory.mktemp("ranks"))


EVERY = [f"{k}/{w}" for k in KINDS for w in WRAPPINGS if (k, w) != ("checkpointed", "compiled DDP")]


@pytest.mark.parametrize("way", EVERY)
def test_loss_gradient_and_products_are_those_of_one_process(two, way):
    coarse = "mixed" in way
    for rank in two:
        found = rank["ways"][way]
        assert found["products"]["exact"] < 1e-5
        if "checkpointed" in way:
            assert "saved tensor hooks" in found["products"]["forward"]
        else:
            assert found["products"]["forward"] < 1e-5
        if not coarse:  # else the step would have to be wider than float32's
            assert found["products"]["difference"] < 5e-3
        assert found["grad"] < (0.05 if coarse else 1e-5)
        loss, value, reference = found["loss"]
        assert loss == pytest.approx(reference, rel=0.02 if coarse else 1e-5)
        assert value == pytest.approx(reference, rel=0.02 if coarse else 1e-5)
        assert found.get("gauss_newton", 0) < 1e-5
        assert found["sharpness"][0] == pytest.approx(found["sharpness"][1], rel=1e-4)


@pytest.mark.parametrize("way", EVERY)
def test_every_process_gets_the_same_bits_and_keeps_its_state(two, way):
    first, second = (rank["ways"][way] for rank in two)
    assert first["bits"] == second["bits"]
    assert first["after"] == second["after"]
    assert first["trace"]
    assert second["trace"]


def test_a_measured_run_ends_where_an_unmeasured_one_does(two):
    first, second = (rank["training"] for rank in two)
    assert first["ends"][0] == first["ends"][1] == second["ends"][1]
    assert first["readings"] == second["readings"]
    assert all(reading > 0 for reading in first["readings"])


def test_tensor_parallel_layers_are_measured_by_differences(two):
    for rank in two:
        found = rank["tensor"]
        assert found["point"]
        assert found["trace"]
        assert found["grad"] < 1e-5
        assert found["difference"] < 5e-3
        assert found["choice"].startswith("difference: no exact product")


def test_refusals_come_on_every_process_and_leave_no_trace(two):
    for rank in two:
        words = rank["refusals"]
        assert "the same number" in words["batches"]
        assert "loss_and_grad(theta)" in words["autograd"]
        assert "second batch" in words["error"]
        assert words["restored"]
        assert "remove the hook" in words["hook"]


def test_the_choice_is_the_same_on_every_process(two):
    first, second = (rank["refusals"]["choice"] for rank in two)
    assert first == second
    assert first.startswith("difference: cheapest for one product per step")


def test_blocks_are_measured_over_all_processes(two):
    for rank in two:
        for key in ("head", "head sharded"):
            ours, alone = rank["refusals"][key]
            assert ours == pytest.approx(alone, rel=1e-3)
