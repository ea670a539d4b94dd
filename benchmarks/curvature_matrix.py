"""Which kind of Hessian product works on which model, how far off it is, and what it costs.

    pip install --no-deps timm==1.0.31 torchvision==0.15.2   # for the row of timm, which says so if it is absent
    python benchmarks/curvature_matrix.py                    # minutes on one core; writes docs/curvature_matrix.md
    python benchmarks/curvature_matrix.py timm DTensor       # the rows with these words again, the others as they were
    python benchmarks/curvature_matrix.py --no-clock timm    # beside other work, which would disturb the times

The models are those of tests/hvp_cases.py and tests/distributed, which the test suite runs, too. Raw numbers go to
benchmarks/results/curvature_matrix.json.
"""

from __future__ import annotations

import functools
import importlib
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "distributed")]

import test_hvp_processes as processes  # noqa: E402

import hvp_cases  # noqa: E402
from lrscope import Objective  # noqa: E402
from lrscope.curvature import ExactHessian, choose  # noqa: E402
from lrscope.errors import LrscopeWarning, MeasurementError  # noqa: E402
from lrscope.records import environment  # noqa: E402

METHODS = ("exact", "forward", "difference", "one-sided")
REPEATS = 15


def flops(do: Callable[[], Any]) -> float:
    # Fused recurrent kernels would not be seen by the counter.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        do()
    return float(counter.get_total_flops())


def seconds(do: Callable[[], Any], repeats: int = REPEATS) -> float:
    def once() -> float:
        began = time.perf_counter()
        do()
        return time.perf_counter() - began

    do()
    return statistics.median(once() for _ in range(repeats))


def operator(method: str, objective: Objective, theta: torch.Tensor) -> Any:
    """As the library would make it; raises what it raises."""
    if method == "one-sided":
        return choose(objective, theta, method="difference").at(objective, theta, gradient=objective.grad(theta))
    return choose(objective, theta, method=method).at(objective, theta)


def cell(
    method: str, objective: Objective, theta: torch.Tensor, v: torch.Tensor, truth: torch.Tensor, clock: bool
) -> dict[str, Any]:
    """Error of a product, and its cost in gradients: counted, and by the clock."""
    try:
        H = operator(method, objective, theta)
    except MeasurementError as error:
        return {"refused": str(error)}
    product = H @ v  # also makes the exact product's graph
    gradient = flops(lambda: objective.grad(theta))
    fresh = lambda: (type(H) if method in ("exact", "forward") else lambda *_: H)(objective, theta) @ v  # noqa: E731
    found = {
        "error": float((product.double() - truth).norm() / truth.norm()),
        "first": flops(fresh) / gradient if gradient else None,
        "next": flops(lambda: H @ v) / gradient if gradient else None,
    }
    if not clock:
        return found
    unit = seconds(lambda: objective.grad(theta))
    return found | {"wall_first": seconds(fresh) / unit, "wall_next": seconds(lambda: H @ v) / unit}


def row(case: hvp_cases.Case, clock: bool) -> dict[str, Any]:
    objective, reference = case.build()
    generator = torch.Generator().manual_seed(0)
    start = reference.point()
    theta = (start + 0.05 * torch.randn(start.shape, dtype=torch.float64, generator=generator)).float()
    H = ExactHessian(reference, theta.double())
    v = H @ torch.randn(start.shape, dtype=torch.float64, generator=generator)
    v = (v / v.norm()).float()
    cells = {m: cell(m, objective, theta, v, H @ v.double(), clock) for m in METHODS}
    auto = {purpose: choose(objective, theta, purpose=purpose).method for purpose in ("solve", "track")}
    return {"model": case.model, "wrapping": case.wrapping, "size": objective.size, "cells": cells, "auto": auto}


def distributed_rows(rank: int, words: list[str], clock: bool) -> list[dict[str, Any]]:
    """Two processes; every product against one process in float64 with all batches."""
    warnings.simplefilter("ignore")
    rows = []
    for kind, name in (("mlp", "MLP, tanh"), ("gpt", "GPT, fused attention"), ("checkpointed", "MLP, checkpointing")):
        ways = [*processes.WRAPPINGS, *(["DTensor: layers cut (tensor parallel)"] if kind == "mlp" else [])]
        for way in ways:
            label = "2 processes, " + {"mixed": "FSDP2 in bfloat16"}.get(way.split(", ")[-1].split()[0], way)
            if (kind, way) == ("checkpointed", "compiled DDP") or not asked_for(name, label, words):
                continue
            plain = processes.build(kind)
            if "DTensor" in way:
                objective = Objective(processes.cut(plain), processes.loss_fn, processes.batches_of(kind))
            else:
                model = processes.wrapped(plain, way)
                objective = Objective(model, processes.loss_fn, processes.batches_of(kind, rank))
            rows.append(distributed_row(objective, kind, name, label, clock))
    return rows


def asked_for(model: str, wrapping: str, words: list[str]) -> bool:
    return not words or any(word in f"{model}, {wrapping}" for word in words)


def distributed_row(objective: Objective, kind: str, name: str, wrapping: str, clock: bool) -> dict[str, Any]:
    cast = [tuple(t.double() if t.is_floating_point() else t for t in b) for b in processes.batches_of(kind)]
    reference = Objective(processes.build(kind).double(), processes.cases.cross_entropy, cast)
    generator = torch.Generator().manual_seed(0)
    theta = objective.point()
    theta += 0.05 * torch.randn(theta.shape, generator=generator)
    v = reference.hvp(theta.double(), torch.randn(theta.shape, generator=generator).double())
    v = (v / v.norm()).float()
    truth = reference.hvp(theta.double(), v.double())
    cells = {m: cell(m, objective, theta, v, truth, clock) for m in METHODS}
    auto = {purpose: choose(objective, theta, purpose=purpose).method for purpose in ("solve", "track")}
    return {"model": name, "wrapping": wrapping, "size": objective.size, "cells": cells, "auto": auto}


HEAD = """# Which product works where

Made by `python benchmarks/curvature_matrix.py` ({date}; torch {torch}; CPU, one thread). The same rows are tests:
`tests/reference/test_hvp_matrix.py` and `tests/distributed`.

A cell holds the relative error of a product in float32, at a theta where the model does not stand, against the exact
product of the same loss in float64 without the wrapping (and in one process), on a vector that products have smoothed, as
solvers use; then its cost in gradients, counted in multiplications (`torch.utils.flop_counter`), the first product at a
theta / each further one; in brackets the same by the clock, where the machine had nothing else to do. The models are
tiny (100 to 1,200 parameters), so the clock shows the overhead of small operations rather than what a large model would
take. `exact` keeps its first-order graph, if there are no more than four batches. `difference` is central; `one-sided`
reuses a gradient at theta, which is not counted.

`auto` is what is chosen for many products at one theta (a solve), and for one product per theta (tracking, `tol` 1 %).

{table}

## Why a cell has no number

{reasons}

## Notes

- Attention runs in its math form under `exact` and `forward`, compiled functions run uncompiled; a difference uses the
  fused and compiled ones.
- **Checkpointing**: the model stays at theta through the backward pass, which runs it again. Forward over reverse cannot
  see through it. Reentrant checkpointing knows `backward()` only, so a difference is all there is.
- **Autocast, bfloat16**: gradients carry noise of about one percent, so the difference's step is widened (8 or 64 times,
  whichever does best on a random vector). It is coarse all the same, and to one side useless; `auto` takes neither.
- **DDP, FSDP2**: each process gives its own batches, here unequal in size; the result is the same on each of them, to
  the bit. Under FSDP2 `exact` and `forward` gather all parameters on each process and leave the sharding hooks out, in
  the dtype the parameters are stored in; a difference runs the sharded model as training does, mixed precision included.
  By the clock a sharded gradient of a tiny model is communication, next to which anything else looks cheap.
- **Tensor parallel**: `exact` and `forward` give the model whole parameters, which layers that compute with DTensors do
  not take; a difference runs the model as it is.
- **timm** needs torchvision, and the torchvision of the registry does not load beside the CPU build of torch 2.13. Its
  row was made with torchvision 0.15.2, the Python parts of which import without compiled ones
  (`pip install --no-deps timm==1.0.31 torchvision==0.15.2`); where either is absent its tests are skipped.
- GPUs have not been tried.
"""


def importable(package: str) -> bool:
    try:
        importlib.import_module(package)
    except (ImportError, RuntimeError):  # timm beside a torchvision that does not fit torch raises the latter
        return False
    return True


def number(x: float | None, unit: str = "") -> str:
    return "?" if x is None else f"{x:.1f}{unit}"


def text(found: dict[str, Any], reasons: list[str]) -> str:
    if "refused" in found:
        reason = found["refused"].split(": ", 1)[1]
        if reason not in reasons:
            reasons.append(reason)
        return f"[{reasons.index(reason) + 1}](#why-a-cell-has-no-number)"
    count = f"{number(found['first'])} / {number(found['next'])}" if found["first"] is not None else "uncounted"
    clock = f" ({number(found['wall_first'])} / {number(found['wall_next'])})" if "wall_first" in found else ""
    return f"{found['error']:.0e}; {count}{clock}"


def page(rows: list[dict[str, Any]], absent: list[hvp_cases.Case]) -> str:
    reasons: list[str] = []
    lines = ["| model | wrapping | " + " | ".join(METHODS) + " | auto |", "|---" * (3 + len(METHODS)) + "|"]
    for r in rows:
        cells = [text(r["cells"][m], reasons) for m in METHODS]
        auto = ", ".join(dict.fromkeys(r["auto"].values()))
        lines.append(f"| {r['model']} | {r['wrapping']} | " + " | ".join(cells) + f" | {auto} |")
    for case in absent:
        lines.append(
            f"| {case.model} | {case.wrapping} |" + " not run |" * len(METHODS) + f" {case.needs} was absent |"
        )
    why = "\n".join(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))
    return HEAD.format(date=date.today(), torch=torch.__version__, table="\n".join(lines), reasons=why)


def main(words: list[str], clock: bool) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", LrscopeWarning)
    absent = [case for case in hvp_cases.CASES if case.needs and not importable(case.needs)]
    asked = [case for case in hvp_cases.CASES if case not in absent and asked_for(case.model, case.wrapping, words)]
    found = [row(case, clock) for case in asked]
    with tempfile.TemporaryDirectory() as folder:
        measure = functools.partial(distributed_rows, words=words, clock=clock)
        found += processes.in_two_processes(measure, folder, seconds=580)[0]
    results = ROOT / "benchmarks" / "results" / "curvature_matrix.json"
    rows = {(r["model"], r["wrapping"]): r for r in json.loads(results.read_text())["rows"]} if words else {}
    rows |= {(r["model"], r["wrapping"]): r for r in found}
    order = [(case.model, case.wrapping) for case in hvp_cases.CASES]
    rows = {key: rows[key] for key in [*(k for k in order if k in rows), *(k for k in rows if k not in order)]}
    text = {"date": str(date.today()), "environment": environment(), "rows": list(rows.values())}
    results.write_text(json.dumps(text, indent=1))
    (ROOT / "docs" / "curvature_matrix.md").write_text(page(list(rows.values()), absent))


if __name__ == "__main__":
    main([a for a in sys.argv[1:] if a != "--no-clock"], "--no-clock" not in sys.argv)
