"""Figures of studies: restarts, warmup and distillation, in the layout of the paper they follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrscope.reports.figures.marks import axes, step_axis
from lrscope.reports.figures.style import colour, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Study = Mapping[str, Any]
TONES = ("planned", "default", "cosine", "other", "muted")
DASH: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), "-")
TITLES = {
    "restarts": "With restarts: minima of the cycles",
    "same epochs": "Without restarts: the same epochs",
    "around drops": "Without restarts: around drops of the rate",
}


def paths(study: Study, role: str = "restarts", ax: Axes | None = None) -> Axes:
    """Loss on the straight lines (dashed) and the trained curves (solid) between checkpoints of one role.

    Args:
        study: ``to_dict()`` of a study of restarts.
        role: Which pairs.
        ax: Where to draw.
    """
    ax = axes(ax)
    pairs = [pair for pair in study["pairs"] if pair["role"] == role]
    for pair, tone in zip(pairs, TONES, strict=False):
        ends = " – ".join(f"{step / study['epoch']:.3g}" for step in pair["steps"])
        line = pair["line"]["profile"]
        ax.plot(line["t"], line["values"][pair["line"]["of"]], color=colour(tone), ls=(0, (4, 2)), lw=1.6)
        label = f"epochs {ends}: barrier {_height(pair['line'])}"
        if pair["curve"] is not None:
            curve = pair["curve"]["barrier"]["profile"]
            ax.plot(curve["t"], curve["values"][pair["line"]["of"]], color=colour(tone), lw=1.8)
            label += f", on the curve {_height(pair['curve']['barrier'])}"
        ax.plot([], [], color=colour(tone), lw=2.2, label=label)
    ax.set_title(TITLES[role])
    ax.set_xlabel("place on the path (dashed: straight, solid: trained curve)")
    ax.set_ylabel("training loss")
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return ax


def restarts_figure(study: Study) -> Figure:
    """Learning rates and losses of both runs; a panel of paths per role; similarity of checkpoints by layer."""
    roles = list(dict.fromkeys(pair["role"] for pair in study["pairs"]))
    figure, (top, *middle, last) = panels(2 + len(roles), 3.4)
    for (name, run), tone, dash in zip(study["runs"].items(), TONES, DASH, strict=False):
        rate = run["columns"]["lr"]
        label = "restarts" if name == "restarts" else "two drops"
        top.plot(rate["step"], rate["value"], color=colour(tone), ls=dash, lw=1.6, label=label)
    top.set_title("Learning rate of both runs")
    top.set_ylabel("learning rate")
    step_axis(top, False)
    top.legend(frameon=False)
    for ax, role in zip(middle, roles, strict=True):
        paths(study, role, ax)
    low = min(ax.get_ylim()[0] for ax in middle)
    high = max(ax.get_ylim()[1] for ax in middle)
    for ax in middle:  # one scale, or a flat curve would look like a hill
        ax.set_ylim(low, high)
    _alike(study, last)
    return figure


def _alike(study: Study, ax: Axes) -> None:
    """Similarity of two checkpoints by layer, the widest pair of each role."""
    roles = dict.fromkeys(pair["role"] for pair in study["pairs"])
    alike: Mapping[str, Any] = study["pairs"][0]["similarity"]
    for role, tone, dash, marker in zip(roles, TONES, DASH, "os^", strict=False):
        of_role = [pair for pair in study["pairs"] if pair["role"] == role]
        pair = max(of_role, key=lambda p: p["steps"][1] - p["steps"][0])
        ends = " – ".join(f"{step / study['epoch']:.3g}" for step in pair["steps"])
        values = [found[0] for found in pair["similarity"].values()]
        ax.plot(values, color=colour(tone), ls=dash, marker=marker, ms=5, label=f"{role}, epochs {ends}")
    ax.plot([found[1] for found in alike.values()], color=colour("muted"), ls=":", lw=1.2, label="unrelated data")
    _layers(ax, list(alike))
    ax.set_ylim(0, 1.02)
    ax.set_title("Similarity of the two checkpoints, by layer")
    ax.set_ylabel(study["measure"])
    ax.legend(frameon=False, fontsize="small")


def by_layer(study: Study, what: str = "similarity", ax: Axes | None = None) -> Axes:
    """Similarity of each layer to its start after the warmup, or how far its weights moved; a line per run.

    Args:
        study: ``to_dict()`` of a study of warmup.
        what: ``"similarity"`` or ``"movement"``.
        ax: Where to draw.
    """
    ax = axes(ax)
    names = study["layers"]
    for (run, found), tone, dash, marker in zip(study[what].items(), TONES, DASH, "osD^v", strict=False):
        if not found:
            continue
        values = [found[n][0] if what == "similarity" else found[n] for n in names]
        ax.plot(values, color=colour(tone), ls=dash, marker=marker, ms=5, lw=1.6, label=run)
    if what == "similarity":
        first = next(found for found in study[what].values() if found)
        ax.plot([first[n][1] for n in names], color=colour("muted"), ls=":", lw=1.2, label="unrelated data")
        ax.set_ylim(0, 1.02)
        ax.set_title(f"Each layer after {study['warmup_steps']} steps, compared with its start")
        ax.set_ylabel(study["measure"])
    else:
        ax.set_title("How far the weights moved meanwhile")
        ax.set_ylabel("distance / norm at the start")
    _layers(ax, names)
    ax.legend(frameon=False, fontsize="small")
    return ax


def warmup_figure(study: Study) -> Figure:
    """Training loss, learning rate, similarity by layer, movement by layer."""
    figure, (loss, rate, similarity, movement) = panels(4, 3.0)
    for (name, run), tone, dash in zip(study["runs"].items(), TONES, DASH, strict=False):
        columns = run["columns"]
        score = next((f"{k} {v:.3g}" for k, v in study["scores"][name].items() if k != "eval_loss"), "")
        label = f"{name}: {'diverged' if run['status'] == 'diverged' else score}"
        step, value = np.array(columns["loss"]["step"]), np.array(columns["loss"]["value"])
        share = step / max(run["config"]["steps"], 1)
        window = max(len(value) // 50, 1)
        smooth = np.convolve(value, np.ones(window) / window, "valid")
        loss.plot(share[window - 1 :], smooth, color=colour(tone), ls=dash, lw=1.6, label=label)
        rate.plot(np.array(columns["lr"]["step"]) / run["config"]["steps"], columns["lr"]["value"],
                  color=colour(tone), ls=dash, lw=1.6)  # fmt: skip
    loss.set_yscale("log")
    loss.set_title("Training loss, averaged over a fiftieth of the run")
    loss.set_ylabel("training loss")
    loss.legend(frameon=False, fontsize="small")
    rate.set_title("Learning rate")
    rate.set_ylabel("learning rate")
    for ax in (loss, rate):
        ax.set_xlabel("share of the run")
    by_layer(study, "similarity", similarity)
    by_layer(study, "movement", movement)
    return figure


def difference(study: Study, ax: Axes | None = None) -> Axes:
    """How much more like the teacher distilled students are than others, layer by layer.

    Args:
        study: ``to_dict()`` of a study of distillation.
        ax: Where to draw.
    """
    values = np.array(study["difference"], dtype=np.float64)
    reach = max(float(np.nanmax(np.abs(values))), 1e-3)
    return _matrix(axes(ax), study, values, "PuOr_r", -reach, reach, "Difference, mean over seeds", signed=True)


def distillation_figure(study: Study) -> Figure:
    """Similarity to the teacher of distilled students, of others, the difference, and its size by student layer."""
    figure, (one, other, both, bars) = panels(4, 3.4)
    for ax, kind, title in ((one, "distilled", "Distilled students"), (other, "alone", "Students alone")):
        values = np.mean(np.array(study["matrices"][kind], dtype=np.float64), axis=0)
        scores = study["scores"][kind]
        name = next((k for k in scores if k != "eval_loss"), "eval_loss")
        text = f"{title} ({name} {np.mean(scores[name]):.3g})"
        _matrix(ax, study, values, "Blues", 0.0, 1.0, text)
    difference(study, both)
    names, place = study["student_layers"], np.arange(len(study["student_layers"]))
    bars.bar(place, [study["by_layer"][n] for n in names], width=0.6, color=colour("planned"), label="measured")
    noise = [study["noise_by_layer"][n] for n in names]
    bars.plot(place, noise, "_", ms=26, mew=2, color=colour("default"), label="between seeds alone")
    _layers(bars, names)
    bars.set_title("Absolute difference by student layer")
    bars.set_ylabel(study["measure"])
    bars.legend(frameon=False, fontsize="small")
    return figure


def layer_matrix(ax: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], **look: Any) -> Axes:
    """A heat map with layers on both sides, and the numbers in it where there is room for them."""
    signed = look.pop("signed", False)
    image = ax.imshow(values, aspect="auto", **look)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    every_row, every_column = -(-len(rows) // 16), -(-len(columns) // 12)
    ax.set_yticks(range(0, len(rows), every_row), rows[::every_row])
    ax.set_xticks(range(0, len(columns), every_column), columns[::every_column], rotation=40, ha="right")
    if len(rows) <= 10 and len(columns) <= 10:
        for (i, j), value in np.ndenumerate(values):
            if not np.isfinite(value):
                continue
            place = float(np.asarray(image.norm(value)))
            dark = abs(place - 0.5) * 2 if signed else place
            text = f"{value:+.2f}" if signed else f"{value:.2f}"
            tone = "white" if dark > 0.62 else colour("ink")
            ax.text(j, i, text, ha="center", va="center", fontsize="small", color=tone)
    else:
        figure = ax.get_figure()
        if figure is not None:
            figure.colorbar(image, ax=ax)
    return ax


def _matrix(
    ax: Axes,
    study: Study,
    values: np.ndarray,
    cmap: str,
    low: float,
    high: float,
    title: str,
    *,
    signed: bool = False,
) -> Axes:
    rows, columns = study["student_layers"], study["teacher_layers"]
    layer_matrix(ax, values, rows, columns, cmap=cmap, vmin=low, vmax=high, signed=signed)
    ax.set_title(title)
    ax.set_ylabel("student layer")
    ax.set_xlabel(f"teacher layer ({study['measure']})")
    return ax


def _layers(ax: Axes, names: Sequence[str]) -> None:
    every = -(-len(names) // 14)
    turned = max(map(len, names)) * len(names) > 60
    ax.set_xticks(range(0, len(names), every), names[::every], **({"rotation": 35, "ha": "right"} if turned else {}))
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_xlabel("layer, input to output")


def _height(barrier: Mapping[str, Any]) -> str:
    return "infinite" if barrier["height"] is None else f"{barrier['height']:.3g}"


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels, two to a row, in the style of reports."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        for name, value in settings(compact=True).items():
            mpl.rcParams[name] = value  # pyright: ignore[reportArgumentType]
        rows = -(-count // 2)
        figure = Figure(figsize=(10.4, height * rows), layout="constrained", facecolor="white")
        grid = figure.subplots(rows, 2, squeeze=False).ravel().tolist()
    for spare in grid[count:]:
        spare.remove()
    return figure, grid[:count]
