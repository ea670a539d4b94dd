"""Similarity measures against the formulations in use, their memory, and streaming against its matrix products.

    python benchmarks/similarity.py                                 # two to four minutes on one core
    python benchmarks/similarity.py --rows 1000000 --device cuda    # the large stream
    PYTHONPATH=/where/cca_zoo/and/ckatorch/are python benchmarks/similarity.py

Two sets of float32 activations, N = 10,000 examples of D = 512 units with a spectrum like that of layers, have canonical
correlations from 1 to 0. Each way starts from those arrays and returns the number. "covariances" is the formulation of the public
SVCCA code, written anew: the joint covariance with numpy.cov, pseudo-inverses, their symmetric roots, one SVD, and
for PWCCA the canonical variables over the examples and their QR. cca-zoo and ckatorch take part where they can be imported; of cca-zoo
only the fit is timed, not the correlations. Times are medians of calls in turn; memory is what torch's allocator was asked
for at the most, beside the inputs. Streaming feeds float32 batches of 1,000 x 2,048 and is compared with the three
float64 products that its moments consist of. Raw numbers go to benchmarks/results/similarity.json.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import problems
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from lrscope.similarity import Streaming, cka, pwcca, svcca

REPEATS = 2
VARIANCE = 0.99


def activations(n: int, d: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, d + 1) ** -0.5
    x, rho = torch.randn(n, d, generator=g), torch.linspace(1, 0, d)
    y = rho * x + (1 - rho**2).sqrt() * torch.randn(n, d, generator=g)
    return tuple((t * spectrum) @ torch.linalg.qr(torch.randn(d, d, generator=g)).Q + 0.5 for t in (x, y))  # type: ignore[return-value]


# The formulation by covariances; units are rows, as there.


def inverse_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(np.linalg.pinv(matrix))
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def by_covariances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    d = len(x)
    covariance = np.cov(x, y)
    root_x, root_y = inverse_root(covariance[:d, :d]), inverse_root(covariance[d:, d:])
    u, s, _ = np.linalg.svd(root_x @ covariance[:d, d:] @ root_y)
    return u, s, root_x


def pwcca_by_covariances(x: np.ndarray, y: np.ndarray) -> float:
    u, s, root = by_covariances(x, y)
    units = x - x.mean(1, keepdims=True)
    basis, _ = np.linalg.qr((u.T @ root @ units).T)
    alpha = np.abs(basis.T @ units.T).sum(1)
    return float((alpha * s).sum() / alpha.sum())


def leading(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(1, keepdims=True)
    _, s, vt = np.linalg.svd(x, full_matrices=False)
    count = int((np.cumsum(s**2) < VARIANCE * (s**2).sum()).sum()) + 1
    return s[:count, None] * vt[:count]


def svcca_by_covariances(x: np.ndarray, y: np.ndarray) -> float:
    return float(by_covariances(leading(x), leading(y))[1].mean())


def cka_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))


def optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        print(f"{module} is not here; left out")
        return None


def ways(x: Tensor, y: Tensor) -> dict[str, dict[str, Callable[[], Any]]]:
    a, b = x.numpy(), y.numpy()
    units_a, units_b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    found: dict[str, dict[str, Callable[[], Any]]] = {
        "PWCCA": {"lrscope": lambda: pwcca(x, y), "covariances": lambda: pwcca_by_covariances(units_a, units_b)},
        "SVCCA": {"lrscope": lambda: svcca(x, y), "covariances": lambda: svcca_by_covariances(units_a, units_b)},
        "CKA": {"lrscope": lambda: cka(x, y), "numpy by hand": lambda: cka_by_hand(a, b)},
    }
    if (zoo := optional("cca_zoo.linear")) is not None:
        found["PWCCA"]["cca-zoo (fit)"] = lambda: zoo.CCA(n_components=a.shape[1]).fit([a, b])

        def truncated() -> Any:
            one, two = leading(units_a).T, leading(units_b).T
            return zoo.CCA(n_components=min(one.shape[1], two.shape[1])).fit([one, two])

        found["SVCCA"]["cca-zoo (fit, after an SVD)"] = truncated
    if (other := optional("ckatorch")) is not None:
        found["CKA"]["ckatorch"] = lambda: float(other.cka_base(x, y))
    return found


def speed(n: int, d: int) -> list[dict[str, Any]]:
    x, y = activations(n, d)
    size = x.numel() * x.element_size() + y.numel() * y.element_size()
    print(f"\nN = {n:,}, D = {d}, float32\n")
    print("| measure | way | seconds | times lrscope | value | memory / inputs |\n|---|---|---|---|---|---|")
    rows = []
    for measure, calls in ways(x, y).items():
        values: dict[str, Any] = {}

        def kept(way: str, call: Callable[[], Any], values: dict[str, Any] = values) -> Callable[[], Any]:
            return lambda: values.__setitem__(way, call())

        timed = {way: kept(way, call) for way, call in calls.items()}
        slow = timed.pop("ckatorch", None)  # a gigabyte a matrix: once is enough
        times = problems.taking_turns(timed, REPEATS)
        ours = times["lrscope"]
        if slow is not None:
            times["ckatorch"] = [problems.seconds(slow)]
        memory = 1 + problems.peak_bytes(calls["lrscope"]) / size
        for way, spent in times.items():
            ratio = problems.ratio(spent, ours) if len(spent) == len(ours) else spent[0] / statistics.median(ours)
            value = None if hasattr(values[way], "fit") else float(values[way])
            row = {"measure": measure, "way": way, "seconds": spent, "ratio": ratio, "value": value}
            rows.append(row | ({"memory with inputs": memory} if way == "lrscope" else {}))
            cells = [measure, way, f"{statistics.median(spent):.3f}", f"{ratio:.2f}", f"{value:.6f}" if value else ""]
            print("|", " | ".join([*cells, f"{memory:.2f}" if way == "lrscope" else ""]), "|", flush=True)
    return rows


def streaming(rows: int, d: int, batch: int, device: str) -> dict[str, Any]:
    a, b = (t.to(device).split(batch) for t in activations(4 * batch, d))
    pool = list(zip(a, b, strict=True))
    wide = [tuple(part.double() for part in parts) for parts in pool]
    turns = 4  # in turn, so that the machine's moods hit both alike
    count = max(1, rows // (batch * turns))
    total = Streaming()

    def feed() -> None:
        for i in range(count):
            total.update(*pool[i % 4])

    sums = [torch.zeros(d, d, dtype=torch.float64, device=device) for _ in range(3)]

    def products() -> None:
        for i in range(count):
            x, y = wide[i % 4]
            for out, (one, two) in zip(sums, ((x, x), (x, y), (y, y)), strict=True):
                out.addmm_(one.T, two)

    def all_of_it() -> Any:
        fresh = Streaming()
        for parts in pool:
            fresh.update(*parts)
        return fresh.cka(debiased=True)

    times = problems.taking_turns({"streaming": feed, "three products": products}, turns)
    return {
        "rows": count * turns * batch,
        "units": d,
        "batch": batch,
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "seconds": {name: sum(spent) for name, spent in times.items()},
        "ratio": problems.ratio(times["streaming"], times["three products"]),
        "seconds of a result": problems.seconds(lambda: total.cka(debiased=True)),
        "peak MB": problems.peak_bytes(all_of_it) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--rows", type=int, default=32_000, help="of the stream")
    parser.add_argument("--units", type=int, default=2_048, help="of the stream")
    parser.add_argument("--device", default="cpu", help="of the stream")
    parser.add_argument("--only", choices=("speed", "streaming"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {"n": options.n, "d": options.d}
    if options.only != "streaming":
        found["speed"] = speed(options.n, options.d)
    if options.only != "speed":
        result = found["streaming"] = streaming(options.rows, options.units, 1_000, options.device)
        spent = result["seconds"]
        print(
            f"\nStreaming, {result['rows']:,} x {result['units']:,} on {result['device']}: {spent['streaming']:.1f} s;"
        )
        print(f"its three float64 products {spent['three products']:.1f} s; ratio {result['ratio']:.2f};")
        print(f"debiased CKA from the sums {result['seconds of a result']:.2f} s; peak {result['peak MB']:.0f} MB")
    name = f"similarity_{options.only}" if options.only else "similarity"
    print(f"\n{problems.keep(name, packages=('scipy', 'scikit-learn'), **found)}")


if __name__ == "__main__":
    main()
