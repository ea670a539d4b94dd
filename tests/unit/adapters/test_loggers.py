"""Rows of a run go to every tracker, under the names of other tools; a tracker that is absent says how to get it."""

import importlib
import sqlite3
import sys

import pytest
import torch

import lrscope as lrs
from cases import TASKS
from lrscope.adapters import loggers
from lrscope.errors import MissingExtraError
from lrscope.records import as_metrics


class Kept:
    def __init__(self):
        self.rows = []

    def log(self, metrics, step):
        self.rows.append((step, dict(metrics)))


def two_groups(params):
    weight, bias, *rest = params
    return torch.optim.SGD([{"params": [weight, *rest], "name": "body"}, {"params": [bias], "lr": 0.01}], lr=0.1)


def test_a_training_run_reports_every_row_and_every_group():
    kept = Kept()
    schedule = lrs.schedules.Linear(1.0, 0.0, 4)
    run = lrs.train(TASKS["tuple"](), two_groups, schedule, 4, loggers=[kept])
    assert [step for step, _ in kept.rows] == [0, 1, 2, 3, 4]
    for (step, metrics), row in zip(kept.rows, run.rows, strict=True):
        assert metrics == as_metrics(row)
        if step < 4:
            assert metrics["lr/body"] == 0.1 * schedule(step)
            assert metrics["lr/1"] == 0.01 * schedule(step)
    assert "eval_loss" in kept.rows[-1][1]


def test_a_watch_reports_headroom_under_the_name_that_others_know():
    task, kept = TASKS["tuple"](), Kept()
    objective = task.objective()
    opt = torch.optim.SGD(objective.model.parameters(), lr=0.1)
    with lrs.Watch(objective, opt, every=2, loggers=[kept]) as watch:
        for _ in range(3):
            opt.step()
            watch.step(1.0)
    assert {"curvature/lambda_max", "curvature/headroom", "curvature/residual"} <= set(kept.rows[0][1])
    assert set(kept.rows[1][1]) == {"lr", "loss"}


def test_what_is_no_logger_is_refused_before_any_work():
    with pytest.raises(TypeError, match=r"expected objects with log\(metrics, step\), got int"):
        lrs.train(TASKS["tuple"](), "sgd", lrs.schedules.Constant(0.1), 2, loggers=[3])


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with loggers.TensorBoard(tmp_path) as logger:
        for step in range(3):
            logger.log({"lr": 0.1 * step, "lr/head": 1.0}, step)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    read = events.Scalars("lr")
    assert [e.step for e in read] == [0, 1, 2]
    assert [e.value for e in read] == pytest.approx([0.0, 0.1, 0.2])
    assert len(events.Scalars("lr/head")) == 3


def test_wandb_gets_the_row(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(ValueError, match="no run is open"):
        loggers.WandB()
    with wandb.init(project="p", dir=tmp_path) as run:
        logger = loggers.WandB()
        logger.log({"lr": 0.1}, 0)
        logger.log({"lr": 0.2}, 1)
        logger.log({"lr": 0.3}, 2)  # a step is stored when the next one begins
        assert run.summary["lr"] == 0.2
        assert run.summary["_step"] == 1


def test_mlflow_reads_back_what_was_logged(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(tmp_path.as_uri())
    mlflow.set_experiment("e")
    with pytest.raises(ValueError, match="no run is active"):
        loggers.MLflow()
    with mlflow.start_run() as run:
        logger = loggers.MLflow()
        logger.log({"lr/head": 0.1}, 0)
        logger.log({"lr/head": 0.2}, 1)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "lr/head")
    assert [(m.step, m.value) for m in history] == [(0, 0.1), (1, 0.2)]


@pytest.mark.parametrize("wrong", [None, 3, object()])
def test_tensorboard_refuses_what_cannot_write_when_it_is_built(wrong):
    with pytest.raises(
        ValueError, match=f"TensorBoard: needs a directory or a SummaryWriter, got {type(wrong).__name__}"
    ):
        loggers.TensorBoard(wrong)


def test_trackio_reads_back_what_was_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    trackio.init(project="p", name="r", embed=False)
    loggers.Trackio().log({"lr": 0.25}, 3)
    trackio.finish()
    (database,) = tmp_path.glob("*.db")
    with sqlite3.connect(database) as connection:
        ((step, metrics),) = connection.execute("select step, metrics from metrics").fetchall()
    assert step == 3
    assert b"0.25" in (metrics if isinstance(metrics, bytes) else metrics.encode())


@pytest.mark.parametrize(
    ("make", "package"),
    [
        (lambda: loggers.TensorBoard("x"), "tensorboard"),
        (loggers.WandB, "wandb"),
        (loggers.MLflow, "mlflow"),
        (loggers.Trackio, "trackio"),
    ],
)
def test_an_absent_tracker_says_how_to_get_it(make, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    importlib.invalidate_caches()
    with pytest.raises(MissingExtraError, match="pip install"):
        make()
