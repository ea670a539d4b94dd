"""Matrices with prescribed eigenvalues, and a world in which long vectors are cut into shards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

SPECTRA = {
    "outlier": [10.0, *np.linspace(-1, 1, 60)],
    "negative dominates": [*np.linspace(-9, 2, 50), 3.0],
    "tiny gap": [5.0, 4.99, *np.linspace(0, 4, 60)],
    "double": [2.0, 2.0, *np.linspace(0, 1, 30)],
    "clustered": [*(3 + 1e-6 * np.arange(6)), *np.linspace(0, 2.9, 60)],
    "all negative": list(np.linspace(-5, -1, 30)),
    "singular": [0.0] * 10 + list(np.linspace(0.1, 1, 30)),
    "zero": [0.0] * 12,
}


def matrix(spectrum: Any, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A symmetric matrix with exactly these eigenvalues, and its eigenvectors."""
    spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
    Q = torch.linalg.qr(draw(len(spectrum), len(spectrum), seed=seed))[0]
    return Q @ torch.diag(spectrum) @ Q.T, Q


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Shards:
    """Two workers, each with its own rows of every long vector; sums meet at a barrier, as in an all-reduce."""

    def __init__(self, cut: int, size: int) -> None:
        self.places = [slice(0, cut), slice(cut, size)]
        self.barrier = threading.Barrier(2)
        self.board: list[Any] = [None, None]

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.barrier.wait(timeout=30)
        self.board[rank] = value
        self.barrier.wait(timeout=30)
        return list(self.board)

    def run(self, work: Callable[..., Any], A: Tensor) -> list[Any]:
        """``work(matvec, inner, place, rank)`` on both workers."""

        def worker(rank: int) -> Any:
            def matvec(v: Tensor) -> Tensor:
                return (A @ torch.cat(self.exchange(rank, v)))[self.places[rank]]

            def inner(X: Tensor, Y: Tensor) -> Tensor:
                first, second = self.exchange(rank, X @ Y.T)
                return first + second

            return work(matvec, inner, self.places[rank], rank)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(worker, range(2)))
