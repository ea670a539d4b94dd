"""Claims at the papers' scale: networks of the published sizes, data from binary files, and runs that go on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lrscope.cli.app import call
from lrscope.errors import TaskError
from lrscope.isolation import isolated_rng
from lrscope.papers import PAPERS, claims
from lrscope.papers.scale import EXPERIMENTS
from lrscope.papers.scale.data import cifar
from lrscope.papers.scale.models import VGG, ChannelNorm, ResNet
from lrscope.records import Run

SMALL = {
    "kalra2024/gi-adam-boundary": {"widths": (4, 8, 8), "blocks": 1, "batch_size": 8, "steps": 2, "warmup": 2},
    "li2019/texp": {
        "widths": (4, 8, 8),
        "blocks": 1,
        "batch_size": 8,
        "steps_per_epoch": 1,
        "epochs": 2,
        "drops": (1,),
    },
    "lewkowycz2020/best-rate": {"widths": (4, 8, 8), "blocks": 1, "batch_size": 8, "steps": 2, "c": (1.0, 4.0)},
    "leclerc2020/large-first-generalises": {
        "widths": (4, 8, 8),
        "blocks": 1,
        "batch_size": 8,
        "steps_per_epoch": 1,
        "epochs": 2,
    },
    "gotmare2018/warmup-rescues": {
        "width": 4,
        "large_batch": 50,
        "small_batch": 25,
        "num_images": 50,
        "epochs": 2,
        "drops": (1,),
        "warmup": 2,
    },
}
"""Sizes that take seconds."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The published format, few images: a class each byte, 3,072 bytes of pixels."""
    folder = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = draw.integers(256, size=(10, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10)
        records.tofile(folder / name)
    return folder


def test_every_paper_with_claims_of_training_has_one_at_its_scale():
    assert {id.partition("/")[0] for id in EXPERIMENTS} == set(PAPERS)
    assert set(SMALL) == set(EXPERIMENTS)
    assert set(claims()) >= set(EXPERIMENTS)


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (lambda: ResNet((64, 128, 256), 2, norm="layer"), 2.75),  # WRN-16-4
        (lambda: ResNet((160, 320, 640), 4), 36.5),  # WRN-28-10
        (lambda: ResNet((16, 32, 64), 5), 0.466),  # PreResNet-32, with a convolution in two of its skips
        (lambda: VGG(11), 9.76),  # 9.2 million in convolutions, the rest in the stack
        (lambda: VGG(16), 15.2),
    ],
)
def test_networks_have_the_published_sizes(model, millions):
    with torch.device("meta"):
        net = model()
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_fixed_network_is_scale_invariant_in_all_that_trains(norm):
    with isolated_rng(0):
        net = ResNet((4, 8, 8), 1, norm=norm, fixed=True).double()
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for module in net.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-30
    before = net(x)
    trained = [p for p in net.parameters() if p.requires_grad]
    assert {id(p) for p in net.head.parameters()}.isdisjoint({id(p) for p in trained})
    with torch.no_grad():
        for p in trained:
            p.mul_(3.0)
    torch.testing.assert_close(net(x), before)


def test_channel_norm_is_layer_norm_of_each_pixel():
    x = torch.randn(2, 5, 3, 4)
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    torch.testing.assert_close(ChannelNorm(5)(x), (x - mean) / (var + 1e-5).sqrt())


def test_mixtures_keep_the_loss_between_those_of_their_classes(images):
    task = cifar(images, lambda: VGG(11, width=4), name="x", batch_size=8, mixup=True)
    model = task.model(0).eval()
    (x, (first, second, share)) = task.batches(1)[0]
    parts = [torch.nn.functional.cross_entropy(model(x), y, reduction="none") for y in (first, second)]
    expected = (share * parts[0] + (1 - share) * parts[1]).mean()
    torch.testing.assert_close(task.loss_fn(model, (x, (first, second, share))), expected)
    assert ((share >= 0) & (share <= 1)).all()
    task.check()


@pytest.mark.parametrize("id", SMALL)
def test_an_experiment_starts_stops_and_goes_on(id, images, tmp_path):
    small = replace(EXPERIMENTS[id], **SMALL[id])
    seen = []

    def stop(training, state):
        seen.append((training.name, state.step))
        if len(seen) == 3:  # in the second run
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.run(images, tmp_path, on_step=stop)
    trainings = small.trainings(images, (0,), "cpu")
    assert seen == [(one.name, step) for one in trainings for step in range(one.steps)][:3]
    again = []
    outcome = small.run(images, tmp_path, on_step=lambda training, state: again.append((training.name, state.step)))
    assert again == [(one.name, step) for one in trainings for step in range(one.steps)][3:]
    assert len(seen) + len(again) == sum(one.steps for one in trainings)
    assert outcome.id == id
    assert outcome.settings["scale"] == "paper"
    assert set(outcome.shows) <= set(outcome.numbers)
    assert (
        not small.run(images, tmp_path, on_step=lambda *_: pytest.fail("it is done")).numbers.keys() ^ outcome.numbers
    )
    price = small.price(images, timed=1)
    assert price.runs == len(trainings)
    assert price.steps == sum(one.steps for one in trainings)
    assert price.flops > 0
    assert price.hours > 0


def run(accuracy, losses=(1.0,) * 400):
    rows = [{"step": i, "loss": x} for i, x in enumerate(losses)]
    return Run("x", {}, (*rows, {"step": len(losses), "accuracy": accuracy}))


def test_the_judgements_follow_the_numbers():
    kalra = EXPERIMENTS["kalra2024/gi-adam-boundary"]

    def ends(last):
        peaks = (0.01, 0.02, 0.04)
        return {f"{kind}, {p:g}, seed 0": run(0.9 if p <= top else 0.1) for kind, top in last.items() for p in peaks}

    assert all(kalra.judge(ends({"adam": 0.01, "adam, warmup": 0.02, "gi-adam": 0.04}))[1].values())
    assert not any(kalra.judge(ends({"adam": 0.02, "adam, warmup": 0.02, "gi-adam": 0.02}))[1].values())
    assert not any(kalra.judge(ends({"adam": 0.0, "adam, warmup": 0.0, "gi-adam": 0.0}))[1].values())
    li = EXPERIMENTS["li2019/texp"]
    assert all(li.judge({"step decay, seed 0": run(0.951), "TEXP, seed 0": run(0.948)})[1].values())
    assert not all(li.judge({"step decay, seed 0": run(0.951), "TEXP, seed 0": run(0.94)})[1].values())
    lewk = EXPERIMENTS["lewkowycz2020/best-rate"]
    assert all(
        lewk.judge({"c 1, seed 0": run(0.5), "c 4, seed 0": run(0.6), "c 16, seed 0": run(float("nan"))})[1].values()
    )
    assert not all(lewk.judge({"c 1, seed 0": run(0.7), "c 4, seed 0": run(0.6)})[1].values())
    leclerc = EXPERIMENTS["leclerc2020/large-first-generalises"]
    arms = {"small only, seed 0": run(0.90, (0.1,) * 400), "large first, seed 0": run(0.91, (0.2,) * 400)}
    assert all(leclerc.judge(arms)[1].values())
    gotmare = EXPERIMENTS["gotmare2018/warmup-rescues"]
    three = {f"{arm}, seed 0": run(0.9) for arm in ("small batch", "large batch", "large batch, warmup")}
    assert not all(gotmare.judge(three)[1].values())
    assert all(gotmare.judge(three | {"large batch, seed 0": run(0.8)})[1].values())
    confounded = arms | {"large first, seed 0": run(0.91, (0.05,) * 400)}
    assert list(leclerc.judge(confounded)[1].values()) == [True, None]


def test_missing_data_is_said_before_any_work(tmp_path):
    with pytest.raises(TaskError, match=r"cifar10\(path=\): missing in"):
        EXPERIMENTS["li2019/texp"].run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def small_experiments(monkeypatch, *ids):
    from lrscope.papers import scale

    few = {id: replace(EXPERIMENTS[id], **SMALL[id]) for id in ids}
    monkeypatch.setattr(scale, "EXPERIMENTS", few)


def test_the_command_runs_goes_on_and_says_what_it_costs(images, tmp_path, monkeypatch, capsys):
    id = "leclerc2020/large-first-generalises"
    small_experiments(monkeypatch, id, "li2019/texp")
    asked = ["reproduce", "--scale", "paper", id, "--data", str(images), "--out", str(tmp_path)]
    assert call([*asked, "--estimate"]) == 0
    assert f"{id}: about" in capsys.readouterr().out
    assert not (tmp_path / "paper-scale").exists()
    code = call([*asked, "--json"])
    (outcome,) = json.loads(capsys.readouterr().out)["outcomes"]
    assert outcome["settings"] == {"scale": "paper", "seeds": [0], "device": "cpu"}
    assert code == (0 if outcome["verdict"] == "reproduced" else 3)
    assert call(asked) == code  # from what is there
    assert "at the paper's scale" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scale", "paper"], "--data"),
        (
            ["--scale", "paper", "li2019/equivalence", "--data", "x"],
            "li2019/equivalence has no such setting; there are",
        ),
        (["--scale", "paper", "li2019/texp", "--data", "nowhere"], "missing in nowhere"),
        (["--scale", "paper", "li2019/texp", "--data", "nowhere", "--seeds", "0"], "--seeds"),
        (
            ["--scale", "paper", "li2019/texp", "--data", "x", "--device", "gpu"],
            "--device: 'gpu' cannot be used here",
        ),
        (["--data", "x"], "--data: is for --scale paper"),
        (["--estimate"], "--estimate: is for --scale paper"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(["reproduce", *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) <= 2
