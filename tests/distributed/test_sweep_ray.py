"""Sweeps on Ray: equal to serial, and whole after the loss of workers, nodes and drivers. Needs ``lrscope[ray]``."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lrscope import MeasurementError
from lrscope.sweeps import Ray, read
from slow_cells import CELLS, children, outcomes, slow_sweep

ray = pytest.importorskip("ray")
TESTS = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return outcomes(slow_sweep(tmp_path_factory.mktemp("sweep") / "s", "serial"))


@pytest.fixture(scope="module", autouse=True)
def importable():
    """Workers of Ray inherit this environment, as a user's would the installed package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([TESTS, *filter(None, sys.path)]))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield


@pytest.fixture
def local():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def assert_whole(out, undisturbed):
    found = read(out)
    assert outcomes(found) == undisturbed
    assert sorted(p.name for p in (out / "cells").iterdir()) == sorted(f"{cell}.json" for cell in found.cells)
    assert len(found.cells) == CELLS


def ray_workers():
    """Processes of Ray that run our tasks."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if line.read_bytes().startswith(b"ray::run_there"):
                found.append(int(line.parent.name))
        except OSError:
            continue
    return found


def test_ray_is_serial_bit_for_bit_and_leaves_a_running_ray_alone(tmp_path, undisturbed, local):
    slow_sweep(tmp_path / "s", "ray")
    assert_whole(tmp_path / "s", undisturbed)
    assert ray.is_initialized()


def test_workers_killed_at_random_moments(tmp_path, undisturbed, local):
    draw, stop, killed = random.Random(0), threading.Event(), []

    def kill():
        while len(killed) < 5 and not stop.wait(draw.uniform(0.1, 0.8)):
            if workers := ray_workers():
                killed.append(draw.choice(workers))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        slow_sweep(tmp_path / "s", "ray")
    finally:
        stop.set()
        killer.join()
    assert killed
    assert_whole(tmp_path / "s", undisturbed)


def test_a_lost_node_costs_its_tasks_a_second_try_and_nothing_else(tmp_path, undisturbed):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        assert ray.cluster_resources()["CPU"] == 2
        lost = threading.Event()

        def lose():
            deadline = time.monotonic() + 60
            while not any((tmp_path / "s" / "cells").glob("*.json")) and time.monotonic() < deadline:
                time.sleep(0.05)
            cluster.remove_node(node, allow_graceful=False)
            lost.set()

        loser = threading.Thread(target=lose)
        loser.start()
        slow_sweep(tmp_path / "s", "ray")
        loser.join()
        assert lost.is_set()
        assert_whole(tmp_path / "s", undisturbed)
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_driver_killed_goes_on_with_another_engine(tmp_path, undisturbed):
    code = f"from slow_cells import slow_sweep; from pathlib import Path; slow_sweep(Path({str(tmp_path / 's')!r}), 'ray')"
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not any((tmp_path / "s" / "cells").glob("*.json")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    mine = children(driver.pid)
    driver.kill()
    driver.wait()
    slow_sweep(tmp_path / "s", "serial")
    assert_whole(tmp_path / "s", undisturbed)
    for pid in mine:  # its Ray ends by itself, after a while
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGTERM)


def test_a_cluster_that_is_not_there_is_said_in_one_line(tmp_path):
    with pytest.raises(MeasurementError, match=r"engine: no Ray at 127.0.0.1:1 ") as error:
        slow_sweep(tmp_path / "s", Ray(address="127.0.0.1:1"))
    assert "\n" not in str(error.value)
