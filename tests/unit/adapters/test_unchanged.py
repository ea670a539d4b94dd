"""What a step sets, appends or counts is taken back: the same objects with the same contents."""

from collections import defaultdict, deque

import pytest
import torch
from torch import nn

from lrscope.adapters.unchanged import unchanged


class Owner:
    def __init__(self):
        self.count, self.values = 3, [1.0, [2.0]]
        self.sums, self.parts = torch.ones(2), defaultdict(list, train=[torch.zeros(1)])
        self.last, self.names, self.pair = deque([1, 2], maxlen=3), {"a"}, ([1], {"b": 2})


def contents(owner):
    kept = {k: v for k, v in vars(owner).items() if k != "sums"}
    return repr(kept), owner.sums.tolist(), {k: id(v) for k, v in vars(owner).items()}


def disturb(owner):
    owner.count += 1
    owner.values.append(3.0)
    owner.values[1].append(4.0)
    owner.sums += 1
    owner.parts["eval"].append(torch.ones(1))
    owner.parts["train"].append(torch.ones(1))
    owner.last.extend([5, 6])
    owner.names.add("z")
    owner.pair[0].append(9)
    owner.pair[1]["c"] = 1
    owner.new = "new"
    del owner.pair


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was(fails):
    owner = Owner()
    before = contents(owner)
    try:
        with unchanged(owner):
            disturb(owner)
            assert contents(owner) != before
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert contents(owner) == before


def test_what_was_not_touched_is_not_written():
    owner = Owner()
    version = owner.sums._version
    with unchanged(owner):
        pass
    assert owner.sums._version == version


def test_parameters_and_buffers_are_left_alone():
    net = nn.BatchNorm1d(2)
    with unchanged(net):
        net.weight.data += 1
        net.running_mean += 1
    assert net.weight.tolist() == [2.0, 2.0]
    assert net.running_mean.tolist() == [1.0, 1.0]
