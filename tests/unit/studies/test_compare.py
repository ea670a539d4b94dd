"""Two networks compared: numbers of the rooms below, sentences and a page that say what they say."""

import json
import math
from dataclasses import replace

import pytest
import torch

import cases
import lrscope as lrs
from fingerprints import everything, model_state
from lrscope import studies
from lrscope.cli.app import call
from lrscope.landscape import barrier
from lrscope.records import strict_json
from lrscope.records.comparison import Comparison
from lrscope.reports.comparison import comparison_page, sentences, write_comparison
from lrscope.similarity import cka


def two(name, steps=40, lr=0.1):
    task = cases.TASKS[name]()
    found = []
    for seed in (0, 1):
        _, states = studies.runs.trained(
            task, "sgd", lrs.schedules.Constant(lr), steps, {steps}, name="x", seed=seed, out=None
        )
        found.append(states[steps])
    return task, *found


@pytest.fixture(scope="module")
def compared():
    task, a, b = two("batch_norm")
    return task, a, b, studies.compare(task, a, b, curve="bezier", curve_steps=30, num_points=11)


def test_the_numbers_are_those_of_landscape_and_similarity(compared):
    task, a, b, found = compared
    line = barrier(task, a, b, num_points=11)
    assert found.line.rises["train_loss"].height == pytest.approx(line.height)
    assert found.line.rises["test_loss"].height == pytest.approx(line.on("test_loss").height)
    assert found.line.columns["train_loss"] == pytest.approx(tuple(line.profile["train_loss"]))
    assert found.curve.kind == "bezier"
    assert found.curve.columns["train_loss"][0] == pytest.approx(found.line.columns["train_loss"][0])
    assert found.curve.detour >= 1 - 1e-6
    models = [studies.runs.loaded(task, state) for state in (a, b)]
    trained = [n for n, m in models[0].named_modules() if any(p.ndim > 1 for p in m.parameters(recurse=False))]
    assert list(found.layers) == trained
    one, other = (lrs.similarity.record(m, task)[found.layers[0]] for m in models)
    assert found.similarity[0][0] == pytest.approx(float(cka(one, other, debiased=True)), abs=1e-6)
    flat = [torch.cat([p.flatten() for p in m.parameters()]).double() for m in models]
    assert found.distance == pytest.approx(float((flat[0] - flat[1]).norm().detach()))
    assert found.cost.forwards > 11
    assert found.cost.gradients == 30


def test_the_record_comes_back_from_json(compared):
    found = compared[-1]
    again = Comparison.from_dict(json.loads(strict_json(found.to_dict())))
    assert again.to_dict() == json.loads(strict_json(found.to_dict())) | {
        "names": again.names, "norms": again.norms, "layers": again.layers, "similarity": again.similarity,
        "chance": again.chance, "line": again.to_dict()["line"], "curve": again.to_dict()["curve"],
    }  # fmt: skip
    assert again.line == found.line
    assert again.curve == found.curve
    assert again.similarity == found.similarity


def test_nothing_of_the_users_is_changed():
    task, a, b = two("batch_norm", steps=5)
    models = [studies.runs.loaded(task, state).train() for state in (a, b)]
    before = [model_state(m) for m in models], everything()
    studies.compare(task, *models, num_points=5)
    assert ([model_state(m) for m in models], everything()) == before


@pytest.mark.parametrize("name", ["tuple", "conv", "lstm", "attention_tied", "dict"])
def test_any_network(name):
    task, a, b = two(name, steps=3)
    found = studies.compare(task, a, b, num_points=5)
    assert found.layers
    assert all(math.isfinite(v) for v in found.line.columns["train_loss"])
    assert all(math.isnan(v) or -1.5 < v <= 1 + 1e-9 for row in found.similarity for v in row)
    assert "<svg" in comparison_page(found)


def test_one_network_twice_is_noticed():
    task, a, _ = two("tuple", steps=3)
    found = studies.compare(task, a, dict(a), curve="chain", num_points=5)
    assert found.same
    assert found.curve is None
    assert found.distance == 0
    assert sentences(found) == [
        "A and B hold the same weights, value for value: the same network, or one file given twice."
    ]


def case(found, height, curve=None, ends=(0.5, 0.4), status="done"):
    """The comparison with other barriers."""

    def between(path, rise):
        rises = {**path.rises, "train_loss": replace(path.rises["train_loss"], height=rise, ends=ends, stderr=None)}
        return replace(path, rises=rises, status=status)

    bent = None if curve is None else between(found.curve, curve)
    return replace(found, line=between(found.line, height), curve=bent)


def test_sentences_say_what_the_numbers_say(compared):
    found = compared[-1]
    for changed, says in [
        (case(found, 1.5), "A barrier: on the straight line from A to B the training loss rises to 2.0000, 1.5000 above"),
        (case(found, 0.0), "No barrier: on the straight line from A to B the training loss stays at or below the worse end, 0.5"),
        (case(found, 0.005), "Hardly a barrier: on the straight line from A to B the training loss rises by 0.00500"),
        (case(found, math.inf), "On the straight line from A to B the training loss is not finite"),
        (case(found, 1.5, 0.0), "A trained curve joins them without one"),
        (case(found, 1.5, 0.1), "A trained curve nearly removes it: the training loss rises by 0.1000, 15 times less"),
        (case(found, 1.5, 1.0), "the training loss still rises by 1.0000; more steps"),
        (case(found, 1.5, 1.0, status="diverged"), "Training the curve diverged"),
    ]:  # fmt: skip
        said = " ".join(sentences(changed)).replace("\u202f", " ")
        assert says in said
    for changed in (case(found, 0.0, ends=(4.6, 4.5)), case(found, 0.0, 0.0, ends=(4.6, 4.5))):
        assert "low loss" not in " ".join(sentences(changed))  # joined they are, low they are not


def test_unlike_ends_without_a_barrier_are_said_to_be_unlike(compared):
    def with_chord(rise):
        found = case(compared[-1], 0.0, ends=(2.3, 0.5))
        train = replace(found.line.rises["train_loss"], above_chord=rise)
        return replace(found, line=replace(found.line, rises={**found.line.rises, "train_loss": train}))

    said = sentences(with_chord(0.8))
    assert said[0].startswith("No barrier")
    assert said[1].startswith("But the ends are unlike, 2.3000 for A and 0.5000 for B, and the loss rises by 0.8000")
    assert not any("unlike" in text for text in sentences(with_chord(0.0)))


def test_a_rise_within_the_noise_is_no_barrier(compared):
    def with_error(found, path, stderr):
        old = getattr(found, path)
        rise = replace(old.rises["train_loss"], stderr=stderr)
        return replace(found, **{path: replace(old, rises={**old.rises, "train_loss": rise})})

    found = case(compared[-1], 0.03, 0.03)
    said = sentences(with_error(with_error(found, "line", 0.02), "curve", 0.016))
    assert said[0].startswith("No barrier that stands out from the noise")
    assert "rises by 0.0300 ± 0.0200 above the worse end, 0.5000." in said[0]
    assert said[1].startswith("A trained curve joins them without one that stands out from the noise")
    clear = sentences(with_error(with_error(found, "line", 0.01), "curve", 0.01))
    assert clear[0].startswith("A barrier")
    assert "still rises by 0.0300" in clear[1]


def test_long_names_stay_inside_of_the_picture(compared):
    found = replace(compared[-1], names=("a-rather-long-name-of-a-run-0", "a-rather-long-name-of-a-run-1"))
    figure = found.figure()
    figure.canvas.draw()
    for ax in figure.axes[:-1]:
        one, middle, other = (label.get_window_extent() for label in ax.get_xticklabels())
        assert one.x0 >= figure.bbox.x0
        assert other.x1 <= figure.bbox.x1 + 1
        assert one.x1 < other.x0
        assert ax.get_xticklabels()[1].get_text() == "" or one.x1 < middle.x0 < middle.x1 < other.x0
        assert ax.get_xticklabels()[0].get_text() != ax.get_xticklabels()[2].get_text()


def test_what_chance_gives_is_said_where_it_matters_and_silence_is_no_answer(compared):
    found = replace(compared[-1], measure="svcca")
    n = len(found.layers)
    assert "unrelated" not in sentences(replace(found, chance=((0.05,) * n,) * n))[-1]
    assert (
        "examples, where unrelated data would give up to 0.62."
        in sentences(replace(found, chance=((0.62,) * n,) * n))[-1]
    )
    nothing = replace(found, similarity=((math.nan,) * n,) * n)
    assert sentences(nothing)[-1].startswith("No layer can be compared by SVCCA: none varies over these")


def test_one_layer_has_no_range(compared):
    found = compared[-1]
    one = replace(found, layers=found.layers[:1], similarity=((0.5,),), chance=((0.0,),))
    assert f"{found.layers[0]} is alike in both by 0.50" in sentences(one)[-1]


def test_the_page_stands_alone(compared, tmp_path):
    found = compared[-1]
    page = write_comparison(found, tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 2 * (2 + ("test_error" in found.line.columns) + 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    hostile = replace(found, names=("<script>", "b&c"), task="<b>")
    assert "<script>alert" not in comparison_page(hostile)
    assert "&lt;script&gt;" in comparison_page(hostile)


def test_many_layers_are_thinned(compared):
    from matplotlib.figure import Figure

    from lrscope.reports.figures.comparison import MOST_LAYERS, layers

    n = 3 * MOST_LAYERS
    table = tuple(tuple(1.0 if i == j else math.nan for j in range(n)) for i in range(n))
    found = replace(compared[-1], layers=tuple(f"l{i}" for i in range(n)), similarity=table, chance=table)
    ax = layers(found, Figure().add_subplot())
    assert len(ax.patches) == MOST_LAYERS**2


def test_arguments_are_refused_before_any_work():
    task, a, b = two("tuple", steps=2)
    begun = []
    for options, error, says in [
        ({"measure": "cca2"}, ValueError, "measure: expected one of svcca, pwcca, cka, procrustes, got 'cca2'"),
        ({"curve": "spline"}, ValueError, "curve: expected 'bezier', 'chain' or None, got 'spline'"),
        ({"num_points": 2}, ValueError, "num_points: expected a whole number of at least 3, got 2"),
        ({"curve": "chain", "curve_steps": 0}, ValueError, "curve_steps: expected a whole number of at least 1"),
        ({"curve": "chain", "curve_lr": 0}, ValueError, "curve_lr: expected a finite learning rate above 0, got 0"),
        ({"names": ("x",)}, ValueError, "names: expected what to call each of the two"),
        ({"layers": ["hiden"]}, ValueError, "did you mean"),
    ]:
        with pytest.raises(error, match=says):
            studies.compare(task, a, b, **options, on_progress=lambda *now: begun.append(now))
    assert not begun
    with pytest.raises(TypeError, match="B: expected a module, its state_dict\\(\\) or a file, got int"):
        studies.compare(task, a, 3)
    with pytest.raises(TypeError, match=r"task: expected a lrscope Task, got str; give lrs.tasks.load\('digits'\)"):
        studies.compare("digits", a, b)
    with pytest.raises(ValueError, match="B: not a network of task"):
        studies.compare(task, a, {"x": torch.zeros(2)})


# The command.


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = lrs.tasks.digits()
    for seed in (0, 1):
        torch.save(task.model(seed).state_dict(), tmp_path / f"net{seed}.pt")
    return tmp_path


def test_the_command_prints_sentences_and_writes_a_page(files, capsys):
    assert call(["compare", "net0.pt", "net1.pt", "--task", "digits", "--points", "5", "--batches", "2"]) == 0
    out, err = capsys.readouterr()
    assert "net0 to net1" in out
    assert "report: lrscope-runs/compare-net0-net1/report.html" in out
    assert "loss on the straight line" in err
    where = files / "lrscope-runs" / "compare-net0-net1"
    found = Comparison.from_dict(json.loads((where / "comparison.json").read_text()))
    assert found.names == ("net0", "net1")
    assert (where / "report.html").read_text().count("<svg") == 8


def test_json_and_a_curve(files, capsys):
    options = ["--points", "5", "--batches", "1", "--curve", "chain", "--curve-steps", "5", "--out", "here", "--json"]
    assert call(["compare", "net0.pt", "net1.pt", "--task", "digits", *options]) == 0
    out, _ = capsys.readouterr()
    found = json.loads(out)
    assert found["comparison"]["curve"]["kind"] == "chain"
    assert found["report"] == "here/report.html"
    assert (files / "here" / "comparison.json").exists()


def test_the_report_of_something_else_is_not_overwritten(files, capsys):
    (files / "run").mkdir()
    (files / "run" / "report.html").write_text("a run's")
    options = ["--task", "digits", "--points", "3", "--batches", "1", "--out", "run"]
    assert call(["compare", "net0.pt", "net1.pt", *options]) == 2
    assert "--out: run holds the report of something else" in capsys.readouterr().err
    assert (files / "run" / "report.html").read_text() == "a run's"
    (files / "run" / "comparison.json").write_text("{}")  # its own is made anew
    assert call(["compare", "net0.pt", "net1.pt", *options]) == 0


def test_stopped_it_does_not_promise_to_go_on(files, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "compare", stopped)
    assert call(["compare", "net0.pt", "net1.pt", "--task", "digits"]) == 130
    assert "lrscope: stopped; the same command starts anew" in capsys.readouterr().err


def test_files_of_one_name_are_told_apart(files, capsys):
    for name in ("one", "two"):
        (files / name).mkdir()
        (files / f"net{int(name == 'two')}.pt").rename(files / name / "net.pt")
    options = ["--task", "digits", "--points", "3", "--batches", "1", "--out", "x"]
    assert call(["compare", "one/net.pt", "two/net.pt", *options]) == 0
    assert "one-net to two-net" in capsys.readouterr().out
    assert call(["compare", "one/net.pt", "one/net.pt", *options]) == 0
    assert "hold the same weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["net0.pt", "none.pt", "--task", "digits"], "none.pt: no such file"),
        (["net0.pt", "bad.pt", "--task", "digits"], "bad.pt: it holds more than tensors"),
        (
            ["net0.pt", "net1.pt", "--task", "digits", "--set", "model=cnn"],
            "net0.pt: not a network of task 'digits-cnn'",
        ),
        (["net0.pt", "net1.pt", "--task", "digts"], "did you mean 'digits'"),
        (["net0.pt", "net1.pt", "--task", "digits", "--layers", "hiden.0"], "did you mean 'hidden.0'"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(files, arguments, says, capsys):
    torch.save(torch.nn.Linear(2, 2), files / "bad.pt")
    assert call(["compare", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lrscope: ")]
    assert says in lines[-1]
