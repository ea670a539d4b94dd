"""The largest Hessian eigenvalue at one point, cold: lrscope beside its peers.

    pip install --no-deps curvlinops-for-pytorch==3.0.1 PyHessian==0.1 hessian-eigenthings==1.0.0a5
    pip install backpack-for-pytorch einops einconv linear-operator opt-einsum scipy
    python benchmarks/cold_sharpness.py              # four minutes on a quiet core
    python benchmarks/cold_sharpness.py --only CNN   # one problem; nothing is kept

Every tool is asked for 1 % and for 0.1 % by its own tolerance, from the same number of random starts, in float32, with
attention in its math form (none of the peers does fused attention). What counts is the error of the answer against a
float64 solve by ARPACK to 1e-10, and whether the tool said that it had converged. Times are in gradients by plain torch,
measured in the same turn. Everything that a call does is in its products and its time (ours: the trial of the products
on a new loss, too; "again" is the same call on a loss met before).

Where a peer needs to be told something, it is told what favours it. SciPy's LOBPCG, whose tolerance is absolute, is
told the true eigenvalue; it runs on curvlinops' product, and once more on one written by hand that reuses its
first-order graph, which no package offers. hessian-eigenthings' Lanczos runs a fixed number of steps: 10, and twice
as many again until it calls itself converged; all attempts count.
Prints a Markdown table; raw numbers go to benchmarks/results/cold_sharpness.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import problems
import torch
from problems import Problem
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh, lobpcg
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrscope import Objective, sharpness

TOLERANCES = (1e-2, 1e-3)
MOST = 300
BY_HAND = "by hand, SciPy's LOBPCG"
PEERS = ("curvlinops-for-pytorch", "PyHessian", "hessian-eigenthings", "scipy")


@dataclass
class Answer:
    value: float
    products: int
    converged: bool


class Counted:
    """H v by reverse over reverse; the first-order graph is made once."""

    def __init__(self, problem: Problem) -> None:
        self.params = problem.params
        self.first = torch.autograd.grad(problem.loss(), self.params, create_graph=True)
        self.size, self.products = problem.size, 0

    def __call__(self, v: np.ndarray) -> np.ndarray:
        self.products += 1
        parts = torch.as_tensor(v.reshape(-1), dtype=self.first[0].dtype).split([p.numel() for p in self.params])
        shaped = [part.view_as(p) for part, p in zip(parts, self.params, strict=True)]
        found = torch.autograd.grad(self.first, self.params, shaped, retain_graph=True)
        return torch.cat([h.reshape(-1) for h in found]).numpy()

    def scipy(self) -> LinearOperator:
        dtype = torch.empty(0, dtype=self.first[0].dtype).numpy().dtype
        return LinearOperator((self.size, self.size), matvec=self, dtype=dtype)


def truth(problem: Problem) -> float:
    """By another hand than ours; twice, since one start may miss the top."""
    H = Counted(problem.copy(torch.float64))
    values = []
    for seed in (0, 1):
        v0 = np.random.default_rng(seed).normal(size=H.size)
        values.append(eigsh(H.scipy(), k=3, which="LA", ncv=40, tol=1e-10, v0=v0, return_eigenvectors=False).max())
    assert abs(values[0] / values[1] - 1) < 1e-8, values
    return float(max(values))


def ours(objective: Objective, tol: float, seed: int) -> Answer:
    result = sharpness(objective, tol=tol, seed=seed, max_matvecs=MOST)
    return Answer(result.value, result.cost.products, result.converged)  # with those of the trial


class Curvlinops:
    def __init__(self, problem: Problem) -> None:
        from curvlinops import HessianLinearOperator

        model, targets = problem.model, problem.targets
        loss = torch.nn.MSELoss() if targets.is_floating_point() else torch.nn.CrossEntropyLoss()
        if targets.ndim == 2 and not targets.is_floating_point():
            model, targets = torch.nn.Sequential(model, Flat()), targets.flatten()
        data = [(problem.inputs, targets)]
        H = HessianLinearOperator(
            model, loss, problem.params, data, check_deterministic=False, num_data=len(problem.inputs)
        )
        self.inner, self.size, self.products = H.to_scipy(), problem.size, 0

    def __call__(self, v: np.ndarray) -> np.ndarray:
        self.products += 1
        return self.inner @ v

    def scipy(self) -> LinearOperator:
        return LinearOperator((self.size, self.size), matvec=self, dtype=np.float32)


def curvlinops(problem: Problem, tol: float, seed: int) -> Answer:
    H = Curvlinops(problem)
    v0 = np.random.default_rng(seed).normal(size=problem.size).astype(np.float32)
    try:
        value = eigsh(H.scipy(), k=1, which="LA", tol=tol, v0=v0, return_eigenvectors=False)[0]
        return Answer(float(value), H.products, True)
    except (ArpackNoConvergence, ArpackError):
        return Answer(float("nan"), H.products, False)


class Flat(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(0, -2)


def pyhessian(problem: Problem, tol: float, seed: int) -> Answer:
    from pyhessian import hessian, utils

    count = 0
    home = hessian.eigenvalues.__globals__
    plain = utils.hessian_vector_product

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return plain(*args)

    home["hessian_vector_product"] = counted
    try:
        torch.manual_seed(seed)
        H = hessian(problem.model, problem.criterion, data=(problem.inputs, problem.targets), cuda=False)
        values, _ = H.eigenvalues(maxIter=MOST, tol=tol)
    finally:
        home["hessian_vector_product"] = plain
        for p in problem.params:
            p.grad = None
    return Answer(values[0], count, count < MOST)


def eigenthings(problem: Problem) -> Any:
    from hessian_eigenthings import HessianOperator

    def loss(model: torch.nn.Module, batch: Any) -> Tensor:
        return problem.criterion(model(batch[0]), batch[1])

    return HessianOperator(problem.model, [(problem.inputs, problem.targets)], loss)


def eigenthings_power(problem: Problem, tol: float, seed: int) -> Answer:
    from hessian_eigenthings import power_iteration_one

    value, _, _, products, converged = power_iteration_one(eigenthings(problem), tol=tol, seed=seed, max_iter=MOST)
    return Answer(value, products, converged)


def eigenthings_lanczos(problem: Problem, tol: float, seed: int) -> Answer:
    from hessian_eigenthings import lanczos

    products, most = 0, 10
    while True:
        found = lanczos(
            eigenthings(problem), k=1, which="LA", max_iter=most, tol=tol, seed=seed, reorthogonalize=True
        )
        products += found.iterations
        converged = bool(found.converged[0])
        if converged or 2 * most > MOST:
            return Answer(float(found.eigenvalues[0]), products, converged)
        most *= 2


def scipy_lobpcg(problem: Problem, tol: float, seed: int, value: float, product: Any = Counted) -> Answer:
    H = product(problem)
    start = np.random.default_rng(seed).normal(size=(H.size, 1)).astype(np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values, _ = lobpcg(H.scipy(), start, largest=True, tol=tol * value, maxiter=MOST)
    return Answer(float(values[0]), H.products, not any("not reaching" in str(w.message) for w in caught))


def measure(problem: Problem, tol: float, starts: int) -> dict[str, Any]:
    value = truth(problem)
    objective = problem.objective()
    sharpness(objective, seed=starts)
    solvers: dict[str, Callable[[int], Answer]] = {
        "lrscope": lambda seed: ours(problem.objective(), tol, seed),
        "lrscope, again": lambda seed: ours(objective, tol, seed),
        "curvlinops, eigsh": lambda seed: curvlinops(problem, tol, seed),
        "hessian-eigenthings, Lanczos": lambda seed: eigenthings_lanczos(problem, tol, seed),
        "hessian-eigenthings, power": lambda seed: eigenthings_power(problem, tol, seed),
        "PyHessian, power": lambda seed: pyhessian(problem, tol, seed),
        "curvlinops, SciPy's LOBPCG": lambda seed: scipy_lobpcg(problem, tol, seed, value, Curvlinops),
        BY_HAND: lambda seed: scipy_lobpcg(problem, tol, seed, value),
    }
    cannot: dict[str, str] = {}
    for name, solve in list(solvers.items()):
        try:
            solve(0)
        except (RuntimeError, NotImplementedError) as error:
            cannot[name] = str(error).strip().splitlines()[0]
            del solvers[name]
    rows: dict[str, Any] = {name: {"products": [], "error": [], "converged": [], "gradients": []} for name in solvers}
    for seed in range(starts):
        unit = statistics.median(problems.seconds(lambda: [problem.grad() for _ in range(10)]) / 10 for _ in range(5))
        for name, solve in solvers.items():
            answers: list[Answer] = []
            taken = problems.seconds(lambda solve=solve, seed=seed, answers=answers: answers.append(solve(seed)))
            row = rows[name]
            row["products"].append(answers[0].products)
            row["error"].append(abs(answers[0].value / value - 1))
            row["converged"].append(answers[0].converged)
            row["gradients"].append(taken / unit)
    for row in rows.values():
        claimed = [e for e, c in zip(row["error"], row["converged"], strict=True) if c]
        row["wrong"] = sum(e > tol for e in claimed)
        row["unfinished"] = starts - len(claimed)
    return {"problem": problem.name, "size": problem.size, "tol": tol, "truth": value, "solvers": rows,
            "cannot": cannot}  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| problem, to | tool | products: median (most) | time in gradients | error: median | worst | "
        "wrong but called converged | not converged |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in found:
        for name, row in case["solvers"].items():
            products, errors = row["products"], row["error"]
            lines.append(
                f"| {case['problem']}, {case['tol']:.1%} | {name} | {statistics.median(products):g} "
                f"({max(products)}) | {statistics.median(row['gradients']):.0f} | {statistics.median(errors):.1g} | "
                f"{max(errors):.1g} | {row['wrong']} of {len(errors)} | {row['unfinished'] or '-'} |"
            )
        lines += [
            f"| {case['problem']}, {case['tol']:.1%} | {name} | cannot: {why} | | | | | |"
            for name, why in case["cannot"].items()
        ]
    return "\n".join(lines)


def verdicts(found: list[dict[str, Any]]) -> str:
    """Ours against the best that was right from every start, for products and for time separately."""
    lines = [
        "| problem, to | products, ours (again) | best right peer | time, ours (again) | best right peer | by hand |",
        "|---|---|---|---|---|---|",
    ]
    for case in found:
        rows = case["solvers"]

        def middle(name: str, column: str, rows: Any = rows) -> float:
            return statistics.median(rows[name][column])

        right = [n for n, r in rows.items() if "lrscope" not in n and not r["wrong"] and not r["unfinished"]]
        cells = []
        for column in ("products", "gradients"):
            cells.append(f"{middle('lrscope', column):.0f} ({middle('lrscope, again', column):.0f})")
            best = min((n for n in right if n != BY_HAND), key=lambda n, c=column: middle(n, c), default=None)
            cells.append(f"{middle(best, column):.0f} ({best})" if best else "none was right")
        by_hand = " products, ".join(f"{middle(BY_HAND, column):.0f}" for column in ("products", "gradients"))
        cells.append(f"{by_hand} gradients" if BY_HAND in right else "wrong")
        lines.append(f"| {case['problem']}, {case['tol']:.1%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--only", default="", help="problems with this in their name; nothing is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    found = []
    with sdpa_kernel(SDPBackend.MATH):
        for problem in problems.problems():
            if options.only in problem.name:
                found += [measure(problem, tol, options.starts) for tol in TOLERANCES]
    print(table(found), "\n\n", verdicts(found), f"\n\n{time.perf_counter() - began:.0f} s", sep="")
    if not options.only:
        print(problems.keep("cold_sharpness", PEERS, starts=options.starts, cases=found))


if __name__ == "__main__":
    main()
