"""What a solve for the largest eigenvalue holds beyond what its products need, at 1, 10 and 100 million parameters.

    python benchmarks/solver_memory.py               # four minutes on a quiet core, 5 GB at the largest size
    python benchmarks/solver_memory.py --largest 10  # million parameters, a minute

The loss is cross-entropy of one wide linear layer on 16 examples, so that a product costs little more than reading the
parameters. Peaks are what torch's allocator was asked for (problems.peak_bytes), in vectors of as many float32 numbers as
the model has parameters: of a gradient, of one product (with its first-order graph, or the points of its difference), and
of whole solves less that of the product. The start vector is counted. Prints a Markdown table; raw numbers go to
benchmarks/results/solver_memory.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import problems
import torch
from problems import Problem

from lrscope.curvature import DifferenceHessian, ExactHessian, Hessian
from lrscope.linalg import lanczos, lobpcg

MILLIONS = (1, 10, 100)
EXAMPLES = 16
NEVER = 1e-30  # a tolerance that is never met, so that the number of products is what is asked for


def wide(size: int) -> Problem:
    generator = torch.Generator().manual_seed(0)
    width = round(size**0.5)
    model = torch.nn.Linear(width, width, bias=False)
    with torch.no_grad():
        model.weight.normal_(generator=generator).div_(width**0.5)
    inputs = torch.randn(EXAMPLES, width, generator=generator)
    targets = torch.randint(width, (EXAMPLES,), generator=generator)
    return Problem("one wide layer", model, problems.cross_entropy, inputs, targets)


def restarted(products: int, kept: int) -> Callable[[Any, torch.Tensor], Any]:
    return lambda H, start: lanczos(H.__matmul__, start, tol=NEVER, max_matvecs=products, max_basis=kept)


SOLVES: dict[str, tuple[Callable[[Any, torch.Tensor], Any], int]] = {  # and up to how many million parameters
    "Lanczos, 4 basis vectors, 6 products": (restarted(6, 4), 100),
    "Lanczos, 4 basis vectors, 12 products": (restarted(12, 4), 100),
    "Lanczos, 8 basis vectors, 12 products": (restarted(12, 8), 10),
    "LOBPCG, 6 products": (lambda H, start: lobpcg(H.__matmul__, start, tol=NEVER, max_matvecs=6), 10),
}
KINDS: dict[str, tuple[type[Hessian], int]] = {"difference": (DifferenceHessian, 100), "exact": (ExactHessian, 10)}


def measure(millions: int) -> dict[str, Any]:
    problem = wide(millions * 10**6)
    objective = problem.objective()
    theta = objective.point()
    vector = theta.numel() * theta.element_size()

    def start() -> torch.Tensor:
        return torch.randn(theta.shape, generator=torch.Generator().manual_seed(1))

    found: dict[str, Any] = {"size": theta.numel(), "gradient": problems.peak_bytes(problem.grad) / vector}
    for label, (kind, largest) in KINDS.items():
        if millions > largest:
            continue
        product = problems.peak_bytes(lambda kind=kind: kind(objective, theta) @ theta) / vector
        row: dict[str, float] = {"product": product}
        for name, (solve, most) in SOLVES.items():
            if millions > most:
                continue
            began = time.perf_counter()
            # The operator is made inside, so that what it keeps counts as the product's in both.
            whole = problems.peak_bytes(lambda kind=kind, solve=solve: solve(kind(objective, theta), start()))
            row[name] = whole / vector - product
            print(f"{millions} M, {label}, {name}: {row[name]:.2f} ({time.perf_counter() - began:.0f} s)", flush=True)
        found[label] = row
    return found


def table(cases: list[dict[str, Any]]) -> str:
    sizes = [f"{case['size'] / 1e6:.0f} M" for case in cases]
    lines = [f"| parameter vectors | {' | '.join(sizes)} | growth |", f"|---{'|---' * len(sizes)}|---|"]
    lines.append("| peak of a gradient | " + " | ".join(f"{case['gradient']:.2f}" for case in cases) + " | |")
    for kind in KINDS:
        for name in ("product", *SOLVES):
            seen = [(case["size"], case[kind][name]) for case in cases if name in case.get(kind, {})]
            cells = [f"{vectors:.2f}" for _, vectors in seen] + ["-"] * (len(cases) - len(seen))
            label, growth = f"peak of one product, {kind}", ""
            if name != "product":
                # From the smallest to the largest: what does not grow with the model cancels.
                (small, low), (large, high) = seen[0], seen[-1]
                label = f"beyond it: {name}"
                growth = f"{(high * large - low * small) / (large - small):.2f}" if large > small else "-"
            lines.append(f"| {label} | {' | '.join(cells)} | {growth} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--largest", type=int, default=100, help="in millions of parameters")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [measure(m) for m in MILLIONS if m <= options.largest]
    print("\n", table(cases), "\n\n", problems.keep("solver_memory", cases=cases), sep="")


if __name__ == "__main__":
    main()
