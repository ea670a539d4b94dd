"""The sections of the page, top to bottom; each returns nothing where it has nothing to say."""

from __future__ import annotations

import math

from lrscope.records import Plan
from lrscope.reports import sentences, verdicts
from lrscope.reports.glossary import GLOSSARY
from lrscope.reports.markup import Markup, join, table, tag
from lrscope.reports.numbers import count, loss, lr, percent, plural, sentence
from lrscope.reports.outcome import SHORT, Outcome, in_words, quantity, short
from lrscope.reports.pictures import Picture
from lrscope.reports.plan_words import has_warmup
from lrscope.reports.reasons import peak_note
from lrscope.reports.snippets import cli_line, optimizer_text, python_snippet
from lrscope.reports.story import Story

_STATUS = {"finished": "finished", "diverged": "diverged", "interrupted": "stopped"}


def head(story: Story) -> Markup:
    plan = story.plan
    facts = [optimizer_text(story), plural(story.steps, "step") if story.steps else None]
    eyebrow = " · ".join(["Learning-rate report", *[fact for fact in facts if fact]])
    ended = sentences.outcome_sentence(story.shown, story.trials)
    lead = [text for text in [sentences.answer(plan) if plan else None, ended] if text]
    if plan and ended and sentences.standing(story.runs, story.trials) == "failed":
        lead = [ended, f"It was: {lead[0][:1].lower()}{lead[0][1:]}"]  # what went wrong comes first
    lead = lead or sentences.missing(story)[:1]
    return tag(
        "header", tag("p", eyebrow, class_="eyebrow"), tag("h1", story.task), tag("p", " ".join(lead), class_="lead")
    )


def missing(story: Story) -> Markup | None:
    found = sentences.missing(story)
    if story.plan is None and not story.runs:
        found = found[1:]  # the first one leads the page
    if not found:
        return None
    return tag("aside", tag("h2", "What is missing here"), tag("ul", [tag("li", text) for text in found]))


def run_this(story: Story) -> Markup | None:
    plan = story.plan
    if plan is None:
        return None
    warmup = f"{count(plan.warmup_steps)} steps" if has_warmup(plan) else "none"
    share = f"{percent(plan.warmup_frac)} of the run" if has_warmup(plan) else "starts at the peak"
    expected = None
    if plan.expected_loss is not None:
        low, high = plan.expected_low, plan.expected_high
        span = f"{loss(low)} – {loss(high)}" if low is not None and high is not None else "from the longest trials"
        expected = _fact("Loss to expect", loss(plan.expected_loss), span)
    facts = tag(
        "dl",
        _fact("Start", lr(plan.start_lr), "first update"),
        _fact("Peak", lr(plan.peak_lr), peak_note(plan)),
        _fact("Warmup", warmup, share),
        _fact("Decay", plan.decay, "to zero"),
        expected,
        class_="facts",
    )
    state = sentences.standing(story.runs, story.trials)
    return tag(
        "section",
        tag(
            "h2",
            {"fine": "Run this", "beaten": "The plan, which another run beat"}.get(state, "The plan that failed"),
        ),
        facts,
        tag("pre", tag("code", python_snippet(plan)), class_="copy", aria_label="Python"),
        tag("pre", tag("code", cli_line(story)), class_="copy", aria_label="Command line"),
        tag("p", "One click on a box selects all of it.", class_="note"),
        tag("h3", "Why"),
        tag("ol", [tag("li", text) for text in sentences.plan_sentences(plan)], class_="why"),
    )


def outcome(story: Story, pictures: list[Picture]) -> Markup | None:
    if not story.runs:
        return None
    words = in_words(quantity(story.runs))
    rows = verdicts.outcomes(story.shown)
    names = list(dict.fromkeys(m for row in rows for m in row.metrics))
    header = [
        "Run",
        f"Final {words}",
        "Best",
        *[in_words(m).capitalize() for m in names],
        "Catapults",
        "Status",
        "Cost",
    ]
    body = [
        [
            Markup(f'<i class="key {row.name if row.name in SHORT else "other"}"></i>') + join(short(row.name)),
            loss(row.final, "diverged" if row.status == "diverged" else "–"),
            f"{loss(row.best, '–')} (step {count(row.best_step)})" if row.best_step is not None else "–",
            *[loss(row.metrics.get(m), "–") for m in names],
            "–" if row.catapults is None else count(row.catapults),
            _status(row),
            count(row.gradients) if row.gradients else "–",
        ]
        for row in rows
    ]
    body = [[Markup(cell) if i == 0 else cell for i, cell in enumerate(line)] for line in body]
    expected = sentences.expectation_sentence(story.plan, story.runs) if story.plan else None
    return tag(
        "section",
        tag("h2", "What happened"),
        table(header, body),
        tag("p", _outcome_note(story), class_="note"),
        tag("p", expected) if expected else None,
        [figure(p) for p in pictures if p.section == "outcome"],
    )


def _outcome_note(story: Story) -> str:
    said = ["Cost in gradient evaluations of one training batch. One seed per run."]
    if {"default", "cosine"} & story.runs.keys():
        said.append("The runs beside the plan are untuned: both use the optimizer's default learning rate.")
    if story.plan is not None and "planned" in story.runs and quantity(story.runs) == "eval_loss":
        said.append(
            "The peak was chosen by this same evaluation set, and the run starts from the first seed of the short "
            "runs, so the number of the plan is a little optimistic against a fresh evaluation set."
        )
    return " ".join(said)


def stability(story: Story, pictures: list[Picture]) -> Markup | None:
    run = story.main
    if run is None:
        return None
    warmup = story.plan.warmup_steps if story.plan else None
    texts = [sentences.headroom_sentence(run), sentences.catapult_sentence(run, warmup)]
    if not any(texts) and not any(p.section == "stability" for p in pictures):
        return None
    return tag(
        "section",
        tag("h2", "Was it stable?"),
        tag("p", " ".join(text for text in texts if text)),
        [figure(p) for p in pictures if p.section == "stability"],
    )


def evidence(story: Story, pictures: list[Picture]) -> Markup | None:
    if not len(story.trials):
        return None
    return tag(
        "section",
        tag("h2", "How the peak and the warmup were chosen" if story.plan else "What the trials say so far"),
        _long_enough(story) if story.plan else tag("p", sentences.so_far(story.trials)),
        _notes(story.plan),
        [figure(p) for p in pictures if p.section == "trials"],
        _not_tried(story.plan),
        _all_trials(story),
    )


def reproduce(story: Story) -> Markup:
    environment = dict(story.plan.environment) if story.plan else {}
    for run in story.runs.values():
        environment = environment or dict(run.environment)
    cost = sentences.cost_sentence(story)
    seeds = {str(run.config["seed"]) for run in story.runs.values() if run.config.get("seed") is not None}
    rows: list[list[object]] = [[key, value] for key, value in environment.items() if key != "command"]
    if seeds:
        rows.append(["seed of the full runs", ", ".join(sorted(seeds))])
    command = environment.get("command")
    command = None if command == "python" else command  # a script of the user's own, which the record does not name
    return tag(
        "section",
        tag("h2", "Cost, and how to reproduce"),
        tag("p", cost) if cost else None,
        tag("p", "The same command again continues or repeats this:") if command else None,
        tag("pre", tag("code", command), class_="copy") if command else None,
        table(["", "Environment"], rows, numeric=2) if rows else None,
        tag(
            "p",
            "All data of this page is embedded in it as JSON (element ",
            tag("code", "lrscope-data"),
            ").",
            class_="note",
        ),
    )


def glossary() -> Markup:
    terms = [join(tag("dt", term), tag("dd", text)) for term, text in GLOSSARY]
    return tag("section", tag("h2", "What the words mean"), tag("dl", terms, class_="glossary"))


def figure(picture: Picture) -> Markup:
    return tag(
        "figure",
        tag("h3", picture.takeaway),
        tag("div", Markup(picture.wide), class_="wide"),
        tag("div", Markup(picture.narrow), class_="narrow"),
        tag("figcaption", tag("b", "How to read. "), picture.how),
        id=f"figure-{picture.key}",
    )


def _fact(name: str, value: str, note: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value), tag("dd", note, class_="sub"))


def _not_tried(plan: Plan | None) -> Markup | None:
    if plan is None or not plan.not_tried:
        return None
    return join(tag("h3", "What was not tried"), tag("ul", [tag("li", sentence(text)) for text in plan.not_tried]))


def _status(row: Outcome) -> str:
    if row.unjudged:
        return f"evaluation {row.unjudged}"
    return _STATUS.get(row.status, row.status) + (f" at {count(row.stopped)}" if row.stopped is not None else "")


def _long_enough(story: Story) -> Markup:
    plan = story.plan
    share = plan.warmup_frac if plan is not None and has_warmup(plan) else 0.0
    verdict, why = sentences.warmup_verdict(story.trials, share)
    word = {"yes": "Yes.", "no": "Maybe not.", "unclear": "The trials cannot say."}[verdict]
    return tag("p", tag("strong", "Warmup long enough? ", word), " ", why)


def _notes(plan: Plan | None) -> Markup | None:
    if plan is None or not plan.notes:
        return None
    return tag("ul", [tag("li", sentence(text)) for text in plan.notes], class_="notes")


def _all_trials(story: Story) -> Markup:
    names = [n for n in story.trials.columns if n not in ("question", "status", "diverged_at")]
    rows = [[*[_cell(name, row.get(name)) for name in names], _ending(row)] for row in story.trials.rows()]
    header = [*[name.replace("_", " ") for name in names], "ended"]
    summary = tag("summary", f"All {plural(len(rows), 'trial')}" if len(rows) != 1 else "The one trial")
    return tag("details", summary, table(header, rows, numeric=0, class_="small"))


def _cell(name: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "diverged"
        if name == "lr":
            return lr(value)
        return percent(value) if name == "warmup_frac" else loss(value)
    return str(value)


def _ending(row: dict) -> str:
    at = row.get("diverged_at")
    return str(row.get("status") or "–") + (f" at {at}" if at is not None else "")
