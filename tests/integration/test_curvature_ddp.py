"""The callbacks in two processes: all of them measure, nobody waits for ever, and the reading is that over all data."""

import contextlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("lightning.pytorch")

from test_curvature_callbacks import readings, rest, trainer_in
from test_curvature_lightning import Net, Rows, trainer

import lrscope as lrs
from lrscope.adapters.huggingface import SharpnessCallback
from processes import free_port

pytestmark = pytest.mark.filterwarnings("ignore")


def as_rank(rank, port, target, folder):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), ACCELERATE_USE_CPU="true", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    with open(Path(folder, f"err{rank}"), "w", buffering=1) as err, contextlib.redirect_stderr(err):
        result = target(folder)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def in_two_processes(target, folder):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["transformers.trainer", "lightning.pytorch", "lrscope"])
    port = free_port()
    ranks = [processes.Process(target=as_rank, args=(rank, port, target, str(folder))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(100)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0, 0], "".join(Path(folder, f"err{rank}").read_text() for rank in range(2))
    return [json.loads(Path(folder, f"rank{rank}.json").read_text()) for rank in range(2)]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def with_transformers(folder):
    def end(name, **options):
        made = trainer_in(Path(folder, name), max_steps=6, save_strategy="no", optimizer=sgd)
        if options:
            made.add_callback(SharpnessCallback(made, **options))
        made.train()
        return [p.tolist() for p in made.model.parameters()], readings(made), rest(made)

    plain, _, log = end("plain")
    auto, seen, same = end("auto", every="auto", budget=None)
    _, capped, _ = end("cap", every=2, cap=0.05)
    return {"equal": plain == auto, "log": log == same, "seen": seen, "capped": capped}


def with_lightning(folder):
    from lightning.pytorch.strategies import DDPStrategy

    from lrscope.adapters.lightning import SharpnessCallback

    class Shares(Rows):
        def __iter__(self):
            for batch in super().__iter__():
                yield batch.chunk(2)[int(os.environ["RANK"])]

    def end(*callbacks, ckpt=None, steps=6):
        module = Net(kind=torch.optim.SGD, dropout=0.0)
        made = trainer(
            folder, *callbacks, strategy=DDPStrategy(process_group_backend="gloo"), devices=2, max_steps=steps,
        )  # fmt: skip
        made.fit(module, Shares(), ckpt_path=ckpt)
        return module, made

    plain, _ = end()
    whole = SharpnessCallback(every=1)
    module, _ = end(whole)
    first = SharpnessCallback(every=1)
    _, made = end(first, steps=3)
    made.save_checkpoint(Path(folder, "half.ckpt"))
    second = SharpnessCallback(every=1)
    resumed, _ = end(second, ckpt=Path(folder, "half.ckpt"))
    return {
        "equal": torch.equal(plain.theta, module.theta),
        "resumed": torch.equal(resumed.theta, module.theta),
        "rows": whole._measuring.rows,
        "halves": first._measuring.rows + second._measuring.rows,
    }


def test_transformers_trainer(tmp_path):
    first, second = in_two_processes(with_transformers, tmp_path)
    assert first["equal"]
    assert first["log"]
    assert first["seen"] == second["seen"]
    assert first["capped"] == second["capped"]
    assert len(first["seen"]) > 1
    assert any("lr_used" in row for row in first["capped"])

    # The first reading is the sharpness over the first batches of both processes.
    alone = trainer_in(tmp_path / "alone", optimizer=sgd)
    batches = SharpnessCallback(alone, num_batches=2)._first_batches()
    objective = lrs.Objective(alone.model, lambda m, b: m(**b).loss, batches)
    expected = lrs.sharpness(objective, tol=1e-4).value
    assert first["capped"][0]["curvature/lambda_max"] == pytest.approx(expected, rel=0.02)


def test_lightning(tmp_path):
    first, second = in_two_processes(with_lightning, tmp_path)
    assert first["equal"]
    assert first["resumed"]
    assert first["rows"] == second["rows"]
    assert first["halves"] == first["rows"]
    module = Net(kind=torch.optim.SGD, dropout=0.0)
    module.log = lambda *_: None
    batches = next(iter(Rows())).chunk(2)
    objective = lrs.Objective(module, lambda m, b: m.training_step(b, 1), list(batches))
    expected = lrs.sharpness(objective, tol=1e-4).value
    assert first["rows"][0]["sharpness"] == pytest.approx(expected, rel=0.02)
