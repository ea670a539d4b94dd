"""The directory: whole files, damage, growth, one driver."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from cases import TASKS
from lrscope import LrscopeWarning
from lrscope.records import write_whole
from lrscope.sweeps import lock as lock_module
from lrscope.sweeps import read, sweep
from lrscope.sweeps.files import sealed, unsealed
from lrscope.sweeps.lock import Lock
from lrscope.sweeps.store import Store


def small(out, **options):
    axes = {"lr": [0.01, 0.1, 1.0], "steps": 6, "engine": "serial", **options}
    return sweep(TASKS["tuple"], out=out, **axes)


def files(out):
    return {p.name: p.read_bytes() for p in (out / "cells").iterdir()}


def test_reading_gives_what_was_returned(tmp_path):
    made, found = small(tmp_path / "s"), read(tmp_path / "s")
    assert found.table.to_dict() == made.table.to_dict()
    assert found.manifest == made.manifest
    assert found.axes == {"lr": [0.01, 0.1, 1.0], "seed": [0]}
    (tmp_path / "s" / "table.parquet").unlink()  # only ever a memory of the cells
    assert read(tmp_path / "s").table.to_dict() == made.table.to_dict()
    (tmp_path / "s" / "table.parquet").write_bytes(b"PAR1 not really")
    assert read(tmp_path / "s").table.to_dict() == made.table.to_dict()


def test_others_read_the_table_without_lrscope(tmp_path):
    import pyarrow.parquet as pq

    made = small(tmp_path / "s")
    table = pq.read_table(tmp_path / "s" / "table.parquet")
    assert sorted(table["final_loss"].to_pylist()) == sorted(made.table["final_loss"])
    assert {str(table.schema.field(n).type) for n in ("status", "error", "regime")} == {"string"}
    assert str(table.schema.field("trains").type) == "bool"


def test_the_same_call_runs_nothing_again(tmp_path, monkeypatch):
    made = small(tmp_path / "s")
    before = files(tmp_path / "s")
    monkeypatch.setattr("lrscope.sweeps.work.run_cells", None)  # calling it would raise
    assert small(tmp_path / "s").table.to_dict() == made.table.to_dict()
    assert files(tmp_path / "s") == before


def test_more_values_grow_the_sweep_and_keep_its_cells(tmp_path):
    small(tmp_path / "s")
    before = files(tmp_path / "s")
    grown = small(tmp_path / "s", lr=[0.1, 0.3], seeds=2)
    assert grown.axes == {"lr": [0.01, 0.1, 1.0, 0.3], "seed": [0, 1]}
    assert [(r["lr"], r["seed"]) for r in grown.table.rows()] == [
        (0.01, 0),
        (0.1, 0),
        (0.1, 1),
        (0.3, 0),
        (0.3, 1),
        (1.0, 0),
    ]
    assert before.items() <= files(tmp_path / "s").items()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "adam"}, "optimizer: there 'sgd.momentum=0.9.', asked 'adam'"),
        ({"steps": 7}, "steps: there 6, asked 7"),
        ({"momentum": [0.9]}, "axes: "),
        ({"schedule": "linear(to=0)"}, "schedule: there 'constant', asked 'linear"),
        ({"measure": ["sharpness"]}, "measure: "),
    ],
)
def test_another_sweep_in_the_directory_is_refused_and_nothing_is_touched(tmp_path, options, said):
    small(tmp_path / "s")
    before = files(tmp_path / "s")
    with pytest.raises(ValueError, match=said) as error:
        small(tmp_path / "s", **options)
    assert "\n" not in str(error.value)
    assert files(tmp_path / "s") == before
    fresh = small(tmp_path / "s", resume=False, **options)
    assert len(fresh.table) == 3
    assert files(tmp_path / "s.before-1") == before


def test_an_edited_task_is_refused(tmp_path):
    where = tmp_path / "mine.py"
    where.write_text("from cases import TASKS\ndef task():\n    return TASKS['tuple']()\n")
    options = {"lr": [0.1], "steps": 4, "engine": "serial", "out": tmp_path / "s"}
    sweep(f"{where}:task", **options)
    where.write_text("from cases import TASKS\ndef task():\n    return TASKS['relu']()\n")
    with pytest.raises(ValueError, match=r"the task has changed since .its file was edited; its first batch"):
        sweep(f"{where}:task", **options)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty", "foreign"])
def test_a_damaged_cell_is_quarantined_and_runs_again(tmp_path, damage):
    made = small(tmp_path / "s")
    path = tmp_path / "s" / "cells" / f"{made.cells[1]}.json"
    good = path.read_bytes()
    value = f'"final_loss": {made.table["final_loss"][1]}'.encode()
    bad = {
        "cut": good[:-30],
        "flipped": good.replace(value, value[:-1] + (b"1" if value[-1:] != b"1" else b"2")),
        "other": (tmp_path / "s" / "cells" / f"{made.cells[0]}.json").read_bytes(),
        "empty": b"",
        "foreign": b'{"cell": 3}',
    }[damage]
    assert bad != good
    path.write_bytes(bad)
    os.utime(path, (1, 1))  # as a copy, or a disk that lies, would
    with pytest.raises(ValueError, match="damaged"):
        made.record(made.cells[1])
    with pytest.warns(LrscopeWarning, match="is damaged .*; moved to quarantine, the cell runs again"):
        again = small(tmp_path / "s")
    assert [r["final_loss"] for r in again.table.rows()] == made.table["final_loss"]
    assert (tmp_path / "s" / "quarantine" / path.name).read_bytes() == bad
    assert json.loads(path.read_bytes())["record"]["row"]["final_loss"] == made.table["final_loss"][1]


def test_half_written_files_are_never_read_and_are_cleared_by_the_next_driver(tmp_path):
    made = small(tmp_path / "s")
    for name in (".0123456789abcdef.json.77.partial", ".x.partial"):
        (tmp_path / "s" / "cells" / name).write_text('{"cell"')
    assert read(tmp_path / "s").table.to_dict() == made.table.to_dict()
    small(tmp_path / "s")
    assert sorted(files(tmp_path / "s")) == sorted(f"{c}.json" for c in made.cells)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_whole(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrscope.records.whole.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert path.read_bytes() == b"old"


def test_a_full_disk_stops_the_sweep_and_loses_nothing(tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) > 2:  # the manifest and one cell fit
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr("lrscope.records.whole.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        small(tmp_path / "s")
    monkeypatch.undo()
    assert len(read(tmp_path / "s").table) == 1
    undisturbed = small(tmp_path / "t")
    assert small(tmp_path / "s").table["final_loss"] == undisturbed.table["final_loss"]


def test_a_record_survives_the_seal_and_any_changed_byte_shows():
    record = {"cell": "a", "row": {"loss": 0.1, "bad": float("nan")}, "text": "é\n"}
    data = sealed(record)
    assert unsealed(data) == {**record, "row": {"loss": 0.1, "bad": None}}
    assert json.loads(data)["record"]["text"] == "é\n"  # the file is JSON
    for place in range(len(data) - 2):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
            unsealed(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def in_a_child(function):
    """What ``function`` returns, or the message it raises, in a process of its own."""
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        lock_module._HELD.clear()  # what a process of its own does not know
        try:
            said = str(function())
        except ValueError as error:
            said = str(error)
        os.write(write_end, said.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_two_drivers_in_one_process_and_in_two_are_refused(tmp_path):
    path = tmp_path / "lock"
    lock = Lock(path)
    with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* is writing to"):
        Lock(path)
    assert f"another sweep (process {os.getpid()} on" in in_a_child(lambda: Lock(path))
    lock.release()
    assert "Lock object" in in_a_child(lambda: Lock(path))
    Lock(path).release()  # the dead one's place is free


def test_children_of_a_dead_driver_do_not_keep_its_lock(tmp_path):
    """A loader forks workers, which outlive a driver that is killed."""
    path, seen = tmp_path / "lock", tmp_path / "child"

    def driver():
        kept = Lock(path)
        if (child := os.fork()) == 0:
            time.sleep(20)
            os._exit(0)
        seen.write_text(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
        return kept

    if (pid := os.fork()) == 0:
        driver()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    try:
        Lock(path).release()
    finally:
        os.kill(int(seen.read_text()), signal.SIGKILL)


def test_a_driver_killed_before_its_manifest_leaves_no_obstacle(tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "lock").touch()
    (tmp_path / ".sweep.json.7.partial").write_text("{")
    assert len(small(tmp_path).table) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells", "lock", "sweep.json", "table.parquet"]


def test_cells_of_another_version_are_told(tmp_path):
    small(tmp_path / "s")
    path = tmp_path / "s" / "sweep.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "environment": {**found["environment"], "torch": "0.4"}}))
    with pytest.warns(LrscopeWarning, match=r"cells so far are of torch 0\.4, new ones of \d"):
        small(tmp_path / "s")


def test_what_is_no_sweep_is_said(tmp_path):
    with pytest.raises(ValueError, match="no directory of a sweep"):
        read(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else than a sweep"):
        small(tmp_path)
    with pytest.raises(ValueError, match="is a file; give a directory"):
        small(tmp_path / "thesis.tex")
    with pytest.raises(OSError, match=r"\S"):
        small("/proc/no-such-place/s")
    made = small(tmp_path / "s")
    with pytest.raises(ValueError, match="has no cell 'nothing'"):
        made.record("nothing")
    (tmp_path / "s" / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read(tmp_path / "s")


def test_a_reader_beside_a_driver_sees_whole_cells_only(tmp_path):
    """Read again and again while another process writes."""
    process = multiprocessing.get_context("fork").Process(target=small, args=(tmp_path / "s",), kwargs={"seeds": 20})
    process.start()
    counts = []
    while process.is_alive():
        if (tmp_path / "s" / "sweep.json").exists():
            store = Store(tmp_path / "s")
            store.read(pytest.fail)
            counts.append(len(store.rows))
            assert all(row["status"] in ("finished", "diverged") for row in store.rows.values())
    process.join()
    assert counts == sorted(counts)
    assert len(read(tmp_path / "s").table) == 60
