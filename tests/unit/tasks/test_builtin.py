"""Built-in tasks: shapes, parameter counts, fixed splits, determinism, and the readers' errors."""

import pickle

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrscope.errors import TaskError
from lrscope.tasks import BatchStream, cifar10, cifar100, digits, text, topics
from lrscope.tasks.digits import split
from lrscope.tasks.models import CNN, GPT, MLP
from lrscope.tasks.text import encode
from lrscope.tasks.topics import topics_text

CPU_TASKS = {
    "digits-mlp": digits,
    "digits-cnn": lambda: digits(model="cnn"),
    "topics": lambda: topics(size="tiny", batch_size=4, context=16),
}


def num_params(task):
    return task.objective().size


@pytest.mark.parametrize("name", CPU_TASKS)
def test_checks_pickles_and_repeats(name):
    task = CPU_TASKS[name]()
    task.check()
    again = pickle.loads(pickle.dumps(task))
    for of in ("train", "evaluate"):
        for a, b in zip(task.batches(2, of=of), again.batches(2, of=of), strict=True):
            assert all(map(torch.equal, a, b))
    assert task.objective(seed=1).loss() == again.objective(seed=1).loss() != task.objective(seed=2).loss()
    assert task.train.draws_only_at_start


def test_parameter_counts_named_in_the_documentation():
    assert num_params(digits()) == 8_970
    assert num_params(digits(model="cnn")) == 1_922
    assert [num_params(topics(size=size)) for size in ("tiny", "small", "base")] == [56_032, 210_368, 813_952]


def test_digits_split_is_fixed_disjoint_and_stratified():
    (x, y), (eval_x, eval_y) = split()
    assert x.shape == (1_000, 1, 8, 8)
    assert eval_x.shape == (797, 1, 8, 8)
    assert 0 <= x.min() < x.max() <= 1
    share = y.bincount() / (y.bincount() + eval_y.bincount())
    assert (share - 1_000 / 1_797).abs().max() < 0.01
    train_images = {image.numpy().tobytes() for image in x}
    assert sum(image.numpy().tobytes() in train_images for image in eval_x) == 0


def test_digits_batches_are_noisy_scaled_and_new_each_epoch():
    task = digits()
    stream = BatchStream(task.train, 0)
    batches = [next(stream) for _ in range(30)]
    assert all(x.shape == (64, 1, 8, 8) for x, _ in batches)
    pixels = torch.cat([x for x, _ in batches])
    assert abs(pixels.mean()) < 0.1
    assert abs(pixels.std() - 1) < 0.1
    assert not torch.equal(batches[0][0], batches[15][0])
    ((images, labels),) = task.evaluate
    assert images.shape == (4 * 797, 1, 8, 8)
    assert torch.equal(labels[:797], labels[797 : 2 * 797])


def test_topics_windows_shift_targets_by_one_and_do_not_overlap_evaluation():
    task = topics(size="tiny", batch_size=4, context=16)
    x, y = next(iter(task.train))
    assert x.shape == y.shape == (4, 16)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert len(list(task.train)) == len(task.train)
    ((inputs, targets),) = task.evaluate
    assert inputs.shape == targets.shape == (64, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_topics_text_is_english_and_repeats_no_paragraph():
    found = topics_text()
    assert " the " in found
    assert len(found) > 200_000
    parts = found.split("\n\n")
    assert len(parts) == len(set(parts))


def test_text_from_a_file(tmp_path):
    file = tmp_path / "poem.txt"
    file.write_text("Wer reitet so spät durch Nacht und Wind? " * 100, encoding="utf-8")
    task = text(file, size="tiny", batch_size=4, context=16)
    task.check()
    assert task.name == "text-poem-tiny"
    assert task.steps == 400


def test_encode_keeps_known_characters_and_folds_the_rest():
    assert encode("abcä😀a", "ab").tolist() == [0, 1, 2, 2, 2, 0]


def test_text_errors(tmp_path):
    with pytest.raises(TaskError, match=r"cannot read .*No such file"):
        text(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("spät".encode("latin-1"))
    with pytest.raises(TaskError, match="not UTF-8"):
        text(tmp_path / "latin.txt")
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(TaskError, match="9 characters are too few"):
        text(tmp_path / "short.txt")
    (tmp_path / "enough.txt").write_text("ab " * 1000)
    with pytest.raises(ValueError, match="size: expected one of tiny, small, base, got 'huge'"):
        text(tmp_path / "enough.txt", size="huge")


def records(num, label_bytes, label):
    rng = np.random.default_rng(0)
    found = rng.integers(0, 256, (num, label_bytes + 3072), dtype=np.uint8)
    found[:, :label_bytes] = label
    return found


@pytest.fixture
def cifar_folder(tmp_path):
    ten, hundred = tmp_path / "cifar-10-batches-bin", tmp_path / "cifar-100-binary"
    ten.mkdir()
    hundred.mkdir()
    for i in range(1, 6):
        records(4, 1, i).tofile(ten / f"data_batch_{i}.bin")
    records(6, 1, 9).tofile(ten / "test_batch.bin")
    records(8, 2, (19, 99)).tofile(hundred / "train.bin")
    records(6, 2, (3, 42)).tofile(hundred / "test.bin")
    return tmp_path


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_cifar10(cifar_folder, inside, model):
    folder = cifar_folder / "cifar-10-batches-bin" if inside else cifar_folder
    task = cifar10(folder, model=model, width=8, batch_size=5)
    task.check()
    x, _ = next(iter(task.train))
    assert x.shape == (5, 3, 32, 32)
    assert x.dtype == torch.uint8
    assert len(task.train) == 4
    assert sorted(torch.cat([y for _, y in task.train]).tolist()) == sorted([1, 2, 3, 4, 5] * 4)


def test_cifar_pixels_lie_where_the_published_format_puts_them(cifar_folder):
    task = cifar10(cifar_folder, batch_size=4, augment="none", num_eval=2)
    ((x, y),) = task.evaluate
    expected = records(6, 1, 9)[:2, 1:].reshape(2, 3, 32, 32)
    assert torch.equal(x, torch.from_numpy(expected))
    assert y.tolist() == [9, 9]


def test_cifar_flip_only_mirrors_and_crop_shifts(cifar_folder):
    plain = cifar10(cifar_folder, batch_size=20, augment="none").batches(1)[0][0]
    known = {i.numpy().tobytes() for i in plain} | {i.flip(-1).contiguous().numpy().tobytes() for i in plain}
    flipped = cifar10(cifar_folder, batch_size=20, augment="flip").batches(1)[0][0]
    cropped = cifar10(cifar_folder, batch_size=20, augment="crop").batches(1)[0][0]
    assert all(i.contiguous().numpy().tobytes() in known for i in flipped)
    assert not all(i.contiguous().numpy().tobytes() in known for i in cropped)


def test_cifar100_has_fine_and_coarse_labels(cifar_folder):
    fine = cifar100(cifar_folder, width=8, batch_size=4)
    coarse = cifar100(cifar_folder, width=8, batch_size=4, labels="coarse")
    assert fine.batches(1)[0][1].tolist() == [99] * 4
    assert coarse.batches(1)[0][1].tolist() == [19] * 4
    assert fine.model(0).net.head.out_features == 100
    assert coarse.model(0).net.head.out_features == 20


def test_cifar_errors(cifar_folder, tmp_path):
    ten = cifar_folder / "cifar-10-batches-bin"
    with pytest.raises(ValueError, match="augment: expected one of none, flip, crop"):
        cifar10(cifar_folder, augment="all")
    (ten / "data_batch_2.bin").write_bytes(b"0" * 100)
    with pytest.raises(TaskError, match=r"data_batch_2\.bin has 100 bytes.*3,073 bytes.*30,730,000"):
        cifar10(cifar_folder)
    records(4, 1, 77).tofile(ten / "data_batch_2.bin")
    with pytest.raises(TaskError, match="label 77, but there are only 10"):
        cifar10(cifar_folder)
    (ten / "data_batch_2.bin").unlink()
    with pytest.raises(TaskError, match=r"missing in .*: data_batch_2\.bin \(30,730,000 bytes\); give the folder"):
        cifar10(cifar_folder)


@pytest.mark.parametrize("name", CPU_TASKS)
def test_models_work_under_vmap_over_stacked_parameters(name):
    task = CPU_TASKS[name]()
    models = [task.model(seed) for seed in range(2)]
    params, buffers = stack_module_state(models)
    assert not buffers
    x, y = task.batches(1)[0]

    def loss(p):
        logits = functional_call(models[0], p, (x,))
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
        grads = vmap(grad(loss))(params)
    task.loss_fn(models[1], (x, y)).backward()
    for name_, p in models[1].named_parameters():
        torch.testing.assert_close(grads[name_][1], p.grad, rtol=1e-4, atol=1e-6)


def test_a_gpt_cannot_see_the_future_and_ties_its_head_when_told():
    model = GPT(11, context=8, width=8, depth=2, heads=2)
    tokens = torch.randint(11, (2, 8))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    same = (model(tokens) == model(changed)).all(-1)
    assert same[:, :5].all()
    assert not same[:, 5].any()
    assert model.head.weight is model.token.weight
    assert GPT(11, width=8, heads=2, tied=False).head.weight is not model.token.weight


def test_gpt_dropout_acts_in_training_only():
    model = GPT(11, context=8, width=8, heads=2, dropout=0.5)
    tokens = torch.randint(11, (2, 8))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_cnn_for_32_pixels_and_without_norm():
    x = torch.randn(2, 3, 32, 32)
    assert CNN(3, 10, width=8, depth=4)(x).shape == (2, 10)
    assert CNN(3, 10, width=6, depth=2, norm="none", cells=2)(x).shape == (2, 10)
    assert MLP(3 * 32 * 32, 10, depth=0)(x).shape == (2, 10)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MLP(2, 2, activation="swish"), "activation: expected one of gelu, relu, tanh, got 'swish'"),
        (lambda: CNN(1, 2, norm="batch"), "norm: expected"),
        (lambda: CNN(1, 2, width=6), "multiple of 4"),
        (lambda: GPT(5, width=10, heads=4), "heads: must divide width"),
        (lambda: GPT(5, context=4)(torch.zeros(1, 5, dtype=torch.long)), "longer than the context of 4"),
        (lambda: digits(model="rnn"), "model: expected 'mlp' or 'cnn'"),
    ],
)
def test_model_errors(make, said):
    with pytest.raises(ValueError, match=said):
        make()
