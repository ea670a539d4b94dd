"""A task by name: what can be named, how settings are converted, and every way it can go wrong."""

import os
import sys
from pathlib import Path
from typing import Literal

import pytest

from lrscope.errors import TaskError
from lrscope.tasks import BUILT_IN, Task, load
from lrscope.tasks.settings import parse

EXAMPLES = Path(__file__).parents[3] / "examples"
GOOD = """
import torch
from lrscope.tasks import Task
LIMIT = 3
def loss_fn(model, batch):
    return model(batch).square().mean()
def make_task(width: int = 2, bias=True, kind="a"):
    return Task(lambda seed: torch.nn.Linear(width, 1, bias), loss_fn, [torch.ones(4, width)], name=kind)
ready = make_task()
"""


@pytest.fixture
def script(tmp_path):
    before = list(sys.path)

    def write(body, name="mine.py"):
        (tmp_path / name).write_text(body)
        return str(tmp_path / name)

    yield write
    assert sys.path == before


def test_every_built_in_name_is_documented_and_callable():
    assert set(BUILT_IN) == {"digits", "topics", "text", "cifar10", "cifar100"}
    assert all(fn.__doc__ for fn in BUILT_IN.values())
    assert load("digits").name == "digits-mlp"
    assert load("digits", {"model": "cnn", "steps": "10"}).steps == 10


def test_functions_and_tasks_of_a_file(script):
    file = script(GOOD)
    task = load(f"{file}:make_task", {"width": "5", "bias": "no", "kind": "b"})
    task.check()
    assert task.name == "b"
    assert task.objective().size == 5
    assert isinstance(load(f"{file}:ready"), Task)


def test_functions_of_a_module():
    assert load("lrscope.tasks:digits", {"width": "16"}).steps == 500


def test_modules_beside_the_file_can_be_imported(script):
    script("WIDTH = 7", "my_sizes_beside.py")
    file = script("from my_sizes_beside import WIDTH\n" + GOOD.replace("= 2,", "= WIDTH,"))
    assert load(f"{file}:make_task").objective().size == 8


@pytest.mark.parametrize("name", ["my_task.py", "regression.py"])
def test_examples_pass_the_check(name):
    task = load(f"{EXAMPLES / name}:task")
    task.check()
    assert task.steps
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


BAD_SCRIPTS = {
    "import fails": (
        "import numpyy\n",
        "f",
        r"importing .*mine.py failed with ModuleNotFoundError.*line 1: import numpyy",
    ),
    "syntax": ("def f(:\n", "f", r"SyntaxError.*mine.py, line 1: def f\(:"),
    "exits": ("import sys\nsys.exit(3)\n", "f", "SystemExit: 3.*line 2"),
    "no function": (
        GOOD,
        "make_tsk",
        r"no 'make_tsk' \(did you mean 'make_task'\?\); it defines loss_fn, make_task, ready",
    ),
    "nothing there": ("x = 1\n", "task", "it defines no function and no Task"),
    "not callable": (GOOD, "LIMIT", "LIMIT is a int, expected a Task or a function"),
    "no name": (GOOD, None, "does not say which function"),
    "raises": ("def f():\n    return [][1]\n", "f", r"raised IndexError: .*\(mine.py, line 2: return \[\]\[1\]\)"),
    "none": ("def f():\n    pass\n", "f", "must return a lrscope.Task, got None; does it end in return"),
    "not a task": ("def f():\n    return 3\n", "f", "must return a lrscope.Task, got int"),
    "needs": ("def f(path, *, n):\n    pass\n", "f", "needs path, n; give --set path=VALUE --set n=VALUE"),
}


@pytest.mark.parametrize("name", BAD_SCRIPTS)
def test_bad_scripts(script, name):
    body, function, said = BAD_SCRIPTS[name]
    file = script(body)
    modules = set(sys.modules)
    with pytest.raises(TaskError, match=said) as raised:
        load(file if function is None else f"{file}:{function}")
    assert "\n" not in str(raised.value)
    if name in ("import fails", "syntax", "exits"):
        assert set(sys.modules) == modules


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("digts", {}, r"no built-in task \(did you mean 'digits'\?\); give one of digits, topics"),
        ("digits", {"modle": "cnn"}, r"no argument 'modle' \(did you mean 'model'\?\); it takes model, width"),
        ("digits", {"model": "rnn"}, "model=rnn is not one of mlp, cnn"),
        ("digits", {"steps": "2.5"}, "steps=2.5 is not a whole number"),
        ("digits", {"noise": "loud"}, "noise=loud is not a number"),
        ("digits", {"width": "wide"}, "width=wide is not a whole number or none"),
        ("text", {}, "text needs path; give --set path=VALUE"),
        ("no_such_package.module:f", {}, "no module 'no_such_package.module'"),
        ("lrscope.no_such:f", {}, "no module 'lrscope.no_such'"),
        ("nowhere/file.py:f", {}, "there is no file nowhere/file.py"),
    ],
)
def test_errors(text, settings, said):
    with pytest.raises(TaskError, match=said):
        load(text, settings)


def test_a_near_file_name_is_offered(script):
    file = script(GOOD)
    with pytest.raises(TaskError, match=r"did you mean 'mine.py'"):
        load(file.replace("mine.py", "mein.py") + ":f")


def test_a_task_takes_no_settings_and_a_flag_must_be_one(script):
    file = script(GOOD)
    with pytest.raises(TaskError, match="so it takes no settings, got width"):
        load(f"{file}:ready", {"width": "3"})
    with pytest.raises(TaskError, match="bias=maybe is not true or false"):
        load(f"{file}:make_task", {"bias": "maybe"})


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("1e4", int, 10_000),
        ("1_000", int, 1_000),
        ("1e-3", float, 1e-3),
        ("Off", bool, False),
        ("a/b", Path, Path("a/b")),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("4", int | None, 4),
        ("none", str | None, None),
        ("x", str | Path, "x"),
        ("anything", None, "anything"),
    ],
)
def test_parse(text, kind, value):
    assert parse(text, kind) == value
    assert type(parse(text, kind)) is type(value)


@pytest.mark.parametrize(
    ("text", "kind"), [("3.5", int), ("inf", int), ("x", float), ("2", bool), ("c", Literal["a"])]
)
def test_parse_refuses(text, kind):
    with pytest.raises((ValueError, OverflowError)):
        parse(text, kind)


def test_a_quick_edit_of_equal_length_is_seen(tmp_path):
    file = tmp_path / "quick.py"
    text = "import torch\nimport lrscope as lrs\ndef task():\n    return lrs.Task(lambda s: torch.nn.Linear(1, {n}), "
    text += "lambda m, b: m(b).mean(), [torch.ones(2, 1)])\n"
    widths = []
    for n in (3, 4):
        file.write_text(text.replace("{n}", str(n)))
        os.utime(file, (1, 1))  # as two writes within one second look
        widths.append(load(f"{file}:task").model(0).out_features)
    assert widths == [3, 4]
    assert not (tmp_path / "__pycache__").exists()
