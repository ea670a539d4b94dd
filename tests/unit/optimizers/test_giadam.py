"""GI-Adam and RI-Adam against torch's own Adam, whose second moment is filled by hand."""

import copy
import doctest
import io
import math
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cases
import lrscope as lrs
from lrscope.curvature import preconditioner
from lrscope.errors import LrscopeWarning
from lrscope.optimizers import GIAdam, GIAdamW, OptimizerSpec, RIAdam
from lrscope.reports.snippets import python_snippet
from lrscope.training import Cell, replicas
from lrscope.training.serial import train_one

BETA2 = 0.999
CLASSES = [(GIAdam, torch.optim.Adam), (GIAdamW, torch.optim.AdamW)]


def build(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def backward(model, batch, scale=1.0, scaler=None):
    """The gradient of batch number ``batch``, in ``.grad``."""
    p = next(model.parameters())
    g = torch.Generator().manual_seed(batch)
    x = torch.randn(8, 6, generator=g, dtype=torch.float64).to(p.dtype)
    y = torch.randint(3, (8,), generator=g)
    model.zero_grad()
    loss = F.cross_entropy(model(x), y) * scale
    (loss if scaler is None else scaler.scale(loss)).backward()


def train(model, optimizer, batches):
    for batch in batches:
        backward(model, batch)
        optimizer.step()
    return model


def point(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def same(a, b):
    torch.testing.assert_close(point(a), point(b), rtol=0, atol=0)


def fill(optimizer):
    """Give torch's Adam the state that GI-Adam should start from, by hand, from the gradients in ``.grad``."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            g = p.grad
            if group["weight_decay"] and not group["decoupled_weight_decay"]:
                g = (-g if group["maximize"] else g).add(p.detach(), alpha=group["weight_decay"])
            square = torch.complex(g.real**2, g.imag**2) if g.is_complex() else g**2
            state = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": square.clone()}
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(p)
            optimizer.state[p] = state


class TestTheRule:
    @pytest.mark.parametrize(("ours", "theirs"), CLASSES)
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"foreach": True},
            {"foreach": False},
            {"fused": True},
            {"amsgrad": True},
            {"maximize": True, "weight_decay": 0.1},
            {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3},
            {"lr": torch.tensor(0.02)},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("extra_batch", [False, True])
    def test_it_is_torchs_adam_with_another_second_moment(self, ours, theirs, options, extra_batch):
        options = {"lr": 0.02} | options
        model, reference = build(), build()
        optimizer, by_torch = ours(model.parameters(), **options), theirs(reference.parameters(), **options)
        backward(reference, 0)
        fill(by_torch)
        if extra_batch:
            backward(model, 0)
            optimizer.initialise()
            same(model, build())
        batches = range(1 if extra_batch else 0, 12)
        same(train(model, optimizer, batches), train(reference, by_torch, batches))

    @pytest.mark.parametrize("foreach", [False, True])
    def test_complex_parameters(self, foreach):
        theta, other = (nn.Parameter(torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128)) for _ in range(2))
        optimizer, by_torch = (
            kind([p], lr=0.1, foreach=foreach) for kind, p in ((GIAdam, theta), (torch.optim.Adam, other))
        )
        for step in range(5):
            for p in (theta, other):
                p.grad = p.detach() * (0.3 + 1j * step)
            if step == 0:
                fill(by_torch)
            optimizer.step()
            by_torch.step()
        assert torch.equal(theta, other)

    @pytest.mark.parametrize("weight_decay", [0.0, 0.1])
    def test_the_identity_with_a_warmup_of_the_learning_rate(self, weight_decay):
        """GI-Adam(lr, eps) is Adam with v_0 = g_0^2, no correction of v, at lr * r_t and eps * r_t (kalra2024, #4)."""
        lr, eps, (beta1, beta2) = 0.01, 1e-6, (0.9, BETA2)
        model, reference = build(), build()
        optimizer = GIAdamW(model.parameters(), lr=lr, eps=eps, weight_decay=weight_decay)
        params = list(reference.parameters())
        backward(reference, 0)
        v = [p.grad**2 for p in params]
        m = [torch.zeros_like(p) for p in params]
        for t in range(1, 201):
            backward(model, t - 1)
            optimizer.step()
            backward(reference, t - 1)
            r = math.sqrt(1 - beta2**t)
            for i, p in enumerate(params):
                m[i] = beta1 * m[i] + (1 - beta1) * p.grad
                v[i] = beta2 * v[i] + (1 - beta2) * p.grad**2
                update = m[i] / (1 - beta1**t) / (v[i].sqrt() + eps * r)
                p.data = p.data * (1 - lr * weight_decay) - lr * r * update
        assert float((point(model) - point(reference)).abs().max()) < 1e-12

    def test_the_first_update_moves_every_coordinate_by_the_same_small_step(self):
        model = build()
        optimizer = GIAdam(model.parameters(), lr=0.1, eps=0.0)
        before = point(model)
        backward(model, 0)
        sign = torch.cat([p.grad.sign().reshape(-1) for p in model.parameters()])
        optimizer.step()
        torch.testing.assert_close(point(model) - before, -0.1 * math.sqrt(1 - BETA2) * sign, rtol=1e-10, atol=0)

    def test_with_an_extra_batch_a_coordinate_that_it_missed_makes_adams_full_step(self):
        theta = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = GIAdam([theta], lr=0.1)
        theta.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
        optimizer.initialise()
        theta.grad = torch.tensor([1.0, 1.0], dtype=torch.float64)
        optimizer.step()
        torch.testing.assert_close(theta.detach(), -0.1 * torch.tensor([math.sqrt(1 - BETA2), 1.0]).double())

    def test_a_closure_that_makes_the_gradient_inside_the_step(self):
        model, reference = build(), build()
        optimizer, plain = GIAdam(model.parameters(), lr=0.1), GIAdam(reference.parameters(), lr=0.1)
        for batch in range(4):
            optimizer.step(lambda batch=batch: backward(model, batch))
        same(model, train(reference, plain, range(4)))

    def test_the_first_step_can_be_differentiated(self):
        """``differentiable=True``: the derivative also goes through v_0."""

        def moved(start, grad):
            theta = start.clone()
            theta.grad = grad.clone()
            GIAdam([theta], lr=0.1, eps=1e-2, betas=(0.9, 0.5), differentiable=True, foreach=False).step()
            return theta

        start = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        grad = torch.tensor([0.3, 0.05], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(moved, (start, grad))

    def test_a_compiled_step_is_torchs_compiled_step(self):
        torch._dynamo.reset()
        model, reference = build(), build()
        optimizer, by_torch = GIAdamW(model.parameters(), lr=0.02), torch.optim.AdamW(reference.parameters(), lr=0.02)
        backward(reference, 0)
        fill(by_torch)
        steps = {id(o): torch.compile(o.step, backend="aot_eager") for o in (optimizer, by_torch)}
        for batch in range(6):
            for m, o in ((model, optimizer), (reference, by_torch)):
                backward(m, batch)
                steps[id(o)]()
        torch.testing.assert_close(point(model), point(reference), rtol=1e-10, atol=1e-12)


class TestCurvature:
    @pytest.mark.parametrize("extra_batch", [False, True])
    def test_the_preconditioned_sharpness_drops_by_the_root_of_one_minus_beta2(self, extra_batch):
        """kalra2024, section 8, #3, where eps is small against every gradient."""
        task = cases.TASKS["tuple"](dtype=torch.float64)
        model, batch = task.model(0), next(iter(task.train))
        objective = lrs.Objective(model, task.loss_fn, [batch])
        values = {}
        for kind in (torch.optim.Adam, GIAdam):
            optimizer = kind(model.parameters(), lr=0.01, eps=1e-12)
            if extra_batch and kind is GIAdam:
                task.loss_fn(model, batch).backward()
                optimizer.initialise()
            values[kind] = lrs.sharpness(objective, preconditioner=preconditioner(optimizer, objective), tol=1e-6)
        ratio = values[GIAdam].value / values[torch.optim.Adam].value
        assert ratio == pytest.approx(math.sqrt(1 - BETA2), rel=1e-4)
        assert 0.030 <= ratio <= 0.035

    @pytest.mark.parametrize("kind", [GIAdam, GIAdamW, RIAdam])
    @pytest.mark.parametrize("options", [{}, {"weight_decay": 0.3}], ids=str)
    def test_the_preconditioner_of_a_fresh_one_is_that_of_its_first_step(self, kind, options):
        task = cases.TASKS["tuple"](dtype=torch.float64)
        model, batch = task.model(0), next(iter(task.train))
        objective = lrs.Objective(model, task.loss_fn, [batch])
        optimizer = kind(model.parameters(), lr=1e-3, **options)
        before, P = objective.point(), preconditioner(optimizer, objective)
        gradient = objective.grad(before)
        if options and kind is not GIAdamW:
            gradient = gradient + 0.3 * before
        task.loss_fn(model, batch).backward()
        optimizer.step()
        # On the first step the momentum is 0.1 g, and P holds the factor that turns it into g.
        decay = 1e-3 * optimizer.param_groups[0]["weight_decay"] if kind is GIAdamW else 0.0
        torch.testing.assert_close(before * (1 - decay) - objective.point(), 1e-3 * 0.1 * gradient / P)

    def test_the_largest_stable_first_step_grows_by_what_the_sharpness_drops(self):
        task = cases.TASKS["tuple"](dtype=torch.float64)
        model, batch = task.model(0), next(iter(task.train))
        objective = lrs.Objective(model, task.loss_fn, [batch])
        adam, gi = (
            lrs.critical_lr(objective, kind(model.parameters(), lr=1e-3, eps=1e-12), tol=1e-3).lr
            for kind in (torch.optim.Adam, GIAdam)
        )
        assert gi / adam == pytest.approx(1 / math.sqrt(1 - BETA2), rel=5e-3)


class TestState:
    @pytest.mark.parametrize("kind", [GIAdam, GIAdamW, RIAdam])
    @pytest.mark.parametrize("fused", [False, True])
    def test_resuming_at_any_step_is_bit_equal(self, kind, fused):
        whole = build()
        backward(whole, 100)
        unbroken = kind(whole.parameters(), lr=0.02, fused=fused)
        unbroken.initialise()
        saved = []
        for batch in range(8):
            file = io.BytesIO()
            torch.save({"model": whole.state_dict(), "optimizer": unbroken.state_dict()}, file)
            saved.append(file)
            train(whole, unbroken, [batch])
        for step, file in enumerate(saved):
            file.seek(0)
            state = torch.load(file, weights_only=True)
            model = build()
            optimizer = kind(model.parameters(), lr=0.02, fused=fused)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            same(train(model, optimizer, range(step, 8)), whole)

    @pytest.mark.parametrize(("ours", "theirs"), CLASSES)
    @pytest.mark.parametrize("there", [True, False], ids=["ours to torch's", "torch's to ours"])
    def test_states_pass_between_it_and_torchs_adam(self, ours, theirs, there):
        """A state is continued as it is: of two that had equal states, both go the same way."""
        saver, loader = (ours, theirs) if there else (theirs, ours)
        model = build()
        optimizer = saver(model.parameters(), lr=0.02)
        train(model, optimizer, range(4))
        other = copy.deepcopy(model)
        loaded = loader(other.parameters(), lr=0.5)
        loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares tensors otherwise
        assert set(loaded.state_dict()["param_groups"][0]) == set(optimizer.state_dict()["param_groups"][0])
        same(train(model, optimizer, range(4, 9)), train(other, loaded, range(4, 9)))

    def test_the_state_of_an_adam_that_has_not_stepped_does_not_stand_in_the_way(self):
        empty = torch.optim.AdamW(build().parameters()).state_dict()
        model, reference = build(), build()
        optimizer = GIAdamW(model.parameters(), lr=0.02)
        optimizer.load_state_dict(empty | {"param_groups": optimizer.state_dict()["param_groups"]})
        plain = GIAdamW(reference.parameters(), lr=0.02)
        same(train(model, optimizer, range(4)), train(reference, plain, range(4)))

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
    @pytest.mark.parametrize("at", [0, 3])
    def test_copies_go_on_as_the_original(self, copied, at):
        model = build()
        optimizer = GIAdamW(model.parameters(), lr=0.02)
        train(model, optimizer, range(at))
        other, other_optimizer = copied((model, optimizer))
        same(train(model, optimizer, range(at, 6)), train(other, other_optimizer, range(at, 6)))

    def test_a_state_that_somebody_looked_at_is_no_state(self):
        model, reference = build(), build()
        optimizer, plain = GIAdam(model.parameters(), lr=0.02), GIAdam(reference.parameters(), lr=0.02)
        for p in model.parameters():
            optimizer.state[p]
        same(train(model, optimizer, range(4)), train(reference, plain, range(4)))

    @pytest.mark.parametrize("groups", [1, 2])
    def test_a_distributed_checkpoint_before_the_first_step_changes_nothing(self, groups):
        """torch.distributed.checkpoint makes a step of rate 0 on zero gradients to see what the state looks like."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

        def made():
            model = build()
            parts = [model] if groups == 1 else [model[0], model[2]]
            return model, GIAdamW([{"params": part.parameters()} for part in parts], lr=0.02)

        reference = train(*made(), range(6))
        model, optimizer = made()
        empty = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
        train(model, optimizer, range(3))
        third, weights = copy.deepcopy((get_optimizer_state_dict(model, optimizer), model.state_dict()))
        same(train(model, optimizer, range(3, 6)), reference)
        for state, start in ((empty, 0), (third, 3)):
            resumed, its_own = made()
            resumed.load_state_dict(weights if start else resumed.state_dict())
            set_optimizer_state_dict(resumed, its_own, state)
            same(train(resumed, its_own, range(start, 6)), reference)


class TestParametersOfEveryKind:
    def test_each_starts_at_the_first_gradient_it_gets(self):
        """A layer unfrozen and a group added later are as if each had its own optimizer from then on."""
        model, reference = build(), build()
        b, (ra, rb) = model[2], (reference[0], reference[2])
        extra, other = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
        for layer in (b, rb):
            layer.requires_grad_(False)
        optimizer = GIAdamW(model.parameters(), lr=0.02)
        separate = [GIAdamW(ra.parameters(), lr=0.02)]
        for batch in range(9):
            if batch == 3:
                for layer in (b, rb):
                    layer.requires_grad_(True)
                separate.append(GIAdamW(rb.parameters(), lr=0.02))
            if batch == 6:
                optimizer.add_param_group({"params": [extra], "lr": 0.1})
                separate.append(GIAdamW([other], lr=0.1))
            for m, p in ((model, extra), (reference, other)):
                backward(m, batch)
                p.grad = p.detach() * (batch - 3) if batch >= 6 else None
            optimizer.step()
            for one in separate:
                one.step()
        same(model, reference)
        assert torch.equal(extra, other)

    def test_a_parameter_whose_gradient_is_zero_at_the_start_is_told_and_begins_as_in_adam(self):
        still, moving, reference = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(3))
        optimizer, adam = GIAdam([moving, still], lr=0.1), torch.optim.Adam([reference], lr=0.1)
        for step in range(4):
            moving.grad = moving.detach().clone()
            for p in (still, reference):
                p.grad = p.detach() * float(step > 0)
            if step == 0:
                with pytest.warns(LrscopeWarning, match=r"GIAdam: 1 of 2 parameters .* shape \(3,\)"):
                    optimizer.step()
            else:
                optimizer.step()
            adam.step()
        assert torch.equal(still, reference)

    def test_a_sparse_gradient_is_refused_and_nothing_has_happened(self):
        bag, line = nn.Embedding(5, 3, sparse=True).double(), nn.Linear(3, 1).double()
        optimizer = GIAdamW([{"params": line.parameters()}, {"params": bag.parameters()}], lr=0.1)
        before = copy.deepcopy((bag, line))
        line(bag(torch.tensor([1, 2]))).sum().backward()
        for call in (optimizer.step, optimizer.initialise):
            with pytest.raises(RuntimeError, match="does not support sparse gradients"):
                call()
        same(bag, before[0])
        same(line, before[1])
        assert not optimizer.state

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision_parameters(self, dtype):
        model, reference = build(dtype), build(dtype)
        optimizer, by_torch = GIAdamW(model.parameters(), lr=0.02), torch.optim.AdamW(reference.parameters(), lr=0.02)
        backward(reference, 0)
        fill(by_torch)
        same(train(model, optimizer, range(5)), train(reference, by_torch, range(5)))


class TestMixedPrecision:
    @pytest.mark.parametrize("fused", [False, True])
    @pytest.mark.parametrize("unscaled_by_user", [False, True])
    def test_a_skipped_update_starts_nothing(self, fused, unscaled_by_user):
        model, reference = build(torch.float32), build(torch.float32)
        optimizer = GIAdam(model.parameters(), lr=0.02, fused=fused, weight_decay=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        for batch, scale in [(0, math.inf), (0, math.nan), *((b, 1.0) for b in range(5))]:
            backward(model, batch, scale, scaler)
            if unscaled_by_user:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            if scale != 1.0:
                assert not optimizer.state
                same(model, build(torch.float32))
        plain = GIAdam(reference.parameters(), lr=0.02, fused=fused, weight_decay=0.1)
        same(model, train(reference, plain, range(5)))


class TestInitialise:
    def test_it_can_be_called_again_and_leaves_what_has_a_state(self):
        model, reference = build(), build()
        optimizer, plain = GIAdam(model.parameters(), lr=0.02), GIAdam(reference.parameters(), lr=0.02)
        for m, o in ((model, optimizer), (reference, plain)):
            backward(m, 50)
            o.initialise()
        backward(model, 51)
        optimizer.initialise()
        train(model, optimizer, range(3))
        optimizer.initialise()
        same(train(model, optimizer, range(3, 5)), train(reference, plain, range(5)))

    @pytest.mark.parametrize(
        ("gradient", "message"),
        [
            (None, "GIAdam.initialise: no parameter has a gradient; call"),
            (0.0, "all gradients are 0; use a batch"),
            (math.inf, "a gradient is not finite"),
            (math.nan, "a gradient is not finite"),
        ],
    )
    def test_what_cannot_be_started_from_is_refused_before_anything_happens(self, gradient, message):
        theta = nn.Parameter(torch.ones(2))
        optimizer = GIAdam([theta], lr=0.1)
        theta.grad = None if gradient is None else torch.full((2,), gradient)
        with pytest.raises(ValueError, match=message):
            optimizer.initialise()
        assert not optimizer.state


class TestRIAdam:
    def test_v_keeps_the_norm_of_the_gradient_and_not_its_pattern(self):
        model = build()
        before = torch.get_rng_state()
        norms = []
        for seed in (0, 1):
            optimizer = RIAdam([{"params": layer.parameters()} for layer in (model[0], model[2])], lr=0.1, seed=seed)
            backward(model, 0)
            optimizer.initialise()
            v = torch.cat([optimizer.state[p]["exp_avg_sq"].reshape(-1) for p in model.parameters()])
            g = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
            assert float(v.sum()) == pytest.approx(float(g.square().sum()), rel=1e-12)
            assert abs(float(torch.corrcoef(torch.stack([v.sqrt(), g.abs()]))[0, 1])) < 0.3
            norms.append(v)
        assert not torch.equal(*norms)
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_draw_is_that_of_its_seed_also_in_a_copy(self):
        pairs = [(model, RIAdam(model.parameters(), lr=0.02, seed=seed)) for seed in (4, 4, 5) for model in [build()]]
        pairs[1] = copy.deepcopy(pairs[1])
        first, again, other = (train(model, optimizer, range(3)) for model, optimizer in pairs)
        same(first, again)
        assert not torch.equal(point(first), point(other))

    @pytest.mark.parametrize("seed", [-1, 0.5, True, None])
    def test_a_seed_is_a_count(self, seed):
        with pytest.raises(ValueError, match="seed: expected an integer of 0 or more"):
            RIAdam([nn.Parameter(torch.ones(1))], seed=seed)


class TestInTheLibrary:
    @pytest.mark.parametrize("name", ["giadamw", "riadam(seed=2)", "radam"])
    def test_batched_replicas_train_as_one_run_does(self, name):
        task = cases.TASKS["tuple"](dtype=torch.float64)
        cells = [Cell(lrs.schedules.Constant(lr), seed) for lr in (0.01, 0.1) for seed in (0, 1)]
        for cell, run in zip(cells, replicas(task, name, cells, 12), strict=True):
            alone = train_one(task, name, cell, 12)
            torch.testing.assert_close(run["loss"][1], alone["loss"][1], rtol=1e-9, atol=1e-12)

    def test_a_scheduled_run_by_name(self):
        task = cases.TASKS["tuple"](dtype=torch.float64)
        run = lrs.train(task, "giadamw", lrs.schedules.Constant(0.02), 5)
        same_run = lrs.train(task, lambda p: GIAdamW(p, lr=0.02), lrs.schedules.Constant(1.0), 5)
        torch.testing.assert_close(run["loss"][1], same_run["loss"][1], rtol=1e-12, atol=0)

    def test_no_warning_where_every_gradient_moves(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = build()
            train(model, OptimizerSpec.parse("giadamw").build(model.parameters(), lr=0.02), range(3))

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("giadamw", "optimizer = lrs.optimizers.GIAdamW(model.parameters(), lr=1.0)"),
            (
                "adamw(weight_decay=0.1)",
                "optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1)",
            ),
            ("riadam(seed=2)", "optimizer = lrs.optimizers.RIAdam(model.parameters(), lr=1.0, seed=2)"),
        ],
    )
    def test_a_plan_can_be_pasted(self, name, line):
        from types import SimpleNamespace

        plan = SimpleNamespace(optimizer=OptimizerSpec.parse(name).to_spec(), schedule_text="constant(1)", steps=5)
        text = python_snippet(plan)
        assert line in text
        scope = {"model": build()}
        exec(text, scope)
        assert ("import torch\n" in text) == ("torch.optim" in line)


def test_the_page_runs_as_printed():
    page = (Path(__file__).parents[3] / "docs" / "giadam.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scope = {}
    exec(block, scope)
    assert isinstance(scope["optimizer"], GIAdamW)
    assert scope["scheduler"].last_epoch == 100


def test_docstrings_run_as_printed():
    from lrscope.optimizers import giadam

    tried = doctest.testmod(giadam, extraglobs={"torch": torch})
    assert tried.attempted > 5
    assert tried.failed == 0
