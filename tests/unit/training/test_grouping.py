import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrscope.schedules import Constant
from lrscope.training import CannotBatch, Cell
from lrscope.training.feed import stack_batches
from lrscope.training.grouping import chunks, default_chunk


@given(seeds=st.lists(st.integers(0, 3), min_size=1, max_size=40), size=st.integers(1, 9), by_seed=st.booleans())
def test_every_cell_is_in_one_chunk_of_allowed_size(seeds, size, by_seed):
    cells = [Cell(Constant(0.1), seed=s) for s in seeds]
    parts = list(chunks(cells, size, by_seed=by_seed))
    assert sorted(i for part in parts for i in part) == list(range(len(cells)))
    assert all(1 <= len(part) <= size for part in parts)
    if by_seed:
        assert all(len({seeds[i] for i in part}) == 1 for part in parts)
    else:
        assert len(parts) == -(-len(cells) // size)


def test_large_models_get_small_chunks():
    assert default_chunk(torch.empty(1_000)) == 32
    assert default_chunk(torch.empty(100_000)) == 8
    assert default_chunk(torch.empty(10_000_000)) == 4
    assert default_chunk(torch.empty(100_000, device="meta")) == 256  # more room off the CPU
    assert default_chunk(torch.empty(10_000_000_000, device="meta")) == 1


def test_what_the_forward_pass_keeps_makes_chunks_smaller():
    theta = torch.empty(1_000)
    assert default_chunk(theta, kept=10**6) == 8
    assert default_chunk(theta, kept=10**6, captured=True) == 4
    assert default_chunk(theta, kept=10**8, captured=True) == 1
    assert default_chunk(torch.empty(100_000), kept=300_000, captured=True) == 8
    assert default_chunk(theta, kept=10**8) == 4
    assert default_chunk(torch.empty(1_000, device="meta"), kept=10**8) == 21
    assert default_chunk(torch.empty(1_000, device="meta"), kept=10**10) == 1


def test_batches_are_stacked_leaf_by_leaf():
    batches = [{"x": torch.full((2, 3), float(i)), "pad": 0, "more": [torch.arange(2)]} for i in range(4)]
    stacked, dims = stack_batches(batches)
    assert stacked["x"].shape == (4, 2, 3)
    assert stacked["x"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert stacked["pad"] == 0
    assert dims == {"x": 0, "pad": None, "more": [0]}


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(torch.ones(3),), [torch.ones(3)]], "differ in structure"),
        ([(torch.ones(3),), (torch.ones(2),)], r"shapes \[\(2,\), \(3,\)\]"),
        ([("a", torch.ones(3)), ("b", torch.ones(3))], "hold a str"),
        ([object(), object()], "hold a object"),
    ],
)
def test_batches_that_differ_are_refused(batches, message):
    with pytest.raises(CannotBatch, match=message):
        stack_batches(batches)
