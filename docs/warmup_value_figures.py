"""Tables and pictures of warmup_value.md, from what benchmarks/warmups.py measured; seconds.

python docs/warmup_value_figures.py     # rewrites the tables between the marks of the page, and docs/images/
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lrscope.reports.figures.style import colour, settings

HERE = Path(__file__).parent
ROWS = HERE.parent / "benchmarks" / "results" / "warmups.jsonl"
PAGE = HERE / "warmup_value.md"
CLOSE = 1.05
LOOKS = {  # colours of Okabe and Ito, told apart with every common colour blindness; marker and dash differ as well
    "none": ("#000000", "o", "-"),
    "linear 5 %": ("#E69F00", "s", (0, (5, 2))),
    "linear 33 %": ("#D55E00", "D", "-"),
    "from critical": ("#0072B2", "^", (0, (3, 1, 1, 1))),
    "catapult": ("#009E73", "v", (0, (1.2, 1.2))),
    "catapult / 4": ("#56B4E9", "P", (0, (5, 1, 1, 1, 1, 1))),
    "GI-AdamW": ("#CC79A7", "X", "-"),
    "RAdam": ("#8A8A8A", "*", (0, (5, 2))),
}
TITLES = {"digits-mlp": "digits, MLP", "digits-cnn": "digits, CNN", "topics": "topics, GPT"}
FAMILIES = {"sgd": "SGD, momentum 0.9", "adamw": "AdamW"}


@dataclass(frozen=True)
class Arm:
    """One warmup on one task: runs by peak, each a list over seeds."""

    runs: dict[float, list[dict[str, Any]]]

    def losses(self, peak: float) -> np.ndarray:
        """Final evaluation loss of each seed; infinite where the run diverged."""
        return np.array([math.inf if r["eval_loss"] is None else r["eval_loss"] for r in self.runs[peak]])

    @property
    def peaks(self) -> list[float]:
        return sorted(self.runs)

    @property
    def means(self) -> np.ndarray:
        return np.array([self.losses(peak).mean() for peak in self.peaks])

    @property
    def best_peak(self) -> float:
        return self.peaks[int(self.means.argmin())]

    def largest(self, limit: float) -> float:
        """Largest peak up to which, from the best one on, every seed ends below ``limit``."""
        last = math.nan
        for peak in self.peaks:
            if (self.losses(peak) < limit).all():
                last = peak
            elif peak > self.best_peak:
                break
        return last

    def width(self, limit: float) -> str:
        """Factor from the smallest to the largest peak around the best whose mean loss is below ``limit``.

        Ends are interpolated on the scale of log peak; a range that ends with the grid gets a sign.
        """
        means, logs = self.means, np.log2(self.peaks)
        if means.min() > limit:
            return "-"
        open_end, ends = "", []
        for way in (-1, 1):
            i = int(means.argmin())
            while 0 <= i + way < len(means) and means[i + way] <= limit:
                i += way
            if not 0 <= i + way < len(means):
                open_end = "≥ "
                ends.append(logs[i])
            elif math.isfinite(means[i + way]):
                share = (limit - means[i]) / (means[i + way] - means[i])
                ends.append(logs[i] + way * share)
            else:
                ends.append(logs[i])
        return f"{open_end}{2 ** (ends[1] - ends[0]):.1f}"


def read() -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], dict[str, Arm]], list[dict[str, Any]]]:
    """Facts of the tasks; arms by task, optimizer and warmup; runs that failed to run."""
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    tasks = {row["task"]: row for row in rows if row["kind"] == "task"}
    key = ("task", "family", "warmup", "peak", "seed")
    runs = list({tuple(row[k] for k in key): row for row in rows if row["kind"] == "run"}.values())
    arms: dict[tuple[str, str], dict[str, Arm]] = {}
    for row in runs:
        if row["status"] != "failed":
            arm = arms.setdefault((row["task"], row["family"]), {}).setdefault(row["warmup"], Arm({}))
            arm.runs.setdefault(row["peak"], []).append(row)
    for found in arms.values():  # a peak with fewer seeds than the others is not compared
        most = max(len(runs) for arm in found.values() for runs in arm.runs.values())
        for name, arm in found.items():
            found[name] = Arm({p: sorted(r, key=lambda r: r["seed"]) for p, r in arm.runs.items() if len(r) == most})
    ordered = {
        (task, family): {
            n: arms[task, family][n] for n in LOOKS if n in arms[task, family] and arms[task, family][n].runs
        }
        for task in TITLES
        for family in FAMILIES
        if (task, family) in arms
    }
    return tasks, ordered, [row for row in runs if row["status"] == "failed"]


def read_grid(task: str, family: str) -> dict[str, Arm]:
    """The dense grid behind benchmarks.md as arms: the planner's shape, which decays right after its warmup."""
    names = {0.0: "none", 0.05: "linear 5 %", 0.33: "linear 33 %"}
    arms = {name: Arm({}) for name in names.values()}
    for line in (ROWS.parent / f"grid_{task}_{family}.jsonl").read_text().splitlines():
        row = json.loads(line)
        if math.log2(row["lr"]).is_integer():  # other peaks are those of plans
            arm = arms[names[row["warmup_frac"]]]
            arm.runs.setdefault(row["lr"], []).append({"eval_loss": row["score"], "seed": row["seed"]})
    return arms


def limit_of(arms: dict[str, Arm], guess: float) -> float:
    """Half way between the best mean loss of all and that of guessing: below it, a run counts as trained."""
    return (min(arm.means.min() for arm in arms.values()) + guess) / 2


def table(arms: dict[str, Arm], guess: float) -> str:
    limit, best = limit_of(arms, guess), min(arm.means.min() for arm in arms.values())
    plain = arms["none"].losses(arms["none"].best_peak)
    lines = [
        "| warmup | largest peak that trains | best peak | best final loss (± standard deviation over seeds) "
        "| against no warmup | within 5 % of its own best | within 5 % of the best of all |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        mine = arm.losses(arm.best_peak)
        change = (mine - plain) / plain.mean()
        against = "" if name == "none" else f"{change.mean():+.1%} ± {_error(change):.1%}"
        edge = "≥ " if arm.largest(limit) == arm.peaks[-1] else ""
        lines.append(
            f"| {name} | {edge}{arm.largest(limit):.3g} | {arm.best_peak:.3g} "
            f"| {mine.mean():.3f} ± {mine.std(ddof=1):.3f} | {against} "
            f"| {arm.width(CLOSE * mine.mean())} | {arm.width(CLOSE * best)} |"
        )
    return "\n".join(lines)


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def savings(arms: dict[tuple[str, str], dict[str, Arm]]) -> str:
    """What measuring saved of the steps of linear 33 %, at the best peak of that and at 4 times it."""
    lines = [
        "| task, optimizer | peak | linear 33 % reaches it after | warmup | reaches it after | its searches cost "
        "| steps saved | final loss against linear 33 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (task, family), found in arms.items():
        if "linear 33 %" not in found:  # the benchmark is not done yet
            continue
        linear = found["linear 33 %"]
        for peak in (linear.best_peak, 4 * linear.best_peak):
            for name in ("from critical", "catapult", "catapult / 4"):
                if name not in found or peak not in found[name].runs or peak not in linear.runs:
                    continue
                before = linear.runs[peak][0]["reach"]
                runs = found[name].runs[peak]
                there = [r["reach"] for r in runs if r["reach"] is not None]
                search = np.mean([r["search"] for r in runs])
                reach = (
                    f"{np.mean(there):.3g}"
                    if len(there) == len(runs)
                    else f"never in {len(runs) - len(there)} of {len(runs)}"
                )
                saved = f"{before - np.mean(there) - search:.0f}" if len(there) == len(runs) else ""
                mine, other = found[name].losses(peak).mean(), linear.losses(peak).mean()
                ended = f"{mine / other - 1:+.1%}" if math.isfinite(mine) and math.isfinite(other) else "diverged"
                lines.append(
                    f"| {TITLES[task]}, {FAMILIES[family]} | {peak:.3g} | {before} | {name} | {reach} | {search:.1f} "
                    f"| {saved} | {ended} |"
                )
    return "\n".join(lines)


def draw(figure: Figure, arms: dict[str, Arm], guess: float) -> None:
    axes = figure.subplots()
    best = min(arm.means.min() for arm in arms.values())
    top, bottom = guess * (guess / best) ** 0.1, best * (best / guess) ** 0.05
    for i, (name, arm) in enumerate(arms.items()):
        shade, marker, dash = LOOKS[name]
        peaks = np.array(arm.peaks) * 2 ** (0.05 * (i - len(arms) / 2))  # side by side, so that none hides another
        losses = np.array([arm.losses(peak) for peak in arm.peaks])
        shown = np.minimum(losses, top)
        axes.plot(
            peaks,
            np.minimum(losses.mean(axis=1), top),
            color=shade,
            marker=marker,
            linestyle=dash,
            label=name,
            markersize=5,
        )
        axes.vlines(peaks, shown.min(axis=1), shown.max(axis=1), color=shade, linewidth=0.8)
    axes.axhline(guess, color=colour("muted"), linewidth=0.8)
    for level, text in ((guess, "guessing "), (top, "beyond, or diverged ")):
        axes.text(
            0.01, level, text, transform=axes.get_yaxis_transform(), va="top", color=colour("muted"), fontsize=9
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.3g}")
    ticks = best * (guess / best) ** np.linspace(0, 1, 6)[:-1]
    axes.set_yticks(ticks, [f"{tick:.2f}" for tick in ticks])
    axes.tick_params(axis="x", labelsize=9)
    axes.minorticks_off()
    axes.set(xlabel="peak learning rate", ylabel="final evaluation loss", ylim=(bottom, top))
    figure.legend(frameon=False, loc="outside right upper", fontsize=9, handlelength=3.2)


def main() -> None:
    for key, value in (settings(compact=True) | {"svg.hashsalt": "warmups"}).items():
        mpl.rcParams[key] = value  # pyright: ignore[reportArgumentType]
    tasks, arms, failed = read()
    parts = {"savings": savings(arms), "failed": _told(failed, arms)}
    for task, family in product(("digits", "topics"), FAMILIES):
        guess = tasks["digits-mlp" if task == "digits" else task]["guess"]
        parts[f"grid-{task}-{family}"] = table(read_grid(task, family), guess)
    for (task, family), found in arms.items():
        guess = tasks[task]["guess"]
        parts[f"{task}-{family}"] = table(found, guess)
        figure = Figure(figsize=(7.8, 4.2), layout="constrained")
        draw(figure, found, guess)
        figure.savefig(HERE / "images" / f"warmup_value_{task}_{family}.svg", metadata={"Date": None})
    text = PAGE.read_text()
    for name, part in parts.items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m, p=part: m[1] + p + m[2], text, flags=re.DOTALL
        )
        print(f"{name}: {'written' if count else 'no place in the page'}\n{part}\n")
    PAGE.write_text(text)


def _told(failed: list[dict[str, Any]], arms: dict[tuple[str, str], dict[str, Arm]]) -> str:
    made = sum(len(runs) for found in arms.values() for arm in found.values() for runs in arm.runs.values())
    lost = [f"{r['task']} {r['family']} {r['warmup']} {r['peak']:g} seed {r['seed']}: {r['error']}" for r in failed]
    return f"{made} runs are in these tables; runs that could not be made: {'; '.join(lost) or 'none'}."


if __name__ == "__main__":
    main()
