"""Readings, alarm and cap inside real Lightning runs."""

import csv
import logging

import pytest
import torch
from torch import nn

import lrscope as lrs
from lrscope.adapters.lightning import ScheduleCallback, SharpnessCallback
from lrscope.errors import MeasurementError, TaskError
from rows import Rows

pl = pytest.importorskip("lightning.pytorch")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*:FutureWarning")


class Count(nn.Module):
    """A running metric, whose state is no buffer."""

    def __init__(self):
        super().__init__()
        self.total, self.parts = torch.zeros(()), []

    def forward(self, value):
        self.total += value.detach()
        self.parts.append(float(value.detach()))


class Net(pl.LightningModule):
    def __init__(self, lr=0.05, dropout=0.2, kind=torch.optim.AdamW):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.dropout, self.count = nn.Dropout(dropout), Count()
        self.lr, self.kind, self.calls, self.used = lr, kind, 0, []

    def training_step(self, batch, batch_idx):
        self.calls += 1
        hidden = self.dropout(self.norm(self.body(batch)).tanh())
        loss = ((self.head(hidden) - batch[:, :1] ** 2) ** 2).mean()
        self.count(loss)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters(), lr=self.lr)
        optimizer.register_step_post_hook(lambda *_: self.used.append(float(optimizer.param_groups[0]["lr"])))
        return optimizer

    @property
    def theta(self):
        return torch.cat([p.detach().flatten() for p in [*self.parameters(), *self.buffers()]])


def trainer(tmp_path, *callbacks, **options):
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"} | options
    return pl.Trainer(
        default_root_dir=tmp_path, callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip


def logged(folder, column):
    with open(next(folder.rglob("metrics.csv"))) as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def csv_logger(folder):
    from lightning.pytorch.loggers import CSVLogger

    return CSVLogger(folder)


@pytest.mark.parametrize(
    ("every", "more"),
    [("auto", {}), (1, {"accumulate_grad_batches": 3}), (1, {"precision": "bf16-mixed"})],
    ids=["auto", "accumulation", "bf16"],
)
def test_a_run_with_the_callback_is_the_run_without(tmp_path, every, more):
    ends = []
    for name in ("without", "with"):
        module = Net()
        mine = [SharpnessCallback(every=every, budget=0.5)] if name == "with" else []
        torch.manual_seed(1)
        run = trainer(tmp_path / name, *mine, logger=csv_logger(tmp_path / name), log_every_n_steps=1, **more)
        run.fit(module, Rows())
        ends.append((module, torch.get_rng_state(), run))
    (without, rng, _), (with_it, other, run) = ends
    assert torch.equal(without.theta, with_it.theta)
    assert torch.equal(rng, other)
    assert (without.calls, without.count.parts) == (with_it.calls, with_it.count.parts)
    assert torch.equal(without.count.total, with_it.count.total)
    assert "log" not in vars(with_it)
    assert logged(tmp_path / "without", "loss") == logged(tmp_path / "with", "loss")
    seen = logged(tmp_path / "with", "curvature/lambda_max")
    assert list(seen) == list(range(run.global_step)) if every == 1 else 0 in seen


def test_a_reading_is_that_of_the_model_as_it_stands(tmp_path):
    expected = []

    class Before(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.first = getattr(self, "first", batch)
            objective = lrs.Objective(module, lambda m, b: m.training_step(b, 1), [self.first])
            module.log = lambda *_: None
            result = lrs.sharpness(objective, tol=1e-4)
            del module.log
            expected.append((result.value, 0.05 * result.value / 2))

    module = Net(kind=torch.optim.SGD)
    run = trainer(
        tmp_path, SharpnessCallback(every=1), Before(), logger=csv_logger(tmp_path), log_every_n_steps=1, max_steps=4
    )
    run.fit(module, Rows())
    for column, values in zip(("lambda_max", "headroom"), zip(*expected, strict=True), strict=True):
        assert list(logged(tmp_path, f"curvature/{column}").values()) == pytest.approx(values, rel=0.02)


class Stop(Exception):
    pass


class StopAt(pl.Callback):
    def __init__(self, batch):
        self.batch, self.count = batch, 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.count == self.batch:
            raise Stop
        self.count += 1


@pytest.mark.parametrize(
    "options",
    [pytest.param({"every": "auto", "budget": None}, marks=pytest.mark.slow), {"every": 2, "cap": 0.05, "alarm": 1}],
    ids=str,
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, options):
    from lightning.pytorch.callbacks import ModelCheckpoint

    def run(name, *more, **where):
        module, mine = Net(dropout=0.0, lr=0.3), SharpnessCallback(**options)
        saves = ModelCheckpoint(tmp_path / name, every_n_train_steps=1, save_last=True)
        loggers = csv_logger(tmp_path / name)
        made = trainer(
            tmp_path, mine, ScheduleCallback("warmup(20%) > cosine(to=0.1)"), saves, *more, logger=loggers,
            log_every_n_steps=1, enable_checkpointing=True,
        )  # fmt: skip
        try:
            made.fit(module, Rows(), **where)
        finally:
            if made.loggers:
                made.loggers[0].save()
        return module, mine

    whole, callback = run("whole")
    with pytest.raises(Stop):
        run("cut", StopAt(7))
    resumed, after = run("resumed", ckpt_path=tmp_path / "cut" / "last.ckpt")
    assert torch.equal(whole.theta, resumed.theta)
    unbroken = logged(tmp_path / "whole", "curvature/lambda_max")
    assert len(unbroken) > 1
    joined = logged(tmp_path / "cut", "curvature/lambda_max") | logged(tmp_path / "resumed", "curvature/lambda_max")
    assert joined == unbroken
    if "cap" in options:
        caps = [c._measuring.gauge.cap.state_dict() for c in (callback, after)]
        assert caps[0] == caps[1]
        assert caps[0]["num_updates"] > 0


def test_what_it_cannot_measure_is_refused_in_one_line(tmp_path):
    class Two(Net):
        def configure_optimizers(self):
            return [torch.optim.SGD(self.body.parameters()), torch.optim.SGD(self.head.parameters())]

        automatic_optimization = False

    with pytest.raises(TaskError, match="2 optimizers"):
        trainer(tmp_path, SharpnessCallback()).fit(Two(), Rows())

    manual = Net()
    manual.automatic_optimization = False
    with pytest.raises(TaskError, match="manual optimization"):
        trainer(tmp_path, SharpnessCallback()).fit(manual, Rows())
    with pytest.raises(MeasurementError, match="Adagrad"):
        trainer(tmp_path, SharpnessCallback(cap=1.0)).fit(Net(kind=torch.optim.Adagrad), Rows())
    for wrong in ({"every": 0}, {"every": "often"}, {"cap": 0}, {"alarm": 0}, {"budget": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SharpnessCallback(**wrong)


def test_both_package_trees_and_a_clear_word_where_there_is_none():
    other = pytest.importorskip("pytorch_lightning")
    assert issubclass(SharpnessCallback, (pl.Callback, other.Callback))
    assert isinstance(SharpnessCallback(), other.Callback)
