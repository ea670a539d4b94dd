"""How often plain Lanczos takes the wrong eigenvalue for the largest, and what a bound on that risk costs.

    python benchmarks/hidden_eigenvalues.py          # three minutes on a quiet core

A random start may have next to nothing along the top eigenvector; the solve then converges, with a small residual, to
another one. On each of the six problems of cold_sharpness.py, many starts are followed product by product, and every
stopping rule is applied to the same paths: the residual alone, with a bound on the probability that a larger eigenvalue is
hidden (``risk`` of lrscope.linalg.lanczos), and that bound alone. Counted are the products until a rule is content, and how
often the value is then off by more than the tolerance, against a float64 solve by ARPACK. Prints a Markdown table; raw
numbers go to benchmarks/results/hidden_eigenvalues.json.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

import numpy as np
import problems
import torch
from cold_sharpness import Counted, truth
from problems import Problem
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrscope.linalg import dot
from lrscope.linalg.krylov import Krylov

TOLERANCES = (1e-2, 1e-3)
MOST = 40
RULES: dict[str, tuple[bool, float]] = {  # whether the residual counts, and the risk
    "residual": (True, 1.0),
    "residual, risk 0.3": (True, 0.3),
    "residual, risk 0.1": (True, 0.1),
    "residual, risk 0.05": (True, 0.05),
    "residual, risk 0.01": (True, 0.01),
    "residual, risk 0.001": (True, 0.001),
    "risk 0.1 alone": (False, 0.1),
}


def path(H: Counted, value: float, seed: int) -> list[dict[str, Any]]:
    """What is known after each product: error of the value, relative residual, risk for each tolerance."""
    start = torch.randn(H.size, generator=torch.Generator().manual_seed(seed))
    space = Krylov(lambda v: torch.as_tensor(H(v.numpy())), start, MOST, "largest", dot)
    space.join(start)
    seen = []
    while True:
        found, _, residuals, _ = space.ritz(1)
        scale = math.sqrt(2 * H.size / math.pi)
        risks = [scale * space.component(found[0] + tol * abs(found[0])) for tol in TOLERANCES]
        seen.append({"error": abs(found[0] / value - 1), "residual": residuals[0] / abs(found[0]), "risks": risks})
        certain = risks[-1] <= 1e-3 and seen[-1]["residual"] <= min(TOLERANCES)
        if certain or len(space) == MOST or not space.grow():
            return seen


def stop(seen: list[dict[str, Any]], index: int, residual: bool, risk: float) -> tuple[int, bool] | None:
    """Products until the rule is content, and whether the value is then right; ``None`` if it never is."""
    tol = TOLERANCES[index]
    for products, now in enumerate(seen, 1):
        if (now["residual"] <= tol or not residual) and (risk == 1 or now["risks"][index] <= risk):
            return products, bool(now["error"] <= tol)
    return None


def measure(problem: Problem, starts: int) -> dict[str, Any]:
    H, value = Counted(problem), truth(problem)
    paths = [path(H, value, seed) for seed in range(starts)]
    rows: dict[str, Any] = {}
    for index, tol in enumerate(TOLERANCES):
        for name, rule in RULES.items():
            ends = [stop(seen, index, *rule) for seen in paths]
            done = [end for end in ends if end is not None]
            rows[f"{tol:.1%}, {name}"] = {
                "products": statistics.mean(products for products, _ in done),
                "wrong": sum(not right for _, right in done),
                "unfinished": starts - len(done),
            }
    return {"problem": problem.name, "rows": rows}


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| stop at | " + " | ".join(case["problem"] for case in found) + " |", "|---" * (len(found) + 1) + "|"]
    for rule in found[0]["rows"]:
        cells = []
        for case in found:
            row = case["rows"][rule]
            cells.append(f"{row['products']:.1f}" + f"; **{row['wrong']} wrong**" * bool(row["wrong"]))
            cells[-1] += f"; {row['unfinished']} unfinished" * bool(row["unfinished"])
        lines.append(f"| {rule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(over="ignore")
    with sdpa_kernel(SDPBackend.MATH):
        found = [measure(problem, options.starts) for problem in problems.problems()]
    print(table(found), "\n\n", problems.keep("hidden_eigenvalues", starts=options.starts, cases=found), sep="")


if __name__ == "__main__":
    main()
