"""Progress on stderr: a live line in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class Progress:
    """Stages with a share done. Results never come through here.

    Args:
        plain_every: Seconds between lines when stderr is no terminal.
    """

    def __init__(self, *, plain_every: float = 5.0) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._live = None
        self._plain_every, self._said, self._task = plain_every, 0.0, None
        self._stage, self._started = "", time.monotonic()

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._live = Bars(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[said]}"),
                console=self._console,
                transient=False,
            )
            self._live.start()
        return self

    def stage(self, name: str) -> None:
        """A new piece of work begins."""
        self._stage, self._said, self._started = name, 0.0, time.monotonic()
        if self._live is not None:
            if self._task is not None:
                self._live.update(self._task, completed=1.0)
            self._task = self._live.add_task(name, total=1.0, said="")
        else:
            print(f"lrscope: {name}", file=sys.stderr, flush=True)
            self._said = time.monotonic()

    def update(self, share: float, said: str = "") -> None:
        """``share`` of the stage is done, in [0, 1]; ``said`` is shown beside it."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=min(share, 1.0), said=said)
        elif time.monotonic() - self._said > self._plain_every:
            spent = time.monotonic() - self._started
            print(f"lrscope: {self._stage}: {share:.0%} after {spent:.0f} s  {said}", file=sys.stderr, flush=True)
            self._said = time.monotonic()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._console.print(text, highlight=False)
        else:
            print(f"lrscope: {text}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            if self._task is not None and kind is None:
                self._live.update(self._task, completed=1.0, said="")
            self._live.stop()


class Stop:
    """Turns the first Ctrl-C into a clean stop between two updates; the second one stops at once.

    Use as a context around a training, and call :meth:`check` where stopping is safe.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Stop:
        import signal
        import threading

        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("lrscope: stopping after this update; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    def check(self) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        import signal

        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
