"""``lrscope sweep``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from lrscope.cli.options import Data, Fresh, Json, Out, Settings, TaskName

if TYPE_CHECKING:
    from lrscope.sweeps import SweepProgress

EngineName = Annotated[
    Literal["auto", "serial", "replicas", "processes", "ray"],
    Parameter(help="Who runs the cells; auto measures, and takes worker processes for what will take long."),
]


def sweep(
    task: TaskName,
    /,
    *,
    lr: Annotated[str | None, Parameter(help="Peak learning rates: 2^-9:2^3, 1e-4:1:9 or 0.1,0.2.")] = None,
    warmup: Annotated[str | None, Parameter(help="Warmup lengths: steps or shares, as in 0,5%,33%.")] = None,
    optimizer: Annotated[str, Parameter(help="One rule or several, as in 'sgd,adam(betas=(0.9,0.95))'.")] = "sgd",
    steps: Annotated[str | None, Parameter(help="Updates of each run, or several; default: the task's own.")] = None,
    schedule: Annotated[
        str | None,
        Parameter(
            help="Shape as a factor of --lr, with {axis} for an axis: 'warmup({warmup}) > cosine(to={floor})'."
        ),
    ] = None,
    decay: Annotated[
        Literal["constant", "linear", "cosine"],
        Parameter(help="Shape after the warmup, instead of --schedule; linear and cosine end at zero."),
    ] = "constant",
    seeds: Annotated[int, Parameter(help="How many seeds, counted from 0.", validator=Number(gte=1))] = 1,
    axis: Annotated[
        list[str] | None,
        Parameter(
            help="name=values for a placeholder, an option of the optimizer or a setting of the task, such as "
            "width=64,128 or momentum=0,0.9; repeatable.",
            negative=(),
        ),
    ] = None,
    measure: Annotated[str | None, Parameter(help="sharpness: at the start and the end of each run.")] = None,
    adaptive: Annotated[
        bool, Parameter(help="Look near the stability boundary and the best rate only.", negative=())
    ] = False,
    engine: EngineName = "auto",
    workers: Annotated[int | None, Parameter(help="Processes of --engine processes; default: one per core.")] = None,
    within: Annotated[
        Literal["auto", "serial", "replicas"] | None,
        Parameter(help="What each worker of processes or ray runs its cells with; default: serial."),
    ] = None,
    matmul_precision: Annotated[
        Literal["highest", "high", "medium"] | None,
        Parameter(
            help="Of float32 products, for --engine replicas: less is faster on some processors, other numbers."
        ),
    ] = None,
    address: Annotated[str | None, Parameter(help="Of a cluster, for --engine ray; default: one on here.")] = None,
    out: Out = None,
    set_: Settings = None,
    data: Data = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps …; default: the task's.")] = None,
    fresh: Fresh = False,
    json: Json = False,
) -> int:
    """Train TASK at every point of a grid, keep each run, and say up to where training works and where best.

    The directory holds a file per cell, table.parquet and a report. Interrupted, the same command goes on; with
    more values it grows. Exit code 1 if cells raised, 3 if none trained.
    """
    from lrscope.cli.app import BAD_ANSWER, FAILED
    from lrscope.cli.failures import trying, working
    from lrscope.cli.progress import Progress, Stop
    from lrscope.cli.sweep_answer import finish
    from lrscope.records import strict_json
    from lrscope.reports.numbers import plural
    from lrscope.sweeps.sweep import opened, prepare, run_opened

    axes = _axes(lr, warmup, axis, set_, data)
    if schedule is not None and decay != "constant":
        raise ValueError("--decay: given beside --schedule; write the decay into the schedule's text")
    if schedule is None and decay != "constant":
        schedule = f"{'warmup({warmup}) > ' if warmup is not None else ''}{decay}(to=0)"
    runs_with = _engine(engine, workers, within, address, matmul_precision)
    with trying():
        prepared = prepare(
            task,
            optimizer=optimizer,
            steps=steps,
            schedule=schedule,
            seeds=seeds,
            measure=measure or (),
            device=device,
            engine=runs_with,
            adaptive=adaptive,
            **axes,
        )
    where = out or _home(task, prepared.config)
    with (
        redirect_stdout(sys.stderr),  # what the task prints while it is looked at
        opened(where, prepared, fresh=fresh, say=_say) as (store, manifest),
        working(where),
        Progress() as progress,
        Stop() as stop,
    ):
        if others := len(store.rows.keys() - {cell.hash for cell in prepared.cells}):
            _say(
                f"{where} holds {plural(others, 'cell')} of other values, too; what follows is about all of them "
                "(--fresh starts anew, --out takes another directory)"
            )
        progress.stage(f"sweep of {plural(prepared.size, 'cell')}")

        def on_progress(seen: SweepProgress) -> None:
            progress.update(seen.share, _line(seen))
            stop.check()

        found = run_opened(prepared, store, manifest, on_progress=on_progress)
        progress.update(1.0, "")
        result = finish(found)
    if json:
        print(strict_json(result))
    else:
        _print(result)
    if result["cells"]["failed"]:
        return FAILED
    return 0 if any(found.table["trains"]) else BAD_ANSWER


def _axes(
    lr: str | None, warmup: str | None, axis: list[str] | None, set_: list[str] | None, data: Path | None
) -> dict[str, Any]:
    """Everything that varies, and settings of the task that do not: axes of one value, whatever it contains."""
    from lrscope.cli.workspace import settings

    axes: dict[str, Any] = {}
    if lr is not None:
        axes["lr"] = lr
    if warmup is not None:
        axes["warmup"] = warmup
    for pair in axis or []:
        name, equals, values = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"--axis: expected name=values, got {pair!r}")
        if name in axes or name in ("optimizer", "steps", "schedule"):
            raise ValueError(f"--axis: {name} has an option of its own, or is given twice; give it once")
        axes[name] = values
    fixed: dict[str, Any] = {name: [value] for name, value in settings(set_).items()}
    fixed |= {"path": [str(data)]} if data is not None else {}
    twice = fixed.keys() & axes.keys()
    if twice:
        raise ValueError(f"--set: {twice.pop()} is an axis too; give it once")
    return axes | fixed


def _engine(name: str, workers: int | None, within: Any, address: str | None, precision: Any) -> Any:
    from lrscope.sweeps import Processes, Ray, Replicas

    for flag, value, of in (
        ("workers", workers, ("processes",)),
        ("address", address, ("ray",)),
        ("matmul-precision", precision, ("replicas",)),
    ):
        if value is not None and name not in of:
            raise ValueError(f"--{flag}: is for --engine {' or '.join(of)}, got --engine {name}")
    if within is not None and name not in ("processes", "ray"):
        raise ValueError(f"--within: is for --engine processes or ray, got --engine {name}")
    if precision is not None:
        return Replicas(matmul_precision=precision)
    if name == "processes":
        return Processes(workers=workers, within=within or "serial")
    if name == "ray":
        return Ray(address=address, within=within or "serial")
    return name


def _home(task: str, config: dict[str, Any]) -> Path:
    """The directory that the same command finds again, also with more values on its axes."""
    import hashlib
    import re

    from lrscope.cli.workspace import ROOT
    from lrscope.records import strict_json

    slug = re.sub(r"[^A-Za-z0-9]+", "-", f"sweep-{task}").strip("-").lower()
    return ROOT / f"{slug}-{hashlib.sha256(strict_json(config, sort_keys=True).encode()).hexdigest()[:6]}"


def _say(text: str) -> None:
    print(f"lrscope: {text}", file=sys.stderr, flush=True)


def _line(seen: SweepProgress) -> str:
    """Counts, speed, time left and the best cell so far."""
    said = [f"{seen.done:,}/{seen.total:,} cells", f"{seen.running} running", f"{seen.diverged} diverged"]
    said += [f"{seen.failed} failed"] if seen.failed else []
    if seen.rate > 0:
        said.append(f"{seen.rate:,.0f} steps/s")
    if seen.seconds_left is not None:
        said.append(f"{seen.seconds_left:,.0f} s left")
    if seen.best is not None:
        loss = seen.best["eval_loss"] if seen.best["eval_loss"] is not None else seen.best["final_loss"]
        at = f" at lr {seen.best['lr']:.3g}" if "lr" in seen.best else ""
        said.append(f"best loss {loss:.4g}{at}")
    return ", ".join(said)


def _print(result: dict[str, Any]) -> None:
    counts, best = result["cells"], result["best"]
    said = list(result["said"])
    if said and result["trains_below"] is not None:
        said.insert(
            1,
            f"A run trains if its final training loss is below {result['trains_below']:.4g}, a quarter of the way "
            "from the best run back to the first loss.",
        )
    for sentence in [*said, *result["skipped"]]:
        print(sentence)
    if not result["said"]:
        print(f"{counts['finished']} of {counts['all']} runs finished, {counts['diverged']} diverged.")
    if counts["failed"]:
        print(f"{counts['failed']} of {counts['all']} cells raised: {'; '.join(result['errors'][:3])}")
    if best is None and not said:
        print("No cell trained in every seed.")
    if best is not None:
        print(f"best cell, seed {best['again']['seed']}, again and under watch: {result['command']}")
    for what in ("table", "picture", "report"):
        if result[what] is not None:
            print(f"{what}: {result[what]}")
