"""Writes docs/curvature_benchmarks.md from the raw numbers that the curvature benchmarks have kept.

python benchmarks/curvature_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cold_sharpness
import hidden_eigenvalues
import problems
import product_cost
import solver_memory
import tracking_overhead

PAGE = Path(__file__).parents[1] / "docs" / "curvature_benchmarks.md"

BUSY = """ The times of this version were
taken while the machine was busy with other work (a gradient took two to ten times as long as alone); read them as rough."""
"""To be emptied once the scripts have run on a quiet machine."""

TEXT = """# Curvature: benchmarks

Written by `python benchmarks/curvature_page.py` from raw numbers in `benchmarks/results/`, each made by a script of its own
in a few minutes on a quiet core. Peers are installed beside lrscope for the first script only:

```text
pip install --no-deps curvlinops-for-pytorch==3.0.1 PyHessian==0.1 hessian-eigenthings==1.0.0a5
pip install backpack-for-pytorch einops einconv linear-operator opt-einsum scipy
```

| script | made | torch, Python, system | peers |
|---|---|---|---|
{where}

All on a CPU (2 cores of an Intel Xeon, Sapphire Rapids), one thread, float32. Times are in gradients of plain torch that
took turns with what was measured; counts and errors do not depend on the machine.{busy}

## The largest eigenvalue, cold

`python benchmarks/cold_sharpness.py`. Six losses: the digits MLP (8,970 parameters, 200 examples) with squared error and
with cross-entropy, at the start and after 300 steps; a CNN with GroupNorm (1,442) and a GPT (29,600), each after 100
steps. Every tool gets its own tolerance of 1 % or 0.1 %; what counts is the error of the value against ARPACK in float64.

Measured at `risk=1e-3`; the default is 1e-2 by now, which takes two to three products less. Ours against the best that was
right from every start. *Again* is a call on a loss that was measured before; the first one
tries its products. *By hand* is SciPy's LOBPCG, told the true eigenvalue, on a product that reuses its first-order graph,
which no package offers:

{verdicts}

{cold}

What to read from it:

- Aimed at were no more products than the best right peer, and half its time, on every loss. Neither is reached: the bound on
  the risk of a hidden eigenvalue (next section) costs three to nine products over plain Lanczos, which none of the peers
  spends, and at this size time goes into Python. A gradient of the MLP takes a quarter of a millisecond, a product of
  ours three to four of them (two are the backward pass, the rest puts random states, modes and parameters back), and
  the solver one more. On the CNN and the GPT a product of ours takes about 2.5, one by hand 2 to 2.5.
- A tool that stops when the value ceases to move is off by more than it was asked for on most of these losses (PyHessian:
  `tol` is the change between two iterations). Tools that stop on a residual are far more accurate than asked for.
- curvlinops has no product where an operation lacks a forward-mode formula (GroupNorm). Its products are slightly wrong on
  models with LayerNorm: `jvp(jacrev(f))`, by which it makes them, is off in torch 2.13 where a LayerNorm with weights follows
  something trainable, by up to a fifth on the smallest examples and 0.07 % on the GPT here, while `jvp(grad(f))`, double
  backward and differences agree. `tests/reference/test_against_curvlinops.py` holds both.

## How often is it the wrong eigenvalue, and what does certainty cost?

`python benchmarks/hidden_eigenvalues.py`. A random start can have next to nothing along the top eigenvector; the solve then
converges to another one with a small residual. Mean products over {starts} starts, and wrong answers, by stopping rule:

{hidden}

The bound is sharp: alone, at 0.1, it is exceeded in 5 to 11 % of the starts. A residual as well makes failures rare at any
of these levels; each factor of ten in the bound costs about two products. `sharpness` uses {risk:g}.

## One product

`python benchmarks/product_cost.py`. Peaks are what torch's allocator was asked for, from the profiler's record of every
allocation and release: neither caches nor other processes are in them.

{product}

Aimed at for `difference`: at most 2.15 gradients, and three vectors beyond a gradient's peak.

## Memory of a solve

`python benchmarks/solver_memory.py`. One wide linear layer; peaks in parameter vectors, of whole solves less that of one
product. Aimed at: six vectors, whatever the number of products.

{memory}

`lanczos(..., max_basis=4)` holds four basis vectors and, while a product is taken in, two more, however long it runs. Images
of the basis are not kept, and the bound on the risk survives restarts. A small basis costs products.

## Overhead of tracking

`python benchmarks/tracking_overhead.py`. A character GPT trained with AdamW. Aimed at: 5 % of step time for a reading every
50 steps.

{tracking}

A reading far from the last one is nearly a solve of its own: six products, some 15 gradients of whatever it is measured on. Every
50 steps on a whole training batch that is more than a quarter of a gradient a step; on an eighth of a batch, 3 %. So
give the tracker a small batch of its own, or a budget.

## On a GPU

`python benchmarks/gpu_curvature.py` asks the same of a GPT of 124 million parameters in bfloat16 autocast with flash
attention and `torch.compile`. It has been run at toy size on a CPU (`--tiny --device cpu`) and not yet on a GPU.
"""


def read(name: str) -> dict[str, Any]:
    return json.loads((problems.RESULTS / f"{name}.json").read_text())


def main() -> None:
    from lrscope.curvature.eigen import RISK

    names = ("cold_sharpness", "hidden_eigenvalues", "product_cost", "solver_memory", "tracking_overhead")
    found = {name: read(name) for name in names}
    where = []
    for name, run in found.items():
        env = run["environment"]
        peers = ", ".join(f"{peer} {version}" for peer, version in env["peers"].items()) or "-"
        where.append(f"| `{name}.py` | {run['date']} | {env['torch']}, {env['python']}, {env['system']} | {peers} |")
    cold, hidden = found["cold_sharpness"], found["hidden_eigenvalues"]
    PAGE.write_text(
        TEXT.format(
            busy=BUSY,
            where="\n".join(where),
            verdicts=cold_sharpness.verdicts(cold["cases"]),
            cold=cold_sharpness.table(cold["cases"]),
            starts=hidden["starts"],
            hidden=hidden_eigenvalues.table(hidden["cases"]),
            risk=RISK,
            product=product_cost.table(found["product_cost"]["cases"]),
            memory=solver_memory.table(found["solver_memory"]["cases"]),
            tracking=tracking_overhead.table(found["tracking_overhead"]),
        )
    )
    print(PAGE)


if __name__ == "__main__":
    main()
