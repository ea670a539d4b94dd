"""The gallery of schedules: pictures, formulas, sources and texts from the code, words from gallery.toml.

Run by ``conf.py`` before every build. An entry's ``code`` is executed, and every schedule that it assigns to a name
is drawn; how it works is told in its docstring's own words. So the page cannot show what the code does not do.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError
from lrscope.reports.figures.style import COLOURS, colour
from lrscope.reports.preview import plot_schedule
from lrscope.reports.svg import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
WIDTH = 460  # CSS pixels; few, so that the text can still be read on a phone
ALONE, STACKED = 210, 150  # heights of a panel
LINES = (("planned", "-"), ("default", (0, (5, 2))), ("cosine", (0, (1.2, 1.2))), ("other", (0, (6, 2, 1, 2))))
USED = ("ink", "muted", "grid", "rule", *(name for name, _ in LINES))
LONGEST = 90  # characters of a text that is shown
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|References):\n", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """What ``gallery.toml`` says of one schedule.

    Attributes:
        name: The heading, in users' words.
        covers: What it is about: names in ``lrscope.schedules``, or methods such as ``"Schedule.shift"``.
        code: Statements; every schedule that they assign is drawn under its name.
        when, misleads: One or two sentences.
        steps: How many are drawn.
        text: A shorter text than ``to_text`` writes, by the name of the schedule.
        tells: Whose docstrings are quoted; those of ``covers`` unless given.
        built_of: Whose formulas are quoted besides.
        log: Whether the vertical axis is logarithmic.
        holds: Expressions on what ``code`` assigns that are true; the numbers in ``misleads`` are checked by them.
    """

    name: str
    covers: list[str]
    code: str
    when: str
    misleads: str
    steps: int = 1200
    text: dict[str, str] = field(default_factory=dict)
    tells: list[str] = field(default_factory=list)
    built_of: list[str] = field(default_factory=list)
    log: bool = False
    holds: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return "gallery-" + self.covers[0].split(".")[-1].lower().replace("_", "-")


@dataclass(frozen=True)
class Section:
    """Entries under one heading; ``listed``: whether they are in the table at the top."""

    name: str
    entries: list[Entry]
    intro: str = ""
    listed: bool = True


def load(path: Path = HERE / "gallery.toml") -> list[Section]:
    sections = tomllib.loads(path.read_text(encoding="utf-8"))["section"]
    return [Section(**{**s, "entries": [Entry(**entry) for entry in s["entries"]]}) for s in sections]


def run(entry: Entry) -> dict[str, Any]:
    """What the entry's code assigns, by name."""
    given = {name: getattr(lrs, name) for name in lrs.__all__} | {"np": np}
    names = dict(given)
    exec(entry.code, names)
    return {name: value for name, value in names.items() if name not in given and name != "__builtins__"}


def schedules(assigned: Mapping[str, Any]) -> dict[str, lrs.Schedule]:
    """The schedules among what was assigned; those of a dict, by group key, under their keys."""
    found: dict[str, lrs.Schedule] = {}
    for name, value in assigned.items():
        inner = value.schedule if isinstance(value, lrs.Replanned) else value
        several = inner.items() if isinstance(inner, dict) else [(name, inner)]
        found |= {key: s for key, s in several if isinstance(s, lrs.Schedule)}
    return found


def panels(entry: Entry) -> dict[str, dict[str, NDArray[np.float64]]]:
    """What is drawn: curves by name, in panels by the label of their vertical axis."""
    assigned = run(entry)
    listening = [value for value in assigned.values() if isinstance(value, lrs.FeedbackSchedule)]
    if listening:
        losses = assigned["loss"]
        return {"factor": {name: listen(listening[0], loss) for name, loss in losses.items()}, "loss": losses}
    curves = {name: sample(s, entry.steps) for name, s in schedules(assigned).items()}
    by_key = [value for value in assigned.values() if isinstance(value, dict)]
    if by_key:
        return {key: {key: curves[key]} for key in by_key[0]}
    return {"factor": curves}


def sample(schedule: lrs.Schedule, steps: int) -> NDArray[np.float64]:
    """The values at ``steps`` steps, or as far as it may be run."""
    return schedule.values(min(steps, schedule.num_steps + 1) if isinstance(schedule, lrs.Bounded) else steps)


def listen(schedule: lrs.FeedbackSchedule, losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values of a schedule that is told one loss after each update."""
    state, values = schedule.init(), []
    for step, loss in enumerate(losses):
        values.append(schedule.value(state, step))
        state = schedule.update(state, step, {"loss": float(loss)})
    return np.array(values)


def texts(entry: Entry) -> dict[str, str | None]:
    """The text of each schedule; ``None`` for one that has none."""

    def text(schedule: lrs.Schedule) -> str | None:
        try:
            return schedule.to_text()
        except ScheduleError:
            return None

    return {name: entry.text.get(name) or text(s) for name, s in schedules(run(entry)).items()}


def documented(name: str) -> Any:
    """The object called ``name`` in ``lrscope.schedules``."""
    value: Any = lrs
    for part in name.split("."):
        value = getattr(value, part)
    return value


def told(name: str, section: str = "") -> str:
    """The docstring's own words before its first section, or those of one section."""
    parts = _SECTION.split(inspect.getdoc(documented(name)) or "")
    if not section:
        return parts[0].strip()
    return textwrap.dedent(dict(zip(parts[1::2], parts[2::2], strict=True)).get(section, "")).strip()


def formulas(name: str) -> list[str]:
    """The ``.. math::`` blocks of a docstring, as they stand there."""
    return [m.rstrip() for m in re.findall(r"^\.\. math::.*\n(?:(?:[ \t]+.*)?\n)*", told(name) + "\n", re.MULTILINE)]


def svg(entry: Entry) -> str:
    drawn = panels(entry)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(drawn), squeeze=False, sharex=True).flat
        for i, (ax, (label, curves)) in enumerate(zip(axes, drawn.items(), strict=True)):
            ax.set_prop_cycle(color=[colour(name) for name, _ in LINES], linestyle=[dash for _, dash in LINES])
            plot_schedule(curves, ax, yscale="log" if entry.log and i == 0 else "linear", ylabel=label)
            ax.autoscale(i > 0, axis="y")  # a momentum moves little, and far from 0
            ax.grid(alpha=1.0)
            ax.label_outer()
            if len(curves) > 1:  # above the axes, where no curve can be
                ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderpad=0)

    height = ALONE if len(drawn) == 1 else STACKED * len(drawn)
    names = [name for curves in drawn.values() for name in curves]
    alt = f"{entry.name}: {', '.join(names)} over {entry.steps} steps"
    return render(draw, entry.anchor, WIDTH, height, compact=True, alt=alt)


def command(text: str, schedule: lrs.Schedule, steps: int) -> str:
    """What shows the picture in a terminal; a horizon must not be shorter than the schedule."""
    most = schedule.num_steps if isinstance(schedule, lrs.Bounded) else max(steps, schedule.num_steps or 0)
    return f'$ lrscope show "{text}" --steps {most}'


def page() -> str:
    """The gallery in MyST: a table, and the entries below it."""
    sections = load()
    entries = [f"## {s.name}\n\n{s.intro}\n\n" + "\n".join(map(_entry, s.entries)) for s in sections]
    return "\n".join([_style(), _index([e for s in sections if s.listed for e in s.entries]), *entries])


def write(folder: Path = HERE / "_generated") -> Path:
    """Write the page; a file that would not change is left alone, so Sphinx does not read it again."""
    folder.mkdir(exist_ok=True)
    out, text = folder / "gallery.md", page()
    if not out.exists() or out.read_text(encoding="utf-8") != text:
        out.write_text(text, encoding="utf-8")
    return out


def _entry(entry: Entry) -> str:
    found, text = schedules(run(entry)), texts(entry)
    parts = [f"({entry.anchor})=\n### {entry.name}\n"]
    parts.append(_block("{eval-rst}", "\n\n".join(_said(entry))))
    parts.append(_block("{raw} html", f'<figure class="gallery">{svg(entry)}</figure>'))
    parts.append(_block("python", entry.code.strip()))
    shown = {name: t for name, t in text.items() if t is not None and len(t) <= LONGEST}
    if shown:
        parts.append(_block("console", "\n".join(command(t, found[n], entry.steps) for n, t in shown.items())))
    for without, why in (
        ([n for n, t in text.items() if t is None], "no text; `.to_spec()` stores it"),
        ([n for n, t in text.items() if t is not None and n not in shown], "a long text; `.to_text()` writes it"),
    ):
        if without:
            parts.append(f"{' and '.join(f'`{n}`' for n in without)}: {why}.\n")
    parts.append(f"**When to use it.** {entry.when.strip()}\n")
    parts.append(f"**When it misleads.** {entry.misleads.strip()}\n")
    if sources := _sources(entry.covers) or _sources(entry.built_of):
        parts.append(_block("{eval-rst}", "\n\n".join(f"*Source:* {source}" for source in sources)))
    return "\n".join(parts)


def _sources(names: list[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, (told(name, "References") for name in names))))


def _said(entry: Entry) -> list[str]:
    said = [told(name) for name in entry.tells or entry.covers]
    for name in entry.built_of:
        said += [f"``{name}`` is", *formulas(name)]
    return said


def _index(entries: list[Entry]) -> str:
    rows = ["| schedule | | needs the run's length | rises again | text |", "|---|---|---|---|---|"]
    for entry in entries:
        curve = next(iter(next(iter(panels(entry).values())).values()))
        found, text = schedules(run(entry)), next(iter(texts(entry).values()), None)
        picture = lrs.sparkline(curve, width=20).replace(" ", "\N{NO-BREAK SPACE}")
        needed = needs_length(next(iter(found.values()), None))
        short = f"`{text}`" if text is not None and len(text) <= 60 else ""
        cells = (f"[{entry.name}](#{entry.anchor})", f"`{picture}`", needed, rises_again(curve), short)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def needs_length(schedule: lrs.Schedule | None) -> str:
    """Whether one must know how long the run will be; a warmup, which ends at its peak, has a length of its own."""
    if schedule is None or schedule.num_steps is None:
        return "no"
    return "no, its own" if schedule(schedule.num_steps) == 1.0 else "yes"


def rises_again(values: NDArray[np.float64]) -> str:
    falls = np.flatnonzero(np.diff(values) < 0)
    return "yes" if falls.size and (np.diff(values)[falls[0] :] > 1e-9).any() else "no"


def _block(kind: str, content: str) -> str:
    return f"```{kind}\n{content}\n```\n"


def _style() -> str:
    """Colours of the figures in both modes of the page."""
    light, dark = ("".join(f"--{name}:{COLOURS[name][mode]};" for name in USED) for mode in (0, 1))
    rules = [
        f".gallery{{{light}margin:1em 0}}",
        f"body[data-theme=dark] .gallery{{{dark}}}",
        f"@media(prefers-color-scheme:dark){{body:not([data-theme=light]) .gallery{{{dark}}}}}",
        f".gallery svg{{width:{WIDTH}px;max-width:100%;height:auto;font-family:var(--font-stack,sans-serif)}}",
    ]
    return _block("{raw} html", f"<style>{''.join(rules)}</style>")
