"""From keywords to axes and cells."""

import pickle

import pytest

from cases import TASKS, cross_entropy
from lrscope.errors import ScheduleError, TaskError
from lrscope.schedules import Constant, Cosine, parse
from lrscope.sweeps.grid import Grid
from lrscope.sweeps.source import Source
from lrscope.tasks import Task


def make(width: int = 8, noise: float = 0.0, kind: str = "tuple") -> Task:
    return TASKS[kind]()


def grid(task=make, **options):
    own = {k: options.pop(k) for k in ("optimizer", "schedule", "steps", "seeds", "measure") if k in options}
    return Grid(Source(task), **own, given=options)


def test_the_grid_is_the_product_with_the_seed_fastest():
    cells = list(grid(lr=[0.1, 0.2], warmup=[0, "50%"], seeds=2, steps=10).cells())
    assert [(c.lr, c.point["warmup"], c.seed) for c in cells] == [
        (lr, warmup, seed) for lr in (0.1, 0.2) for warmup in ("0", "50%") for seed in (0, 1)
    ]
    assert [c.point["warmup_steps"] for c in cells[:4]] == [0, 0, 5, 5]
    assert len({c.hash for c in cells}) == len(cells)


def test_the_rates_of_a_cell_are_those_of_the_text_times_lr():
    made = grid(lr=[0.3], warmup=["20%"], floor=[0.1], schedule="warmup({warmup}) > cosine(to={floor})", steps=50)
    (cell,) = made.cells()
    expected = 0.3 * parse("warmup(20%) > cosine(to=0.1)", 50).values(50)
    assert cell.schedule.values(50).tolist() == pytest.approx(expected.tolist(), rel=1e-15)


def test_without_a_schedule_the_rate_is_constant_after_the_warmup_if_there_is_one():
    (constant,) = grid(lr=[0.3], steps=5).cells()
    (warm,) = grid(lr=[0.3], warmup=[2], steps=5).cells()
    assert constant.schedule.values(5).tolist() == [0.3] * 5
    assert warm.schedule.values(5).tolist() == [0.0, 0.15, 0.3, 0.3, 0.3]


def test_a_schedule_without_lr_is_absolute_and_a_placeholder_may_be_the_rate():
    (cell,) = grid(schedule="0.2 * cosine(to=0)", steps=8).cells()
    assert cell.schedule.values(8).tolist() == parse("0.2 * cosine(to=0)", 8).values(8).tolist()
    cells = list(grid(schedule="cosine(from={lr}, to=0.1)", lr=[0.5, 1.0], steps=8).cells())
    assert [c.schedule(0) for c in cells] == [0.5, 1.0]


def test_schedules_may_be_objects_and_an_axis():
    cells = list(grid(lr=[2.0], schedule=[Constant(1.0), Cosine(1.0, 0.0, 6), "linear(to=0)"], steps=6).cells())
    assert [c.schedule(0) for c in cells] == [2.0, 2.0, 2.0]
    assert [c.schedule(3) for c in cells] == [2.0, 1.0, 1.0]
    assert cells[0].point["schedule"] == "Constant(1.0)"


def test_options_of_the_optimizer_settings_of_the_task_and_steps_are_axes():
    made = grid(lr="0.1", momentum="0,0.9", width="8,16", steps="5,10", weight_decay=0.01)
    kinds = {name: axis.kind for name, axis in made.axes.items()}
    assert kinds == {
        "lr": "lr",
        "momentum": "option",
        "width": "setting",
        "weight_decay": "option",
        "steps": "steps",
        "seed": "seed",
    }
    cells = list(made.cells())
    assert {(c.optimizer.momentum, c.settings["width"], c.steps) for c in cells} == {
        (m, w, s) for m in (0.0, 0.9) for w in (8, 16) for s in (5, 10)
    }
    assert all(type(c.settings["width"]) is int and c.optimizer.weight_decay == 0.01 for c in cells)
    # What can be batched together is: a group for each width and length, momenta within.
    assert len({c.group for c in cells}) == 4


def test_optimizers_are_an_axis_and_betas_one_value_each():
    cells = list(grid(lr=[0.1], optimizer=["adam", "adamw"], betas=["(0.9, 0.99)", "(0.8, 0.99)"], steps=3).cells())
    assert [(c.optimizer.name, c.optimizer.betas[0]) for c in cells] == [
        ("adam", 0.9),
        ("adam", 0.8),
        ("adamw", 0.9),
        ("adamw", 0.8),
    ]
    assert cells[0].point["betas"] == "(0.9, 0.99)"


def test_a_point_from_the_table_leads_back_to_its_cell():
    made = grid(lr="2^-3:2^0", warmup="1,5%,33%", width="8,16", kind="tuple,relu", seeds=2, steps=20)
    for cell in made.cells():
        assert made.cell(cell.point).hash == cell.hash
    between = made.cell({"lr": 0.3, "warmup": "7%", "width": 12, "kind": "tuple", "seed": 5})
    assert (between.lr, between.point["warmup_steps"], between.settings["width"], between.seed) == (0.3, 1, 12, 5)


def test_hashes_do_not_depend_on_how_values_are_written_or_on_the_process():
    a = [c.hash for c in grid(lr="2^-2:2^0", steps=9).cells()]
    b = [c.hash for c in grid(lr=[0.25, 0.5, 1], steps="9").cells()]
    assert a == b
    cell = next(iter(grid(lr=[0.1], steps=9).cells()))
    assert pickle.loads(pickle.dumps(cell)).hash == cell.hash


def test_steps_come_from_the_task_and_differ_between_settings():
    def sized(length: int = 3) -> Task:
        good = TASKS["tuple"]()
        return Task(good.build, cross_entropy, good.train, steps=length)

    assert [c.steps for c in grid(sized, lr=[0.1], length=[3, 7]).cells()] == [3, 7]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"lr": [0.1], "momentm": [0.9]}, ValueError, "momentm: .*did you mean 'momentum'"),
        ({"lr": [0.1], "widht": [8]}, ValueError, "widht: .*did you mean 'width'"),
        ({"lr": [0.1], "status": [8]}, ValueError, "status: nothing of that name"),
        ({}, ValueError, "lr: no learning rates"),
        ({"lr": []}, ValueError, "lr: no values"),
        ({"lr": [-0.1]}, ValueError, "lr: .*at least 0"),
        ({"lr": ["fast"]}, ValueError, "lr: .*'fast'"),
        ({"lr": [float("nan")]}, ValueError, "lr: "),
        ({"lr": [0.1], "schedule": "warmup({warm}) > constant"}, ValueError, "{warm} has no values"),
        ({"lr": [0.1], "schedule": "warmup({}) > constant"}, ValueError, "has no name"),
        ({"lr": [0.1], "schedule": 3}, TypeError, "schedule: expected text"),
        ({"lr": [0.1], "schedule": "constnt"}, ScheduleError, "did you mean 'constant'"),
        ({"lr": [0.1], "schedule": "constant(value=-1)"}, ScheduleError, "negative"),
        ({"lr": [0.1], "warmup": ["100%"]}, ScheduleError, "nothing is left"),
        ({"lr": [0.1], "warmup": ["five"]}, ScheduleError, "schedule text"),
        ({"lr": [0.1], "seeds": 0}, ValueError, "seeds: "),
        ({"lr": [0.1], "seeds": 2, "seed": [4]}, ValueError, "give one of them"),
        ({"lr": [0.1], "seed": [-1]}, ValueError, "seed: "),
        ({"lr": [0.1], "steps": 0}, ValueError, "steps: "),
        ({"lr": [0.1], "steps": 2.5}, ValueError, "steps: "),
        ({"lr": [0.1], "optimizer": "sdg"}, ValueError, "did you mean 'sgd'"),
        ({"lr": [0.1], "momentum": ["a lot"]}, ValueError, "momentum: "),
        ({"lr": [0.1], "momentum": [-1]}, ValueError, "momentum"),
        ({"lr": [0.1], "width": ["eight"]}, TaskError, "width: .*whole number"),
        ({"lr": [0.1], "kind": ["nothing"]}, TaskError, "KeyError"),
        ({"lr": "1e-6:1:90000", "seeds": 2}, ValueError, "more than 100,000"),
        (
            {"lr": [0.1], "noise": [0.1], "schedule": "constant(value={noise})"},
            ValueError,
            "schedule's text and in the task's function",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options, error, said):
    with pytest.raises(error, match=said) as raised:
        list(grid(**{"steps": 10, **options}).cells())
    assert "\n" not in str(raised.value)


def test_a_task_takes_no_settings_and_something_else_is_no_task():
    with pytest.raises(ValueError, match="width: nothing of that name"):
        grid(TASKS["tuple"](), lr=[0.1], width=[8])
    with pytest.raises(TaskError, match="expected a Task"):
        Source(3)
    with pytest.raises(TaskError, match="did you mean 'digits'"):
        grid("digit", lr=[0.1])


def test_a_task_without_a_length_needs_steps():
    good = TASKS["tuple"]()
    endless = Task(good.build, good.loss_fn, good.train)
    with pytest.raises(ValueError, match=r"steps: .*no length of its own"):
        list(grid(endless, lr=[0.1]).cells())
