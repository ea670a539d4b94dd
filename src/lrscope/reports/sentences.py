"""Every sentence that the report and the command line say about a plan and its runs."""

from __future__ import annotations

from collections.abc import Mapping

from lrscope.records import Run, Table
from lrscope.reports.missing import cost_sentence, missing
from lrscope.reports.plan_words import answer, plan_sentences
from lrscope.reports.trial_words import reach_sentence, so_far, warmup_verdict
from lrscope.reports.verdicts import (
    catapult_sentence,
    expectation_sentence,
    headroom_sentence,
    outcome_sentence,
    standing,
)

__all__ = [
    "answer",
    "catapult_sentence",
    "cost_sentence",
    "expectation_sentence",
    "headroom_sentence",
    "missing",
    "outcome_sentence",
    "outcome_sentences",
    "plan_sentences",
    "reach_sentence",
    "so_far",
    "standing",
    "warmup_verdict",
]


def outcome_sentences(runs: Mapping[str, Run], trials: Table | None = None) -> list[str]:
    """How the planned run ended against the others, whether it was stable, and its catapults.

    Args:
        runs: Full runs by name: ``planned``, ``default``, ``cosine``.
        trials: Short runs of the plan; they say how far the seed alone moves a score.
    """
    said = [outcome_sentence(runs, trials)]
    if (run := runs.get("planned")) is not None:
        said += [headroom_sentence(run), catapult_sentence(run)]
    return [text for text in said if text]
