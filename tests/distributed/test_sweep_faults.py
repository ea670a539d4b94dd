"""Sweeps that are killed: each cell is there once in the end, with the value of an undisturbed sweep."""

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from lrscope.sweeps import Processes, read
from lrscope.sweeps import backlog as backlog_module
from slow_cells import CELLS, children, outcomes, slow_sweep

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks processes up in /proc")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return outcomes(slow_sweep(tmp_path_factory.mktemp("sweep") / "s", "serial"))


def assert_whole(out, undisturbed):
    found = read(out)
    assert outcomes(found) == undisturbed
    assert sorted(p.name for p in (out / "cells").iterdir()) == sorted(f"{cell}.json" for cell in found.cells)
    assert len(found.cells) == CELLS
    assert not (out / "quarantine").exists()


def kill_workers(times, seed, stop):
    """Kill a random worker process of ours at random moments, some before they are ready."""
    draw = random.Random(seed)
    while times and not stop.wait(draw.uniform(0.0, 0.9)):
        workers = workers_of_ours()
        if workers:
            os.kill(draw.choice(workers), signal.SIGKILL)
            times -= 1
            stop.wait(0.5)
    return times


def workers_of_ours():
    """Processes that a sweep of this one started: other tests may have left a server of their own beside them."""
    return [pid for pid in children(os.getpid()) if "lrscope.sweeps.worker" in command_of(pid)]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it ended meanwhile
        return ""


def disturbed_by(times, seed, out, **more):
    """A sweep on two workers, some of which are killed; how many were not."""
    stop, left = threading.Event(), []
    killer = threading.Thread(target=lambda: left.append(kill_workers(times, seed, stop)))
    killer.start()
    try:
        slow_sweep(out, Processes(workers=2), **more)
    finally:
        stop.set()
        killer.join()
    return left[0]


def test_workers_killed_at_random_moments(tmp_path, undisturbed):
    assert disturbed_by(2, 0, tmp_path / "s") < 2
    assert_whole(tmp_path / "s", undisturbed)
    assert not workers_of_ours()


@pytest.mark.slow
def test_workers_killed_at_fifty_random_moments(tmp_path, undisturbed):
    done, trial = 0, 0
    while done < 50:
        out = tmp_path / f"s{trial}"
        done += 5 - disturbed_by(5, trial, out)
        assert_whole(out, undisturbed)
        trial += 1


def kill_driver(out, engine, delay):
    """Start a driver, kill it after so many seconds; whether it was still at work."""
    process = multiprocessing.get_context("fork").Process(target=slow_sweep, args=(out, engine))
    process.start()
    process.join(delay)
    workers = children(process.pid)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive, workers


def gone(pids):
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_a_driver_killed_at_random_moments_goes_on(tmp_path, undisturbed, kills):
    draw, trial = random.Random(kills), 0
    while kills > 0:
        out = tmp_path / f"s{trial}"
        while kills > 0 and kill_driver(out, "serial", draw.uniform(0.05, 0.8))[0]:
            kills -= 1
        slow_sweep(out, "serial")
        assert_whole(out, undisturbed)
        trial += 1


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_driver_of_workers_killed_takes_them_along_and_goes_on(tmp_path, undisturbed, kills):
    draw = random.Random(1)
    for _ in range(kills):
        _, workers = kill_driver(tmp_path / "s", Processes(workers=2), draw.uniform(2.0, 8.0))
        deadline = time.monotonic() + 20
        while not gone(workers):
            assert time.monotonic() < deadline, "workers outlived their driver"
            time.sleep(0.1)
    slow_sweep(tmp_path / "s", "serial")
    assert_whole(tmp_path / "s", undisturbed)


@pytest.mark.slow
def test_a_cell_that_kills_its_worker_is_failed_and_harms_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(backlog_module, "LIVES", 2)
    found = slow_sweep(tmp_path / "s", Processes(workers=1), victim=[2], lr=[0.1], warmup=[0], seeds=4)
    assert found.table["status"] == ["finished", "finished", "failed", "finished"]
    assert "died each time it was tried, the last time with exit code 9" in found.failed["error"][0]


def test_a_second_driver_is_refused_while_the_first_is_at_work(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=slow_sweep, args=(tmp_path / "s", "serial"))
    process.start()
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "s" / "sweep.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(ValueError, match=rf"another sweep \(process {process.pid} on .*\) is writing to"):
            slow_sweep(tmp_path / "s", "serial")
    finally:
        process.kill()
        process.join()
    assert len(slow_sweep(tmp_path / "s", "serial").table) == CELLS
