"""CIFAR-10 and CIFAR-100 from their published binary files; nothing is downloaded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lrscope.errors import TaskError
from lrscope.tasks.batches import Batches
from lrscope.tasks.losses import accuracy, cross_entropy
from lrscope.tasks.models import CNN, MLP
from lrscope.tasks.task import Task

IMAGE_BYTES = 3 * 32 * 32
Model = Literal["cnn", "mlp"]
Augment = Literal["none", "flip", "crop"]


@dataclass(frozen=True)
class _Format:
    """How one of the two data sets lies on disk."""

    name: str
    folder: str
    train: dict[str, int]  # file -> published number of images
    test: dict[str, int]
    label_bytes: int
    classes: dict[str, tuple[int, int]]  # kind of label -> (which label byte, number of classes)

    @property
    def record(self) -> int:
        return self.label_bytes + IMAGE_BYTES


CIFAR10 = _Format(
    "cifar10",
    "cifar-10-batches-bin",
    {f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
    {"test_batch.bin": 10_000},
    1,
    {"fine": (0, 10)},
)
CIFAR100 = _Format(
    "cifar100",
    "cifar-100-binary",
    {"train.bin": 50_000},
    {"test.bin": 10_000},
    2,
    {"coarse": (0, 20), "fine": (1, 100)},
)


def cifar10(
    path: str | Path,
    *,
    model: Model = "cnn",
    width: int | None = None,
    depth: int | None = None,
    batch_size: int = 128,
    steps: int = 4_000,
    augment: Augment = "crop",
    num_train: int | None = None,
    num_eval: int | None = None,
) -> Task:
    """CIFAR-10, 32x32 colour images of 10 classes, from its published binary version.

    Batches hold the images as bytes; the model's first layer scales them to [-2, 2].

    Args:
        path: The folder ``cifar-10-batches-bin``, or the one above it.
        model: ``"cnn"`` with GroupNorm, or ``"mlp"``.
        width: Channels of the CNN's first block (32), hidden units of the MLP (512).
        depth: Convolution blocks (4), or hidden layers (2).
        batch_size: Training images in a batch.
        steps: Updates of one ordinary run.
        augment: ``"crop"`` shifts by up to 4 pixels and mirrors, ``"flip"`` mirrors, ``"none"`` neither.
        num_train, num_eval: Use only the first so many images.

    Raises:
        TaskError: Files are missing or have an impossible size.
    """
    return _task(CIFAR10, path, "fine", model, width, depth, batch_size, steps, augment, num_train, num_eval)


def cifar100(
    path: str | Path,
    *,
    labels: Literal["fine", "coarse"] = "fine",
    model: Model = "cnn",
    width: int | None = None,
    depth: int | None = None,
    batch_size: int = 128,
    steps: int = 4_000,
    augment: Augment = "crop",
    num_train: int | None = None,
    num_eval: int | None = None,
) -> Task:
    """CIFAR-100 from its published binary version; ``path`` is ``cifar-100-binary`` or the folder above it.

    Args as :func:`cifar10`, and ``labels``: the 100 fine or the 20 coarse classes.
    """
    return _task(CIFAR100, path, labels, model, width, depth, batch_size, steps, augment, num_train, num_eval)


def _task(
    form: _Format,
    path: str | Path,
    labels: str,
    model: Model,
    width: int | None,
    depth: int | None,
    batch_size: int,
    steps: int,
    augment: Augment,
    num_train: int | None,
    num_eval: int | None,
) -> Task:
    for name, came, allowed in (
        ("model", model, ("cnn", "mlp")),
        ("augment", augment, ("none", "flip", "crop")),
        ("labels", labels, tuple(form.classes)),
    ):
        if came not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {came!r}")
    train, test = read(path, form)
    label, num_classes = form.classes[labels]
    x, y = train[0][:num_train], train[1][:num_train, label]
    eval_x, eval_y = test[0][:num_eval], test[1][:num_eval, label]
    width, depth = width or (32 if model == "cnn" else 512), depth or (4 if model == "cnn" else 2)
    return Task(
        build=partial(build, model=model, outputs=num_classes, width=width, depth=depth),
        loss_fn=cross_entropy,
        train=Batches(
            x,
            y,
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            augment=None if augment == "none" else partial(_augment, shift=4 if augment == "crop" else 0),
        ),
        evaluate=Batches(eval_x, eval_y, batch_size=500),
        metrics={"accuracy": accuracy},
        name=f"{form.name}-{model}",
        steps=steps,
    )


def build(
    seed: int,  # noqa: ARG001 - the global generator is seeded already
    *,
    model: str,
    outputs: int,
    width: int,
    depth: int,
) -> nn.Module:
    net = (
        (CNN(3, outputs, width=width, depth=depth))
        if model == "cnn"
        else MLP(IMAGE_BYTES, outputs, width=width, depth=depth)
    )
    return nn.Sequential(OrderedDict(pixels=Pixels(), net=net))


class Pixels(nn.Module):
    """Bytes to numbers in [-2, 2], in torch's default dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.get_default_dtype()) - 127.5) / 63.75


def _augment(batch: tuple[Tensor, Tensor], generator: torch.Generator, *, shift: int) -> tuple[Tensor, Tensor]:
    x, y = batch
    # Mid-grey borders: zero bytes would be the darkest value, not the mean.
    return flip_and_crop(x, generator, shift=shift, fill=127), y


def flip_and_crop(x: Tensor, generator: torch.Generator, *, shift: int, fill: float) -> Tensor:
    """Images ``(B, C, H, W)``, half of them mirrored, each moved by up to ``shift`` pixels; ``fill`` moves in."""
    flip = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    if not shift:
        return x
    padded = nn.functional.pad(x, (shift,) * 4, value=fill)
    start = torch.randint(2 * shift + 1, (2, len(x), 1), generator=generator)
    rows, columns = start[0] + torch.arange(x.shape[2]), start[1] + torch.arange(x.shape[3])
    moved = padded.permute(0, 2, 3, 1)[torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def read(path: str | Path, form: _Format) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test part: images ``(N, 3, 32, 32)`` uint8 and labels ``(N, label_bytes)`` int64."""
    given = Path(path).expanduser()
    folders = [given, given / form.folder]
    names = {**form.train, **form.test}
    folder = max(folders, key=lambda f: sum((f / name).is_file() for name in names))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        sizes = ", ".join(f"{name} ({names[name] * form.record:,} bytes)" for name in missing)
        raise TaskError(
            f"{form.name}(path=): missing in {folder}: {sizes}; give the folder {form.folder} of the unpacked binary "
            "version (or the folder above it); lrscope downloads nothing"
        )
    train = [_read_file(folder / name, num, form) for name, num in form.train.items()]
    test = [_read_file(folder / name, num, form) for name, num in form.test.items()]
    return _join(train), _join(test)


def _join(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def _read_file(file: Path, published: int, form: _Format) -> tuple[Tensor, Tensor]:
    found = np.fromfile(file, dtype=np.uint8)
    if not len(found) or len(found) % form.record:
        raise TaskError(
            f"{form.name}(path=): {file} has {len(found):,} bytes, which is not a whole number of images of "
            f"{form.record:,} bytes; the published file has {published * form.record:,}; it may be cut off or be "
            "another version (the Python and MATLAB versions are not read)"
        )
    records = found.reshape(-1, form.record)
    labels = torch.from_numpy(records[:, : form.label_bytes].astype(np.int64))
    for kind, (column, num_classes) in form.classes.items():
        if int(labels[:, column].max()) >= num_classes:
            raise TaskError(
                f"{form.name}(path=): {file} holds the {kind} label {int(labels[:, column].max())}, but there are "
                f"only {num_classes} classes; it is not a file of this data set's binary version"
            )
    images = torch.from_numpy(np.ascontiguousarray(records[:, form.label_bytes :]))
    return images.view(-1, 3, 32, 32), labels
