"""Claims run, each outcome kept as soon as it is there, so that a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lrscope._version import __version__
from lrscope.papers.claim import Claim, Outcome, plain
from lrscope.records import environment, strict_json, write_json

Engine = Literal["processes", "serial"]


@dataclass(frozen=True)
class Asked:
    """A claim with the settings it is to run with.

    Attributes:
        claim: What is claimed.
        given: Settings that differ from the claim's own.
    """

    claim: Claim
    given: Mapping[str, Any]

    @property
    def file(self) -> str:
        """Where its outcome lies: another setting, version or edit of the paper's code is another file."""
        what = [self.claim.id, plain(self.claim.settings(**self.given)), __version__, _code(self.claim)]
        return f"{self.claim.paper}/{self.claim.name}-{_digest(strict_json(what, sort_keys=True, default=str))}.json"


@dataclass(frozen=True)
class News:
    """What happened to a claim: it began, came out, was found from an earlier run, or raised.

    Attributes:
        id: The claim.
        outcome: What it came to.
        error: The traceback of what it raised.
    """

    id: str
    kind: Literal["began", "done", "kept", "failed"]
    outcome: Outcome | None = None
    error: str = ""


def ask(claims: Iterable[Claim], *, seeds: int | None = None) -> list[Asked]:
    """Claims with their own settings, or with another number of seeds where they have any.

    Raises:
        ValueError: ``seeds`` is below 1.
    """
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds: expected a positive number, got {seeds}")
    asked = []
    for claim in claims:
        usual = claim.defaults.get("seeds")
        given: dict[str, Any] = {}
        if seeds is not None and usual is not None:
            given["seeds"] = seeds if isinstance(usual, int) else tuple(range(seeds))
        asked.append(Asked(claim, given))
    return asked


def reproduce(
    asked: Sequence[Asked], out: Path, *, engine: Engine = "processes", fresh: bool = False
) -> Iterator[News]:
    """Run claims and tell what happens; what ``out`` already knows is not run again.

    Claims of one module run in one process, one after the other, since they share trained networks; modules run side
    by side, one per core, each on one thread. A claim that raises does not stop the others.

    Args:
        asked: What to run.
        out: Directory of the outcomes, one file each, written whole. Stopped at any point, the same call goes on.
        engine: ``"processes"``, or ``"serial"``: all in this process.
        fresh: Run everything again.

    Raises:
        OSError: ``out`` cannot be written.

    Cost: what the claims cost; ``seconds`` of their outcomes.
    """
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[Asked]] = {}
    for one in asked:
        outcome = None if fresh else _kept(out / one.file)
        if outcome is not None:
            yield News(one.claim.id, "kept", one.claim.tell(outcome))
        else:
            groups.setdefault(one.claim.measure.__module__, []).append(one)
    if engine == "serial" or len(groups) == 1:
        for group in groups.values():
            for one in group:
                yield News(one.claim.id, "began")
                yield _run(one.claim, dict(one.given), out / one.file)
    elif groups:
        yield from _side_by_side(groups, out)


def kept(asked: Iterable[Asked], out: Path) -> dict[str, Outcome]:
    """The outcomes that ``out`` knows already, by claim; nothing is run."""
    found = {one.claim: _kept(out / one.file) for one in asked}
    return {claim.id: claim.tell(outcome) for claim, outcome in found.items() if outcome is not None}


def _side_by_side(groups: Mapping[str, Sequence[Asked]], out: Path) -> Iterator[News]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    news: Any = context.Queue()
    with ProcessPoolExecutor(min(cores, len(groups)), context, initializer=_begin, initargs=(news,)) as pool:
        work = {
            pool.submit(_run_group, [(one.claim.id, dict(one.given), str(out / one.file)) for one in group]): name
            for name, group in groups.items()
        }
        told: set[str] = set()
        try:
            while work:
                done, _ = wait(work, timeout=0.2)
                while not news.empty():
                    item: News = news.get()
                    told |= {item.id} if item.kind != "began" else set()
                    yield item
                for future in done:
                    yield from _lost(future, groups[work.pop(future)], told, news)
        except BaseException:  # Ctrl-C, or the caller stopped listening: outcomes that are there stay
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _lost(future: Future[None], group: Sequence[Asked], told: set[str], news: Any) -> Iterator[News]:
    """What a finished group has not told yet: news still on their way, or claims whose process was killed."""
    try:
        future.result()
        error = ""
    except BrokenProcessPool:
        error = "the process that ran it was killed (out of memory?)"
    while missing := {one.claim.id for one in group} - told:
        try:
            item: News = news.get(timeout=2.0)
        except Exception:  # queue.Empty: there is nothing more to come
            for id in sorted(missing):
                told.add(id)
                yield News(id, "failed", error=error or "its process ended without a word")
            return
        told |= {item.id} if item.kind != "began" else set()
        yield item


_news: Any = None


def _begin(news: Any) -> None:
    import signal

    import torch

    global _news
    _news = news
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and stops the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on alone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_group(work: Sequence[tuple[str, dict[str, Any], str]]) -> None:
    from lrscope.papers import claims

    for id, given, file in work:
        _news.put(News(id, "began"))
        _news.put(_run(claims(id)[id], given, Path(file)))


def _run(claim: Claim, given: dict[str, Any], file: Path) -> News:
    try:
        outcome = claim(**given)
    except Exception:
        return News(claim.id, "failed", error=traceback.format_exc())
    # The interpreter's own command line says nothing about how a worker was started.
    versions = {key: value for key, value in environment().items() if key != "command"}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, outcome.to_dict() | {"curves": plain(outcome.curves), "environment": versions})
    return News(claim.id, "done", claim.tell(Outcome.from_dict(json.loads(file.read_text(encoding="utf-8")))))


def _kept(file: Path) -> Outcome | None:
    try:
        return Outcome.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, KeyError):  # never run, or not written by us: run it
        return None


def _code(claim: Claim) -> str:
    """Digest of the sources of the claim's paper, but for what it says of itself and how outcomes are drawn."""
    module = sys.modules[claim.measure.__module__]
    package = module.__name__.split(".")[:3]
    root = Path(str(sys.modules[".".join(package)].__file__))
    files = sorted(root.parent.glob("*.py")) if root.name == "__init__.py" else [root]
    files = [file for file in files if not file.name.startswith(("figures", "__init__"))] or [root]
    return _digest("".join(file.read_text(encoding="utf-8") for file in files))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
