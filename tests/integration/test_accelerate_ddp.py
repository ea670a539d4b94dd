"""Real runs under accelerate: two processes on CPU, gradients averaged by DDP over gloo."""

import contextlib
import json
import multiprocessing
import os
import socket
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch.utils.data import DataLoader, TensorDataset

import lrscope as lrs
from lrscope.errors import LrscopeWarning
from lrscope.schedules import Linear, nonzero_warmup

SCHEDULE = nonzero_warmup(2).then(Linear(1.0, 0.0, 10))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def as_rank(rank, port, target, folder):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    with open(Path(folder, f"err{rank}"), "w", buffering=1) as err, contextlib.redirect_stderr(err):
        result = target(folder)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def in_two_processes(target, folder):
    """What ``target(folder)`` returns in each of two processes, which accelerate joins in one group."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["accelerate", "transformers.trainer", "lrscope"])
    port = free_port()
    ranks = [processes.Process(target=as_rank, args=(rank, port, target, str(folder))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0], Path(folder, "err0").read_text()
    return [json.loads(Path(folder, f"rank{rank}.json").read_text()) for rank in range(2)]


def training(accelerator, kind, prepared, late=False):
    """The usual loop; returns the learning rate of every performed update and the trained weight."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(32, 3, generator=generator), torch.randn(32, 1, generator=generator))
    loader = DataLoader(data, batch_size=2)
    used = []
    if late:  # built on what accelerate has wrapped
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    else:
        scheduler = build(kind, optimizer)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    scheduler = build(kind, optimizer) if late else scheduler
    inner = optimizer.optimizer
    inner.register_step_pre_hook(lambda *_: used.append(inner.param_groups[0]["lr"]))
    if prepared:
        scheduler = accelerator.prepare(scheduler)
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(((model(x) - y) ** 2).mean())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return used, accelerator.unwrap_model(model).weight.flatten().tolist()


def build(kind, optimizer):
    if kind == "ours":
        return lrs.ScheduledLR(optimizer, SCHEDULE)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, SCHEDULE)


def every_way(folder):
    warnings.simplefilter("ignore", LrscopeWarning)
    result = {}
    for accumulation in (1, 2):
        plugin = GradientAccumulationPlugin(num_steps=accumulation, adjust_scheduler=True)
        accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
        assert accelerator.num_processes == 2
        for kind, prepared, late in (("ours", 1, 0), ("ours", 0, 0), ("ours", 1, 1), ("torch", 1, 0)):
            key = f"{kind}/{accumulation}/{prepared}/{late}"
            result[key] = training(accelerator, kind, prepared, late)
        accelerator.free_memory()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LrscopeWarning)
        training(accelerator, "ours", prepared=True)
    result["told"] = [str(w.message) for w in caught if issubclass(w.category, LrscopeWarning)]
    return result


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return in_two_processes(every_way, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("prepared", "late"), [(1, 0), (0, 0), (1, 1)])
def test_one_update_is_one_step_however_often_accelerate_calls(two_processes, accumulation, prepared, late):
    first, second = (ranks[f"ours/{accumulation}/{prepared}/{late}"] for ranks in two_processes)
    updates = 8 // accumulation  # 16 batches, 8 for each process
    assert first[0] == [0.1 * SCHEDULE(t) for t in range(updates)]
    assert first == second  # the same rates, and weights that DDP kept equal


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_torch_scheduler_runs_twice_as_fast_there(two_processes, accumulation):
    used, _ = two_processes[0][f"torch/{accumulation}/1/0"]
    assert used == pytest.approx([0.1 * SCHEDULE(2 * t) for t in range(8 // accumulation)])


def test_being_stepped_by_every_process_is_said_once(two_processes):
    told = two_processes[0]["told"]
    assert len(told) == 1
    assert "stepped 2 times per optimizer update" in told[0]


def trainer_in_two_processes(folder):
    import test_hf_trainer as single

    from lrscope.adapters.huggingface import set_schedule

    # 2 processes x 2 micro-batches: 36 sentences are 9 batches, 5 for each process, 3 updates an epoch.
    trainer = single.trainer_in(folder, max_steps=-1, num_train_epochs=2, save_steps=4, ddp_backend="gloo")
    set_schedule(trainer, "warmup(1 epochs) > linear(to=0)")
    trainer.train()
    again = single.trainer_in(folder, max_steps=-1, num_train_epochs=2, save_steps=4, ddp_backend="gloo")
    set_schedule(again, "warmup(1 epochs) > linear(to=0)")
    again.train(resume_from_checkpoint=str(Path(folder, "checkpoint-4")))
    ends = [torch.cat([p.detach().flatten() for p in t.model.parameters()]).tolist() for t in (trainer, again)]
    return {"world": trainer.args.world_size, "rates": single.rates(trainer), "ends": ends}


def test_a_trainer_in_two_processes_steps_once_per_update_and_resumes_bit_equal(tmp_path):
    pytest.importorskip("transformers")
    first, second = in_two_processes(trainer_in_two_processes, tmp_path)
    assert first["world"] == 2
    assert first["rates"] == [0.01 * (t / 3 if t < 3 else 1 - (t - 3) / 3) for t in range(6)]
    assert first["ends"][0] == first["ends"][1] == second["ends"][0]
    told = [
        [line for line in (tmp_path / f"err{rank}").read_text().splitlines() if "lrscope:" in line]
        for rank in range(2)
    ]
    assert told[0][0].endswith("6 updates, 3 an epoch")
    assert told[1] == []


# One process.


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("stop", [3, 4])
@pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")
def test_save_state_and_load_state_go_on_where_they_were(tmp_path, prepared, stop):
    def run(first, last, load=None, save=None):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = lrs.ScheduledLR(optimizer, SCHEDULE)
        model, optimizer = accelerator.prepare(model, optimizer)
        if prepared:
            scheduler = accelerator.prepare(scheduler)
        else:
            accelerator.register_for_checkpointing(scheduler)
        if load:
            accelerator.load_state(str(load))
            assert optimizer.param_groups[0]["lr"] == 0.1 * SCHEDULE(first)
        for t in range(first, last):
            for micro in range(2):
                with accelerator.accumulate(model):
                    accelerator.backward(((model(torch.tensor([[t + micro / 2]])) - 1) ** 2).mean())
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
        if save:
            accelerator.save_state(str(save))
        rate = optimizer.param_groups[0]["lr"]
        accelerator.free_memory()
        return rate, model.weight.item()

    whole = run(0, 8)
    run(0, stop, save=tmp_path / "saved")
    assert run(stop, 8, load=tmp_path / "saved") == whole


def test_an_update_that_a_scaler_skips_moves_nothing():
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.scheduler import AcceleratedScheduler

    Accelerator(cpu=True)
    weight = torch.nn.Parameter(torch.ones(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = lrs.ScheduledLR(optimizer, SCHEDULE)
    wrapped = AcceleratedOptimizer(optimizer, scaler=scaler)
    prepared = AcceleratedScheduler(scheduler, wrapped)
    used = []
    for factor in (1.0, float("inf"), float("inf"), 1.0, 1.0):
        scaler.scale((weight * factor).sum()).backward()
        used.append(optimizer.param_groups[0]["lr"])
        wrapped.step()
        prepared.step()
        wrapped.zero_grad()
    assert used == [0.1 * SCHEDULE(t) for t in (0, 1, 1, 1, 2)]
    assert scheduler.last_epoch == 3
