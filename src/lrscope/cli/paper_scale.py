"""``lrscope reproduce --scale paper``: claims in the papers' own settings, on the user's data and device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrscope.cli.app import BAD_ANSWER
from lrscope.cli.options import check_device
from lrscope.records import strict_json

if TYPE_CHECKING:
    from lrscope.papers.scale import Experiment
    from lrscope.records.outcome import Outcome


def at_paper_scale(
    names: tuple[str, ...], *, data: Path | None, device: str, num_seeds: int, out: Path, estimate: bool, json: bool
) -> int:
    """Run the experiments of ``names``, or say what they would cost.

    Stopped at any point, the same command goes on. Exit code 3 if a claim was not reproduced.
    """
    found = chosen(names)
    if data is None:
        needs = "; ".join(dict.fromkeys(one.data for one in found))
        raise ValueError(f"--data: claims at the papers' scale train on data of your own; give {needs}")
    if num_seeds < 1:
        raise ValueError(f"--seeds: expected a positive number, got {num_seeds}")
    check_device(device)
    seeds = tuple(range(num_seeds))
    if estimate:
        return _print_prices(found, data, seeds, device, json)
    outcomes = [_run(one, data, out, seeds, device) for one in found]
    if json:
        print(strict_json({"outcomes": [outcome.to_dict() for outcome in outcomes]}))
    else:
        for outcome in outcomes:
            _print(outcome)
    return 0 if all(outcome.verdict == "reproduced" for outcome in outcomes) else BAD_ANSWER


def chosen(names: tuple[str, ...]) -> list[Experiment]:
    """Experiments of papers and claims.

    Raises:
        ValueError: No such claim, or none of it at this scale.
    """
    from lrscope.papers import claims
    from lrscope.papers.scale import EXPERIMENTS

    found = [EXPERIMENTS[id] for id in claims(*names) if id in EXPERIMENTS]
    for name in names:
        if not any(one.id == name or one.id.startswith(f"{name}/") for one in found):
            raise ValueError(f"--scale paper: {name} has no such setting; there are {', '.join(EXPERIMENTS)}")
    return found


def _run(one: Experiment, data: Path, out: Path, seeds: tuple[int, ...], device: str) -> Outcome:
    from lrscope.cli.failures import working
    from lrscope.cli.progress import Progress, Stop

    where = out / "paper-scale" / one.id
    stage = ""
    with working(where), Progress() as progress, Stop() as stop:

        def told(training: Any, state: Any) -> None:
            nonlocal stage
            if training.name != stage:
                stage = training.name
                progress.stage(f"{one.id}: {stage}")
            progress.update((state.step + 1) / state.steps, f"loss {state.loss:.4g}")
            stop.check()

        return one.run(data, where, seeds=seeds, device=device, on_step=told)


def _print(outcome: Outcome) -> None:
    from lrscope.reports.claims_words import measured

    print(f"{outcome.id}, at the paper's scale: {outcome.verdict}")
    print(f"  {outcome.statement}")
    says = {True: "yes", False: "no", None: "open"}
    for words, good in outcome.holds.items():
        print(f"  {says[good]}: {words}")
    for line in measured(outcome).splitlines():
        print(f"  {line}")


def _print_prices(found: list[Experiment], data: Path, seeds: tuple[int, ...], device: str, json: bool) -> int:
    from lrscope.cli.progress import Progress

    rows = []
    with Progress() as progress:
        progress.stage("a few steps of each")
        for i, one in enumerate(found):
            price = one.price(data, seeds=seeds, device=device)
            rows.append(
                {"id": one.id, "hours": price.hours, "flops": price.flops, "runs": price.runs, "steps": price.steps}
            )
            progress.update((i + 1) / len(found), one.id)
    if json:
        print(strict_json({"device": device, "estimates": rows}))
        return 0
    for row in rows:
        print(
            f"{row['id']}: about {row['hours']:.3g} hours on {device} ({row['runs']} runs, {row['steps']:,} steps, "
            f"{row['flops']:.2g} floating-point operations)"
        )
    return 0
