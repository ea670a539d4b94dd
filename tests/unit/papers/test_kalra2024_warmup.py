"""The set-ups of kalra2024's warmups, and the one of its checks that is cheap."""

import pytest

from lrscope.papers.kalra2024 import warmup


def test_the_linear_warmup_is_that_of_the_papers_code():
    assert warmup.linear(3.0, 4).values(6).tolist() == [0.75, 1.5, 2.25, 3.0, 3.0, 3.0]
    assert warmup.linear(3.0, 1).values(3).tolist() == [3.0] * 3


@pytest.mark.parametrize("net", [("sp", 64), ("zero", 64)])
def test_the_search_finds_what_a_dense_scan_finds(net):
    """#9, for the two cheapest networks."""
    outcome = warmup.searches(seeds=[0], nets=[net])
    assert outcome.verdict == "reproduced", outcome
    assert len(outcome.numbers["found_over_true"]["0.1"]) == 1
