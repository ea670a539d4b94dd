"""Solvers on vectors cut over two real processes, against the whole vectors in one."""

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from lrscope.linalg import all_reduced, lanczos, lobpcg, slq, xtrace
from spectra import draw, matrix

SPECTRUM = [-7.0, 6.0, 5.0, *np.linspace(-3, 3, 40)]
CUT = 12


def solve(rank, inner, place):
    """Eigenvalues from both ends, a trace and its error, the fourth moment."""
    A, _ = matrix(SPECTRUM)

    def matvec(v):
        if inner is None:
            return A @ v
        whole = torch.zeros(len(A), dtype=v.dtype)
        whole[place] = v
        torch.distributed.all_reduce(whole)
        return (A @ whole)[place]

    start, more = draw(len(A))[place], {} if inner is None else {"inner": inner}
    low = lanczos(matvec, start, which="smallest", tol=1e-8, **more)
    high = lobpcg(matvec, start, count=2, tol=1e-6, max_matvecs=400, **more)
    generator = torch.Generator().manual_seed(100 + rank)
    trace = xtrace(matvec, start, num_matvecs=30, generator=generator, **more)
    spectrum = slq(matvec, start, steps=6, num_probes=20, generator=generator, **more)
    values = torch.cat([low.values, high.values])
    return values, torch.tensor([trace.value, trace.stderr]), spectrum.moment(2).value, spectrum.size


def work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        place = [slice(0, CUT), slice(CUT, len(SPECTRUM))][rank]
        torch.save(solve(rank, all_reduced, place), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    values, (trace, stderr), moment, size = first
    torch.testing.assert_close(values, solve(0, None, slice(None))[0], rtol=1e-8, atol=1e-8)
    assert abs(float(trace) - sum(SPECTRUM)) < 4 * float(stderr)
    assert moment == pytest.approx(np.mean(np.square(SPECTRUM)), rel=0.2)
    assert size == len(SPECTRUM)
