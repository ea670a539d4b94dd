"""Claims run and kept: nothing is run twice, another setting or edit is another run, and what fails says so."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import report_html
from lrscope.cli.app import call
from lrscope.cli.reproduce import Board
from lrscope.papers import Claim, claims, reproduce
from lrscope.papers.ledger import differences
from lrscope.papers.reproduce import News, ask
from lrscope.papers.reproduce import reproduce as run
from slow_cells import children

FAST = ["kalra2024/sign-rule", "lewkowycz2020/catapult-time"]
"""Each takes less than a second."""
UNLIKE = "lewkowycz2020/kernel-is-hessian"
"""Usually not reproduced, in no time."""
RUN = Claim.__call__


def kinds(news):
    return [(item.id, item.kind) for item in news]


def test_an_outcome_is_kept_and_not_run_again(tmp_path):
    asked = ask(claims(FAST[0]).values())
    first = list(run(asked, tmp_path, engine="serial"))
    assert kinds(first) == [(FAST[0], "began"), (FAST[0], "done")]
    again = list(run(asked, tmp_path, engine="serial"))
    assert kinds(again) == [(FAST[0], "kept")]
    assert again[0].outcome.to_dict() == first[1].outcome.to_dict()
    assert kinds(run(asked, tmp_path, engine="serial", fresh=True))[-1] == (FAST[0], "done")
    (file,) = tmp_path.rglob("*.json")
    assert json.loads(file.read_text())["environment"]["torch"]
    file.write_text(file.read_text()[:100])  # as after a full disk
    assert kinds(run(asked, tmp_path, engine="serial"))[-1] == (FAST[0], "done")


def test_other_settings_and_edited_code_are_other_runs(tmp_path, monkeypatch):
    files = [ask(claims(UNLIKE).values(), seeds=seeds)[0].file for seeds in (None, 2, 5)]
    monkeypatch.setattr(reproduce, "_code", lambda claim: "edited")
    files.append(ask(claims(UNLIKE).values())[0].file)
    assert len(set(files)) == 4


def test_seeds_are_a_number_or_a_range_and_only_where_there_are_any():
    asked = ask(claims(UNLIKE, "kalra2024/gi-adam-identity", "kalra2024/thresholds").values(), seeds=2)
    assert [one.given for one in asked] == [{"seeds": 2}, {"seeds": (0, 1)}, {}]
    with pytest.raises(ValueError, match="seeds: expected a positive number, got 0"):
        ask(claims(UNLIKE).values(), seeds=0)


def test_processes_give_what_one_process_gives(tmp_path):
    asked = ask(claims(*FAST, UNLIKE).values())
    alone = {n.id: n.outcome for n in run(asked, tmp_path / "serial", engine="serial") if n.outcome}
    beside = {n.id: n.outcome for n in run(asked, tmp_path / "processes") if n.outcome}
    assert set(alone) == set(beside) == {*FAST, UNLIKE}
    for id, outcome in alone.items():
        assert outcome.numbers == beside[id].numbers


def test_a_claim_that_raises_does_not_stop_the_others(tmp_path, monkeypatch):
    bad = claims(FAST[0])[FAST[0]]

    def broken(**_):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Claim, "__call__", lambda c, **s: broken() if c is bad else RUN(c, **s))
    news = list(run(ask(claims(FAST[0], UNLIKE).values()), tmp_path, engine="serial"))
    assert ("kalra2024/sign-rule", "failed") in kinds(news)
    assert (UNLIKE, "done") in kinds(news)
    assert "no luck" in next(n.error for n in news if n.kind == "failed")


def test_a_killed_process_is_told_of(tmp_path):
    asked = ask(claims("lewkowycz2020/largest-rate", "li2019/texp").values())
    killed, news = False, []
    for item in run(asked, tmp_path):
        news.append(item)
        if item.kind == "began" and not killed:
            killed = True
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
    failed = [item for item in news if item.kind == "failed"]
    assert {item.id for item in failed} == {one.claim.id for one in asked}
    assert "killed" in failed[0].error


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    code = (
        "from pathlib import Path; from lrscope.papers import claims; from lrscope.papers.reproduce import *\n"
        "if __name__ == '__main__':\n"
        "    asked = ask(claims('lewkowycz2020/largest-rate', 'li2019/texp').values())\n"
        f"    for news in reproduce(asked, Path({str(tmp_path / 'out')!r})): print(news.kind, flush=True)\n"
    )
    (tmp_path / "script.py").write_text(code)
    driver = subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "began\n"
    workers = children(driver.pid)
    assert workers
    driver.kill()
    driver.wait()
    until = time.monotonic() + 20
    while alive := [pid for pid in workers if Path(f"/proc/{pid}/stat").exists() and state_of(pid) != "Z"]:
        assert time.monotonic() < until, alive
        time.sleep(0.1)
    driver.stdout.close()


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_the_command_prints_a_table_and_says_what_is_unusual(tmp_path, capsys):
    assert call(["reproduce", FAST[1], UNLIKE, "--out", str(tmp_path), "--engine", "serial"]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 claims reproduced" in said
    assert "not: width 20: agree within 2 %" in said
    assert "(as usual here)" in said
    assert max(map(len, said.splitlines())) <= 100 or "page:" in max(said.splitlines(), key=len)
    assert call(["reproduce", FAST[1], "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["outcomes"][0]["verdict"] == "reproduced"
    assert found["surprises"] == []
    assert found["differences"] == {}
    assert found["pages"] == [str(tmp_path / "lewkowycz2020.html")]


def test_the_command_writes_a_page_of_all_it_knows_of_the_paper(tmp_path, capsys):
    for name in (FAST[1], UNLIKE):  # the second call asks for one claim, and shows both
        assert call(["reproduce", name, "--out", str(tmp_path), "--engine", "serial"]) == 0
    assert f"page: {tmp_path / 'lewkowycz2020.html'}" in capsys.readouterr().out
    page = report_html.check(tmp_path / "lewkowycz2020.html")
    assert {FAST[1].replace("/", "-"), UNLIKE.replace("/", "-")} <= set(page.ids)
    assert "The Large Learning Rate Phase" in page.text


def test_a_run_is_compared_with_the_recorded_one(tmp_path, capsys):
    outcome = claims(FAST[1])[FAST[1]]()
    recorded = outcome.to_dict() | {"environment": {"commit": "abc1234"}}
    first = next(iter(outcome.holds))
    assert differences(outcome, {FAST[1]: [recorded]}) == []
    other = recorded | {"verdict": "not reproduced", "holds": dict(recorded["holds"]) | {first: False}}
    verdict, part = differences(outcome, {FAST[1]: [other]})
    assert verdict == f"{FAST[1]}: reproduced; recorded at abc1234: not reproduced"
    assert part == f"{FAST[1]}: {first!r} holds; recorded at abc1234: does not hold"
    assert "no part of the criterion" in differences(outcome, {FAST[1]: [recorded | {"holds": {}}]})[0]
    assert differences(outcome, {FAST[1]: [other | {"settings": {"exponents": [2, 3]}}]}) == []
    assert differences(outcome, {}) == []
    file = tmp_path / "ledger.json"
    file.write_text(json.dumps({FAST[1]: [other]}))
    arguments = ["reproduce", FAST[1], "--out", str(tmp_path), "--engine", "serial", "--ledger", str(file)]
    assert call(arguments) == 0
    assert "differs from the recorded run: lewkowycz2020/catapult-time: reproduced;" in capsys.readouterr().out
    assert "Against the recorded run" in (tmp_path / "lewkowycz2020.html").read_text()
    for text in ("[1]", "{", '{"a": [{}]}'):
        file.write_text(text)
        assert call(arguments) == 2
        assert "--ledger:" in capsys.readouterr().err


def test_the_board_of_a_terminal_shows_what_runs_and_what_is_done():
    board = Board(["a/one", "a/two", "a/three", "a/four"])
    outcome = claims(FAST[0])[FAST[0]](steps=200)
    for news in (News("a/one", "began"), News("a/two", "began"), News("a/two", "done", outcome)):
        board._live = board  # as in a terminal, where no plain lines are printed
        board.tell(news)
    board.tell(News("a/three", "failed", error="Traceback\nRuntimeError: no luck"))
    with (console := Console(width=80)).capture() as captured:
        console.print(board.table())
    said = captured.get()
    assert "running" in said
    assert "a/two" in said
    assert "no luck" in said
    assert "2 of 4 done, 1 waiting" in said


def test_plain_lines_say_how_far_it_is(tmp_path, capsys):
    assert call(["reproduce", FAST[1], UNLIKE, "--out", str(tmp_path), "--engine", "serial"]) == 0
    said = capsys.readouterr().err
    assert "lrscope: 2 claims" in said
    assert "lrscope: 1 of 2  " in said
    assert "lrscope: 2 of 2  " in said


def test_a_claim_that_unexpectedly_fails_is_exit_code_3(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Claim, "__call__", lambda c, **s: fails(RUN(c, **s)))
    assert call(["reproduce", FAST[1], "--out", str(tmp_path), "--engine", "serial", "--fresh"]) == 3
    said = capsys.readouterr().out
    assert f"unexpectedly not: {FAST[1]}" in said
    assert f"differs from the recorded run: {FAST[1]}: not reproduced; recorded at" in said
    assert "not as usual" in (tmp_path / "lewkowycz2020.html").read_text()


def fails(outcome):
    return replace(outcome, holds=dict.fromkeys(outcome.holds, False))


def test_bad_names_and_options_are_refused_at_once(tmp_path, capsys):
    assert call(["reproduce", "li2020"]) == 2
    assert "did you mean 'li2019'" in capsys.readouterr().err
    assert call(["reproduce", FAST[0], "--seeds", "0"]) == 2
    assert "--seeds" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert call(["reproduce", FAST[0], "--out", str(tmp_path / "file")]) == 2
    assert call(["reproduce", FAST[0], "--quick"]) == 2
    assert "--quick" in capsys.readouterr().err


def test_the_list_runs_nothing(capsys):
    assert call(["reproduce", "li2019", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(claims("li2019"))
