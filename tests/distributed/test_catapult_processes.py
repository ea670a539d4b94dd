"""Warmups that measure, in two processes: the rates of one process that has all the batches, on every process."""

import pytest
import torch

import cases
import lrscope as lrs
from lrscope.stability import CatapultWarmup, GeN
from processes import in_two_processes

STEPS = 16
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=4.0),
    "momentum": lambda params: torch.optim.SGD(params, lr=1.0, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1.0),
}
SCHEDULES = {
    "catapult": CatapultWarmup(1.0, delta=0.05, over=2, share=0.5) * lrs.schedules.Cosine(1.0, 0.5, STEPS),
    "gen": GeN(0.01, every=3) * lrs.schedules.Cosine(1.0, 0.0, STEPS),
}


def batches(rank):
    """Of each turn of six examples both halves, or this process's."""
    x, y = cases.data(torch.float64, "features")
    turns = [(x[i : i + 6], y[i : i + 6]) for i in range(0, 24, 6)]
    return turns if rank is None else [(a[3 * rank :][:3], b[3 * rank :][:3]) for a, b in turns]


def trained(model, optimizer, schedule, mine):
    """Learning rates, and what was measured."""
    scheduler = lrs.ScheduledLR(optimizer, schedule)
    together = len(mine[0][0]) < 6
    rates = []
    for step in range(STEPS):
        batch = mine[step % len(mine)]
        optimizer.zero_grad()
        loss = cases.cross_entropy(model, batch)
        loss.backward()
        seen = loss.detach().clone()
        if together:
            torch.distributed.all_reduce(seen)
            seen /= 2
        scheduler.observe(
            loss=seen.item(), measure_on=lambda batch=batch: lrs.Objective(model, cases.cross_entropy, [batch])
        )
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return {"rates": rates, "forwards": scheduler.heard["lr"]["forwards"], "loss": seen.item()}


def wrapped(model, wrapping):
    if wrapping == "DDP":
        return torch.nn.parallel.DistributedDataParallel(model)
    return torch.distributed.fsdp.fully_shard(model)


def build():
    torch.manual_seed(0)
    return cases.mlp().double()


def measured(rank):
    found = {}
    for how, schedule in SCHEDULES.items():
        for name, make in OPTIMIZERS.items():
            model = build()
            found[f"alone/{how}/{name}"] = trained(model, make(model.parameters()), schedule, batches(None))
            for wrapping in ("DDP", "FSDP2"):
                model = wrapped(build(), wrapping)
                found[f"{wrapping}/{how}/{name}"] = trained(model, make(model.parameters()), schedule, batches(rank))
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return in_two_processes(measured, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("wrapping", ["DDP", "FSDP2"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("how", SCHEDULES)
def test_rates_are_those_of_one_process_on_all(ranks, how, name, wrapping):
    first, second = (rank[f"{wrapping}/{how}/{name}"] for rank in ranks)
    alone = ranks[0][f"alone/{how}/{name}"]
    assert first == second  # bit for bit, or the processes would drift apart
    assert first["forwards"] == alone["forwards"]
    assert first["rates"] == pytest.approx(alone["rates"], rel=1e-7)
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-7)


def test_the_warmup_was_put_to_work(ranks):
    """Else nothing above says much: several searches, and rates that rose."""
    for name in OPTIMIZERS:
        found = ranks[0][f"alone/catapult/{name}"]
        assert found["forwards"] > 8
        assert max(found["rates"]) > found["rates"][0] > 0
