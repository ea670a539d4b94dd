"""GI-Adam on two processes is GI-Adam on one with all batches: data parallel, and with sharded parameters."""

import copy

import pytest
import torch
from torch.nn import functional as F

import cases
from lrscope.optimizers import GIAdamW, RIAdam
from processes import in_two_processes

STEPS = 4


def build():
    torch.manual_seed(0)
    return cases.mlp().double()


def batch(step, rank):
    g = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(5, cases.FEATURES, generator=g, dtype=torch.float64)
    return x, torch.randint(cases.CLASSES, (5,), generator=g)


def backward(model, step, ranks):
    """Gradient of the mean loss over the batches of ``ranks``."""
    model.zero_grad()
    for rank in ranks:
        x, y = batch(step, rank)
        (F.cross_entropy(model(x), y) / len(ranks)).backward()


def trained(model, optimizer, steps, ranks):
    for step in steps:
        backward(model, step, ranks)
        optimizer.step()


def whole(model):
    full = (p.detach() for p in model.parameters())
    return torch.cat([(p.full_tensor() if hasattr(p, "full_tensor") else p).reshape(-1) for p in full]).tolist()


def on_each(rank):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    results = {}
    for extra_batch in (False, True):
        for kind in ("DDP", "FSDP2"):
            model = build()
            if kind == "DDP":
                model = torch.nn.parallel.DistributedDataParallel(model)
            else:
                fully_shard(model)
            optimizer = GIAdamW(model.parameters(), lr=0.02)
            if extra_batch:
                backward(model, 99, [rank])
                optimizer.initialise()
            trained(model, optimizer, range(STEPS), [rank])
            results[f"{kind} {extra_batch}"] = whole(model)

    model = build()
    fully_shard(model)
    optimizer = GIAdamW(model.parameters(), lr=0.02)
    get_optimizer_state_dict(model, optimizer)  # before any step, as some trainers do
    trained(model, optimizer, range(2), [rank])
    state, weights = copy.deepcopy((get_optimizer_state_dict(model, optimizer), model.state_dict()))
    resumed = build()
    fully_shard(resumed)
    resumed.load_state_dict(weights)
    later = GIAdamW(resumed.parameters(), lr=0.5)
    set_optimizer_state_dict(resumed, later, state)
    trained(resumed, later, range(2, STEPS), [rank])
    results["FSDP2 resumed"] = whole(resumed)

    backward(model, 0, [rank])
    try:
        RIAdam(model.parameters()).step()
        results["random"] = ""
    except ValueError as error:
        results["random"] = str(error)
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return in_two_processes(on_each, tmp_path_factory.mktemp("giadam"))


@pytest.mark.parametrize("name", ["DDP False", "DDP True", "FSDP2 False", "FSDP2 True", "FSDP2 resumed"])
def test_two_processes_train_as_one(ranks, name):
    model = build()
    optimizer = GIAdamW(model.parameters(), lr=0.02)
    if name.endswith("True"):
        backward(model, 99, [0, 1])
        optimizer.initialise()
    trained(model, optimizer, range(STEPS), [0, 1])
    for rank in ranks:
        assert rank[name] == pytest.approx(whole(model), rel=1e-9, abs=1e-12)
    assert ranks[0][name] == ranks[1][name]


def test_a_random_second_moment_of_shards_is_refused(ranks):
    assert all("parameters are sharded (FSDP2)" in rank["random"] for rank in ranks)
