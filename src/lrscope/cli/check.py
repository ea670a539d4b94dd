"""``lrscope check``: is the learning rate in a checkpoint the one that the schedule says?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lrscope.cli.app import BAD_ANSWER
from lrscope.cli.options import Json, horizon, in_steps
from lrscope.errors import ScheduleError
from lrscope.records import strict_json
from lrscope.schedules import Schedule

if TYPE_CHECKING:
    from lrscope.optimizers.stored import StoredRates


def check(
    checkpoint: Annotated[
        Path,
        Parameter(help="A file of torch.save or Lightning, or a checkpoint directory of the Hugging Face Trainer."),
    ],
    *,
    schedule: Annotated[
        str | None, Parameter(help="As for `lrscope show`; default: the one that ScheduledLR stored in it.")
    ] = None,
    steps: Annotated[
        int | None, Parameter(help="Optimizer updates in the whole run; needed with --schedule.")
    ] = None,
    steps_per_epoch: Annotated[int | None, Parameter(help="Updates per epoch, for lengths in epochs.")] = None,
    tokens_per_step: Annotated[float | None, Parameter(help="Tokens per update, for lengths in tokens.")] = None,
    base_lr: Annotated[float | None, Parameter(help="The peak, if the checkpoint does not hold it.")] = None,
    step: Annotated[int | None, Parameter(help="Updates done; default: as the checkpoint counts them.")] = None,
    trust: Annotated[
        bool, Parameter(help="Also read a file that may run code when it is read, if you trust it.", negative=())
    ] = False,
    json: Json = False,
) -> int:
    """Compare the learning rates stored in a checkpoint with those of the schedule, before resuming from it.

    So are other values that a ScheduledLR drove. Exit code 3 if one is not the schedule's, if scheduler and
    optimizer count different updates, or if the ScheduledLR in it would refuse the schedule given.
    """
    from lrscope.optimizers.stored import read_rates

    if schedule is None:
        given = {"--steps": steps, "--steps-per-epoch": steps_per_epoch, "--tokens-per-step": tokens_per_step}
        for flag in (flag for flag, value in given.items() if value is not None):
            raise ValueError(f"{flag}: is for --schedule, and none was given; the stored one has its own length")
    if step is not None and step < 0:
        raise ValueError(f"--step: expected 0 or more updates, got {step}")
    resolved = None if schedule is None else _schedule(schedule, steps, steps_per_epoch, tokens_per_step)
    found = read_rates(checkpoint, trust=trust)
    results = [_Result(stored, resolved, step, base_lr) for stored in found if resolved or stored.schedules]
    if not results:
        raise ValueError("--schedule: the checkpoint holds none (no ScheduledLR was saved in it); give it as text")
    if all(row.expected is None for result in results for row in result.rows):
        hint = results[0].rows[0].hint if results[0].rows else "no group of it is driven"
        raise ScheduleError(f"{checkpoint.name}: cannot be checked, {hint}")
    good = all(result.good for result in results)
    unchecked = [stored.name for stored in found if not (resolved or stored.schedules)]
    if json:
        optimizers = [result.as_json() for result in results]
        print(strict_json({"good": good, **optimizers[0], "optimizers": optimizers, "unchecked": unchecked}))
        return 0 if good else BAD_ANSWER
    for result in results:
        if len(found) > 1:
            print(f"optimizer {result.stored.name}:")
        for line in result.lines():
            print(line)
    for name in unchecked:
        print(f"optimizer {name}: not checked, no schedule is stored for it")
    print(
        "resuming continues the schedule" if good else "resuming from this checkpoint does NOT continue the schedule"
    )
    return 0 if good else BAD_ANSWER


class _Result:
    """What is said of one optimizer."""

    def __init__(self, stored: StoredRates, given: Schedule | None, step: int | None, base_lr: float | None) -> None:
        from lrscope.optimizers.stored import compare, refused, stored_schedule

        if step is None:
            if not stored.steps:
                raise ValueError("--step: the checkpoint does not say how many updates were done; give their number")
            step = next(iter(stored.steps.values()))
        self.stored, self.step = stored, step
        self.refused = None if given is None else refused(stored, given)
        if given is not None and self.refused is None and stored.schedules:
            given = None  # loading goes on with the stored ones
        self.rows = compare(stored, given, step, base_lr)
        self.schedule = given if given is not None else stored_schedule(stored)
        self.counted = {who: count for who, count in stored.steps.items() if who != "trainer"}
        self.same = len(set(self.counted.values())) <= 1
        self.good = self.same and self.refused is None and all(row.agrees for row in self.rows)

    def lines(self) -> Iterator[str]:
        factor = "" if self.schedule is None else f" the schedule's factor is {self.schedule(self.step):.6g}"
        yield f"after {self.step} updates{factor or ':'}"
        for row in self.rows:
            name = f"group {row.group.index}" + (f" ({row.group.name})" if row.group.name else "")
            name += "" if row.key == "lr" else f" {row.key}"
            if row.expected is None:
                yield f"  {name}: stored {row.stored:.8g}: {row.hint}"
                continue
            verdict = f"NOT the schedule's: {row.hint}"
            if row.agrees:
                verdict = "as it should be" + (f" ({row.hint})" if row.hint else "")
            yield f"  {name}: stored {row.stored:.8g}, expected {row.expected:.8g}: {verdict}"
        if not self.same:
            said = ", ".join(f"the {who} counts {count}" for who, count in self.counted.items())
            yield f"  updates are counted differently: {said}; was the scheduler stepped once per update?"
        if self.refused is not None:
            yield f"  {self.refused}"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.stored.name,
            "step": self.step,
            "counted": self.stored.steps,
            "factor": None if self.schedule is None else self.schedule(self.step),
            "spec": None if self.schedule is None else self.schedule.to_spec(),
            "refused": self.refused,
            "groups": [
                {
                    "index": row.group.index,
                    "name": row.group.name,
                    "key": row.key,
                    "stored": row.stored,
                    "expected": row.expected,
                    "agrees": row.agrees,
                    "hint": row.hint,
                }
                for row in self.rows
            ],
        }


def _schedule(text: str, steps: int | None, per_epoch: int | None, tokens: float | None) -> Schedule:
    if steps is None:
        raise ValueError("--steps: a schedule as text needs the length of the run")
    return in_steps(text, horizon(steps, per_epoch, tokens))
