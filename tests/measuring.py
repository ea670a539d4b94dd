"""Every public call that measures, by name: what the laws on traces and on bad input run through.

The first word of a call is the public name that it goes through. ``SILENT`` are the names that evaluate no loss, with
the reason; tests/laws/test_no_trace.py fails where a public name is in neither.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import lrscope as lrs
from lrscope import curvature as C
from lrscope import stability as S
from lrscope.tasks import Task
from lrscope.training.probes import TrainState

Call = Callable[[lrs.Objective, torch.optim.Optimizer], Any]


def direction(objective: lrs.Objective, columns: int | None = None) -> Tensor:
    shape = (objective.size,) if columns is None else (objective.size, columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(objective.point())


def hessian(kind: type[C.Hessian]) -> Call:
    def products(objective: lrs.Objective, _: Any) -> Any:
        H = kind(objective, objective.point() + 0.1)
        return H @ direction(objective), H @ direction(objective, 2)

    return products


def combined(make: Callable[[C.Operator, lrs.Objective], C.Operator]) -> Call:
    def products(objective: lrs.Objective, _: Any) -> Tensor:
        H = C.ExactHessian(objective, objective.point())
        return make(H, objective) @ direction(objective)

    return products


def operator(make: Callable[[lrs.Objective], C.Operator]) -> Call:
    def products(objective: lrs.Objective, _: Any) -> Tensor:
        A = make(objective)
        return A @ torch.ones(A.size, dtype=A.dtype)

    return products


def graph(objective: lrs.Objective) -> Any:
    with objective.undisturbed():  # also for the backward pass, which may run parts of the model again
        theta = objective.point().requires_grad_()
        return torch.autograd.grad(objective(theta), theta)


def one_sided(objective: lrs.Objective, _: Any) -> Any:
    theta = objective.point()
    H = C.choose(objective, theta, method="difference").at(objective, theta, gradient=objective.grad(theta))
    return H.with_error(direction(objective))


def tracked(objective: lrs.Objective, optimizer: Any) -> Any:
    tracker = C.SharpnessTracker(objective, optimizer)
    readings = [tracker.update(), tracker.update(objective.point() + 0.01), tracker.step(), tracker.step()]
    again = C.SharpnessTracker(objective, optimizer)
    again.load_state_dict(tracker.state_dict())
    return [*readings, again.update(batches=objective.batches[:1])]


def watched(objective: lrs.Objective, optimizer: Any) -> Any:
    watch = S.Watch(objective, optimizer, every=1, alarm=1)
    try:
        return [watch.step(1.0), watch.step(torch.tensor(1.0))]
    finally:
        watch.close()


def capped(objective: lrs.Objective, optimizer: Any) -> Any:
    watch = None
    try:
        watch = S.Watch(objective, optimizer, every="auto", cap=1e-3)
        return [watch.step(1.0), watch.step(1.0)]
    finally:
        if watch is not None:
            watch.close()


def gauged(objective: lrs.Objective, optimizer: Any) -> Any:
    gauge = S.StabilityGauge(objective, optimizer)
    return [gauge.read(), gauge.step(1, lambda *_, **__: None, now=True)]


def constants(objective: lrs.Objective, _: Any) -> Any:
    task = task_of(objective, lambda _: copy.deepcopy(objective.wrapped))
    return S.critical_constants(task, steps=1, largest=1.05, seeds=(0,))


def task_of(objective: lrs.Objective, build: Callable[[int], torch.nn.Module]) -> Task:
    return Task(build, objective.loss_fn, list(objective.batches), count=objective.count)


def probed(objective: lrs.Objective, optimizer: Any) -> Any:
    model = objective.wrapped
    probe = S.SharpnessProbe(task_of(objective, lambda _: model), every=1)
    state = TrainState(0, 10, 1.0, 0.1, model, optimizer, objective.batches[0], lambda *_, **__: None)
    return [probe(state), probe(state)]


FEW: Any = {"max_matvecs": 4}
CALLS: dict[str, Call] = {
    "Objective.point": lambda o, _: o.point(),
    "Objective.__call__": lambda o, _: o(o.point()),
    "Objective.__call__ with a graph": lambda o, _: graph(o),
    "Objective.loss": lambda o, _: o.loss(o.point() + 0.1),
    "Objective.grad": lambda o, _: o.grad(o.point() + 0.1),
    "Objective.loss_and_grad": lambda o, _: o.loss_and_grad(o.point() + 0.1),
    "Objective.hvp": lambda o, _: o.hvp(o.point(), direction(o)),
    "Objective.each": lambda o, _: [part.grad(o.point()) for part in o.each()],
    "Objective.on": lambda o, _: o.on(o.batches[:1]).loss(),
    "ExactHessian": hessian(C.ExactHessian),
    "ForwardHessian": hessian(C.ForwardHessian),
    "DifferenceHessian": hessian(C.DifferenceHessian),
    "DifferenceHessian to one side": one_sided,
    "GaussNewton": operator(C.GaussNewton),
    "GaussNewton by difference": operator(lambda o: C.GaussNewton(o, method="difference")),
    "NTK": operator(C.NTK),
    "EmpiricalFisher": operator(C.EmpiricalFisher),
    "EmpiricalFisher of batches": operator(lambda o: C.EmpiricalFisher(o, per="batch")),
    "Sum": combined(lambda H, o: H + C.GaussNewton(o)),
    "Scaled": combined(lambda H, _: 2 * H),
    "Preconditioned": combined(lambda H, o: C.Preconditioned(H, torch.full((o.size,), 2.0))),
    "Deflated": combined(lambda H, o: C.Deflated(H, torch.ones(1), torch.eye(o.size, 1))),
    "block": lambda o, _: C.block(o, o.layout.names[-1]).grad(C.block(o, o.layout.names[-1]).point()),
    "choose": lambda o, _: C.choose(o, o.point()),
    "choose to track": lambda o, _: C.choose(o, o.point(), method="forward", purpose="track"),
    "sharpness": lambda o, _: lrs.sharpness(o, **FEW),
    "sharpness by difference": lambda o, _: lrs.sharpness(o, method="difference", count=2, **FEW),
    "sharpness of an operator": lambda o, _: lrs.sharpness(C.GaussNewton(o), **FEW),
    "preconditioned_sharpness": lambda o, opt: C.preconditioned_sharpness(o, opt, **FEW),
    "preconditioner": lambda o, opt: C.preconditioner(opt, o),
    "layer_sharpness": lambda o, _: C.layer_sharpness(o, **FEW),
    "trace": lambda o, _: C.trace(o, num_matvecs=6),
    "spectral_density": lambda o, _: C.spectral_density(o, steps=2, num_probes=2),
    "directional": lambda o, _: C.directional(o),
    "gradient_noise_scale": lambda o, _: C.gradient_noise_scale(o),
    "SharpnessTracker": tracked,
    "critical_lr": lambda o, opt: S.critical_lr(o, opt, tol=0.5),
    "critical_lr of a name": lambda o, _: S.critical_lr(o, "adamw", curvature=False, tol=0.5),
    "critical_sharpness": lambda o, opt: S.critical_sharpness(o, opt, max_forwards=5),
    "critical_constants": constants,
    "measure_regime": lambda o, opt: S.measure_regime(o, opt, o.batches, epochs=1, probe_steps=1),
    "scale_invariance": lambda o, opt: S.scale_invariance(o, opt, factors=(2.0,)),
    "Watch": watched,
    "Watch with a cap": capped,
    "StabilityGauge": gauged,
    "SharpnessProbe": probed,
}

_RESULTS = (
    "Choice DirectionalCurvature EigenResult LayerSharpness Measurement NoiseScale SpectralDensity TraceResult "
    "Catapult CriticalConstants CriticalLR CriticalSharpness CriticalWarmup EdgeOfStability Equivalence GroupInvariance Regime "
    "Jump ScaleInvariance Sharpening TwoPhaseRates"
)
_NUMBERS = (
    "headroom reference_lr stability_threshold decay_curvature Alarm CatapultDetector EdgeDetector edge_of_stability "
    "explain find_catapults find_jump natural_sharpening run_regime warmup_from_critical"
)
_INSIDE = "first_order second_order at batch_loss undisturbed differentiable size"
SILENT: dict[str, str] = {
    **dict.fromkeys(_RESULTS.split(), "a result"),
    **dict.fromkeys(_NUMBERS.split(), "takes numbers, a record, or the settings of an optimizer"),
    **dict.fromkeys((f"Objective.{name}" for name in _INSIDE.split()), "inside of the other methods"),
    "Hessian": "an abstract base",
    "Operator": "an abstract base",
    "Cap": "changes the optimizer on purpose, within its step; is part of a Watch",
    "CatapultWarmup": "a schedule, which changes the optimizer on purpose",
    "GeN": "a schedule, which changes the optimizer on purpose",
    "show_equivalence": "trains models of its own, as train() does; given a task, not a model",
    "two_phase_rates": "trains models of its own, as train() does; given a task, not a model",
    "equivalent_lr": "changes the optimizer on purpose, once scale_invariance has measured; has a test of its own",
}


def names() -> set[str]:
    """All public names that curvature and stability give, and those of an objective's methods."""
    methods = {f"Objective.{name}" for name in vars(lrs.Objective) if name == "__call__" or name[0] != "_"}
    return {*C.__all__, *S.__all__, *methods}
