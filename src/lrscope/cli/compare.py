"""``lrscope compare``: the loss between two trained networks, and how alike their layers are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from lrscope.cli.options import Data, Device, Json, Seed, Settings, TaskName
from lrscope.cli.options import load_task as _load_task


def compare(
    a: Annotated[Path, Parameter(help="Checkpoint of train, a state dict, or one under model or state_dict.")],
    b: Annotated[Path, Parameter(help="The other one, of the same architecture.")],
    /,
    *,
    task: Annotated[
        TaskName, Parameter(help="Task both were trained on: built-in, file.py:function, module:function.")
    ],
    curve: Annotated[
        Literal["bezier", "chain"] | None, Parameter(help="Also train a curve of low loss between them.")
    ] = None,
    curve_steps: Annotated[int, Parameter(help="Updates of the curve's training.", validator=Number(gte=1))] = 1000,
    curve_lr: Annotated[
        float | None, Parameter(help="Peak rate of it; default 0.03.", validator=Number(gt=0))
    ] = None,
    points: Annotated[int, Parameter(help="Points on the straight line.", validator=Number(gte=3))] = 25,
    batches: Annotated[
        int | None, Parameter(help="Training batches to evaluate on; default: all.", validator=Number(gte=1))
    ] = None,
    measure: Annotated[
        Literal["cka", "svcca", "pwcca", "procrustes"], Parameter(help="Similarity of the layers.")
    ] = "cka",
    layers: Annotated[
        list[str] | None,
        Parameter(name="--layers", help="A name or pattern; repeatable; default: all with weights.", negative=()),
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, Parameter(help="Directory of comparison.json and report.html.")] = None,
    set_: Settings = None,
    data: Data = None,
    device: Device = "cpu",
    json: Json = False,
) -> int:
    """Barrier between two trained networks, a curve around it, and the similarity of their layers.

    Files are read with weights_only=True. Writes comparison.json and report.html.
    """
    from lrscope.cli.failures import trying, working
    from lrscope.cli.progress import Progress
    from lrscope.cli.workspace import ROOT, write_json
    from lrscope.records import strict_json
    from lrscope.reports.comparison import sentences, write_comparison
    from lrscope.similarity.layers import find_layers
    from lrscope.studies import compare as compared
    from lrscope.studies.checkpoints import fitted, read_checkpoint

    files = (a, b)
    found = [read_checkpoint(file) for file in files]
    loaded, _, _ = _load_task(task, set_, data, device, 1, seed)
    names = _names(a, b)
    with trying():
        find_layers(loaded.model(0), layers)  # refuses names that are not there
        states = [fitted(state, loaded, str(file)) for state, file in zip(found, files, strict=True)]
    where = out if out is not None else ROOT / f"compare-{names[0]}-{names[1]}"
    if where.exists() and not where.is_dir():
        raise ValueError(f"--out: {where} is a file; give a directory")
    if (where / "report.html").exists() and not (where / "comparison.json").exists():
        raise ValueError(f"--out: {where} holds the report of something else; give a directory of its own")
    where.mkdir(parents=True, exist_ok=True)
    with working(where, goes_on=False), Progress() as progress:
        stage = ""

        def told(what: str, share: float) -> None:
            nonlocal stage
            if what != stage:
                stage = what
                progress.stage(what)
            progress.update(share)

        result = compared(
            loaded,
            *states,
            curve=curve,
            curve_steps=curve_steps,
            curve_lr=curve_lr,
            num_points=points,
            num_batches=batches,
            measure=measure,
            layers=layers,
            seed=seed,
            names=names,
            on_progress=told,
        )
        write_json(where / "comparison.json", result.to_dict())
        page = write_comparison(result, where / "report.html")
    if json:
        print(strict_json({"comparison": result.to_dict(), "report": str(page)}))
    else:
        for sentence in sentences(result):
            print(sentence)
        print(f"\nreport: {page}")
    return 0


def _names(a: Path, b: Path) -> tuple[str, str]:
    """The files' names without endings, with as many folders as it takes to tell them apart."""
    parts = [path.with_suffix("").parts for path in (a, b)]
    for length in range(1, max(map(len, parts)) + 1):
        one, other = ("-".join(each[-length:]) for each in parts)
        if one != other:
            return one, other
    return a.stem, f"{b.stem}, again"
