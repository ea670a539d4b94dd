"""Quantities measured in two processes are those of one process that has all the batches."""

import pytest
import torch

import cases
from lrscope import Objective
from lrscope.curvature import (
    EmpiricalFisher,
    directional,
    gradient_noise_scale,
    layer_sharpness,
    preconditioned_sharpness,
    preconditioner,
    spectral_density,
    trace,
)
from lrscope.errors import TaskError
from processes import in_two_processes

OPTIMIZERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, centered=True),
}


def build():
    torch.manual_seed(0)
    return cases.mlp().double()


def parts():
    """Four turns of two batches of three: rank r takes the r-th of each turn."""
    return list(zip(*(t[:24].split(3) for t in cases.data(torch.float64, "features")), strict=True))


def joined(batches):
    return tuple(torch.cat(tensors) for tensors in zip(*batches, strict=True))


def wrapped(model, wrapping):
    if wrapping == "DDP":
        return torch.nn.parallel.DistributedDataParallel(model)
    return torch.distributed.fsdp.fully_shard(model)


def numbers(objective, optimizer):
    v = torch.randn(objective.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    noise = gradient_noise_scale(objective)
    values = {
        "P": preconditioner(optimizer, objective) @ v,
        "preconditioned": preconditioned_sharpness(objective, optimizer, tol=1e-6).value,
        "trace": trace(objective).value,
        "density": spectral_density(objective).density.max(),
        "directional": directional(objective).value,
        "layers": layer_sharpness(objective, tol=1e-6).value,
        "noise": noise.value,
        "noise stderr": noise.stderr,
        "fisher": (EmpiricalFisher(objective) @ v).norm(),
    }
    return {name: float(value) for name, value in values.items()}


def measured(rank):
    found = {}
    for wrapping in ("DDP", "FSDP2"):
        for name, make in OPTIMIZERS.items():
            ends = []
            for alone in (True, False):
                model = build() if alone else wrapped(build(), wrapping)
                optimizer = make(model.parameters())
                turns = [parts()[i : i + 2] for i in range(0, 8, 2)]
                mine = [joined(turn) for turn in turns] if alone else [turn[rank] for turn in turns]
                for batch in mine[:2]:
                    optimizer.zero_grad()
                    cases.cross_entropy(model, batch).backward()
                    optimizer.step()
                ends.append(numbers(Objective(model, cases.cross_entropy, mine), optimizer))
            found[f"{wrapping}/{name}"] = ends
    mine = parts()[:3] if rank == 0 else parts()[3:7]
    uneven = Objective(torch.nn.parallel.DistributedDataParallel(build()), cases.cross_entropy, mine)
    single = Objective(build(), cases.cross_entropy, parts()[:7])
    found["uneven loss"] = [uneven.loss(), single.loss()]
    try:
        gradient_noise_scale(uneven)
    except TaskError as error:
        found["uneven"] = str(error)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return in_two_processes(measured, tmp_path_factory.mktemp("quantities"))


@pytest.mark.parametrize("way", [f"{w}/{o}" for w in ("DDP", "FSDP2") for o in OPTIMIZERS])
def test_every_quantity_is_that_of_one_process_with_all_batches(two, way):
    for rank in two:
        alone, together = rank[way]
        assert together == pytest.approx(alone, rel=1e-6)


def test_all_processes_hold_the_same_numbers_to_the_bit(two):
    assert all(two[0][way] == two[1][way] for way in two[0] if "/" in way)


def test_processes_may_hold_different_numbers_of_batches_where_they_need_not_pair_up(two):
    for rank in two:
        ours, alone = rank["uneven loss"]
        assert ours == pytest.approx(alone, rel=1e-12)
        assert "the same number" in rank["uneven"]
