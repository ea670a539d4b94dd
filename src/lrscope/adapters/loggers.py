"""Send the rows of a run to the usual experiment trackers.

Each is an object with ``log(metrics, step)``, for ``train(..., loggers=[...])`` and ``Watch(..., loggers=[...])``; so
is anything of your own with that method. The trackers themselves are optional packages. Metrics are called ``loss``,
``lr``, ``lr/<group>``, ``eval_loss``, the task's own metrics, ``curvature/lambda_max``, ``curvature/residual`` and
``curvature/headroom``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lrscope.errors import MissingExtraError


class TensorBoard:
    """Writes event files for TensorBoard.

    Args:
        where: Directory of the event files, or a ``SummaryWriter`` of your own.

    Raises:
        MissingExtraError: TensorBoard is not installed.
        ValueError: ``where`` is neither.

    Example:
        >>> with TensorBoard("logs") as logger:                                          # doctest: +SKIP
        ...     lrs.train(task, "adamw", schedule, 1000, loggers=[logger])
    """

    def __init__(self, where: str | Path | Any) -> None:
        self._own = isinstance(where, str | Path)
        if not self._own and not callable(getattr(where, "add_scalar", None)):
            raise ValueError(f"TensorBoard: needs a directory or a SummaryWriter, got {type(where).__name__}")
        self.writer: Any = where
        if self._own:
            _package("tensorboard", "lrscope[tensorboard]")
            self.writer = _package("torch.utils.tensorboard", "lrscope[tensorboard]").SummaryWriter(str(where))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered; a writer of your own stays open."""
        if self._own:
            self.writer.close()
        else:
            self.writer.flush()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WandB:
    """Logs to a Weights & Biases run: the one given, or the current one of ``wandb.init(...)``.

    Raises:
        MissingExtraError: wandb is not installed.
        ValueError: No run is open.
    """

    def __init__(self, run: Any = None) -> None:
        self.run = _package("wandb", "wandb").run if run is None else run
        if self.run is None:
            raise ValueError("WandB: no run is open; call wandb.init(...) first, or give WandB(run)")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log(dict(metrics), step=step)


class MLflow:
    """Logs to an MLflow run: the one of ``run_id``, or the active one of ``mlflow.start_run()``.

    Raises:
        MissingExtraError: mlflow is not installed.
        ValueError: No run is active.
    """

    def __init__(self, run_id: str | None = None) -> None:
        self._mlflow = _package("mlflow", "mlflow")
        active = self._mlflow.active_run()
        if run_id is None and active is None:
            raise ValueError("MLflow: no run is active; call mlflow.start_run() first, or give MLflow(run_id)")
        self.run_id = run_id if run_id is not None else active.info.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(metrics), step=step, run_id=self.run_id)


class Trackio:
    """Logs to the current Trackio run of ``trackio.init(...)``.

    Raises:
        MissingExtraError: trackio is not installed.
    """

    def __init__(self) -> None:
        self._trackio = _package("trackio", "trackio")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(metrics), step=step)


def _package(module: str, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.rpartition(".")[2]
        raise MissingExtraError(f'{name} is not installed; pip install "{install}"') from error
