"""Kinds of models and what is wrapped around them: rows of docs/curvature_matrix.md and of its test.

A case builds a float32 model as it is trained (compiled, checkpointed, under autocast, ...) with its batches, and the
same loss in float64 without any wrapping, for reference. Fewer than 3,000 parameters each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import cases
from lrscope import Objective
from lrscope.curvature import block

NUM = 12


def features(dtype: torch.dtype) -> Any:
    return part(cases.data(dtype))


def part(tensors: Any) -> Any:
    return tuple(t[:NUM] for t in tensors)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell = kind(cases.FEATURES, 8, batch_first=True)
        self.head = nn.Linear(8, cases.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Checkpointed(nn.Module):
    """Two stages, each run again in the backward pass; ``None`` runs them once."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.inward = nn.Linear(cases.FEATURES, 8)
        self.stages = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)])
        self.head = nn.Linear(8, cases.CLASSES)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inward(x))
        for stage in self.stages:
            x = stage(x) if self.reentrant is None else checkpoint(stage, x, use_reentrant=self.reentrant)
        return self.head(x)


def unchecked(model: nn.Module) -> nn.Module:
    model.reentrant = None
    return model


def normed(norm: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1), norm(), nn.GELU(), nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Linear(24, cases.CLASSES),
    )  # fmt: skip


def in_autocast(model: nn.Module, batch: Any) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return cases.cross_entropy(model, batch)


def causal_lm(architecture: str) -> nn.Module:
    """A Hugging Face causal language model, from a configuration."""
    import transformers

    if architecture == "llama":
        config = transformers.LlamaConfig(
            vocab_size=cases.VOCAB, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=16, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    else:
        config = transformers.GPT2Config(
            vocab_size=cases.VOCAB, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
        )
    return transformers.AutoModelForCausalLM.from_config(config)


def lm_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(input_ids=batch[0], labels=batch[0]).loss


def lm_checkpointing(model: nn.Module) -> nn.Module:
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    return model


def vit() -> nn.Module:
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2,
        num_classes=cases.CLASSES,
    )  # fmt: skip


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="aot_eager")


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        model, wrapping: Its name in the table.
        make: A float32 model, unwrapped, with the random state at hand.
        wrap: From that model to the one that is trained.
        plain: From a float64 copy of the unwrapped model to one without the wrapping.
        loss_fn, reference_loss: ``loss_fn(model, batch)``; the second without autocast.
        kind: Of data, see ``cases.data``.
        splits: Sizes of the batches.
        only: Names for :func:`lrscope.curvature.block`.
        without: Methods that cannot work, with words of the refusal.
        loose: Bounds on the relative error of a derivative, and of a difference.
        needs: A package.
    """

    model: str
    wrapping: str
    make: Callable[[], nn.Module]
    wrap: Callable[[nn.Module], nn.Module] = lambda m: m
    plain: Callable[[nn.Module], nn.Module] = lambda m: m
    loss_fn: Any = cases.cross_entropy
    reference_loss: Any = None
    kind: str = "features"
    splits: tuple[int, ...] = (NUM,)
    mode: str = "train"
    only: tuple[str, ...] = ()
    without: tuple[tuple[str, str], ...] = ()
    loose: tuple[float, float] = (1e-4, 1e-2)
    needs: str = ""

    def __str__(self) -> str:
        return f"{self.model}, {self.wrapping}"

    def build(self) -> tuple[Objective, Objective]:
        """The objective as trained in float32, and the plain one in float64."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = self.make()
        double = self.plain(copy.deepcopy(model)).double()
        batches = [self.batches(dtype) for dtype in (torch.float32, torch.float64)]
        pair = (
            Objective(self.wrap(model), self.loss_fn, batches[0], mode=self.mode),
            Objective(double, self.reference_loss or self.loss_fn, batches[1], mode=self.mode),
        )
        return tuple(block(o, *self.only) for o in pair) if self.only else pair

    def batches(self, dtype: torch.dtype) -> list[Any]:
        tensors = part(cases.data(dtype, self.kind))
        return list(zip(*(t.split(list(self.splits)) for t in tensors), strict=True))


def gpt() -> nn.Module:
    return cases.gpt(tied=False)


NO_REENTRANT = (("exact", "use_reentrant=True"), ("forward", "autograd function"))
CASES = [
    Case("MLP, tanh", "plain", cases.mlp),
    Case("MLP, tanh", "batches of 5, 5, 2", cases.mlp, splits=(5, 5, 2)),
    Case("MLP, tanh", "six micro-batches", cases.mlp, splits=(2,) * 6),
    Case("MLP, tanh", "squared error", cases.mlp, loss_fn=cases.squared, without=(("forward", "mse_loss"),)),
    Case("MLP, tanh", "first layer frozen", cases.frozen),
    Case("MLP, tanh", "only the last layer", cases.mlp, only=("head",)),
    Case("MLP, tanh", "torch.compile", cases.mlp, wrap=compiled),
    Case("MLP, tanh", "autocast bfloat16", cases.mlp, loss_fn=in_autocast, reference_loss=cases.cross_entropy, loose=(0.1, 0.5)),
    Case("MLP, tanh", "checkpointing", lambda: Checkpointed(False), plain=unchecked, without=(("forward", "checkpointing"),)),
    Case("MLP, tanh", "checkpointing, reentrant", lambda: Checkpointed(True), plain=unchecked, without=NO_REENTRANT),
    Case("MLP, ReLU", "plain", lambda: cases.mlp(activation="relu"), loose=(1e-4, float("inf"))),
    Case("CNN, GroupNorm", "plain", lambda: normed(lambda: nn.GroupNorm(2, 6)), kind="image"),
    Case("CNN, BatchNorm", "train: batch statistics", lambda: normed(lambda: nn.BatchNorm2d(6)), kind="image"),
    Case("CNN, BatchNorm", "eval: running statistics", lambda: normed(lambda: nn.BatchNorm2d(6)), kind="image", mode="eval"),
    Case("CNN, GroupNorm", "torch.compile", lambda: normed(lambda: nn.GroupNorm(2, 6)), wrap=compiled, kind="image"),
    Case("GPT, fused attention", "plain", gpt, kind="tokens"),
    Case("GPT, fused attention", "tied embeddings", cases.gpt, kind="tokens"),
    Case("GPT, fused attention", "torch.compile", gpt, wrap=compiled, kind="tokens"),
    Case("GPT, fused attention", "autocast bfloat16", gpt, loss_fn=in_autocast, reference_loss=cases.cross_entropy, kind="tokens", without=(("forward", "mixes dtypes"),), loose=(0.1, 0.5)),
    Case("LSTM", "plain", lambda: Recurrent(nn.LSTM), kind="series", without=(("forward", "mkldnn_rnn_layer"),)),
    Case("GRU", "plain", lambda: Recurrent(nn.GRU), kind="series"),
    Case("Embedding, tied", "plain", cases.TiedBag, kind="tokens"),
    Case("Hugging Face GPT-2", "plain", lambda: causal_lm("gpt2"), loss_fn=lm_loss, kind="tokens", needs="transformers"),
    Case("Hugging Face Llama", "plain", lambda: causal_lm("llama"), loss_fn=lm_loss, kind="tokens", needs="transformers"),
    Case("Hugging Face Llama", "checkpointing", lambda: causal_lm("llama"), wrap=lm_checkpointing, without=(("forward", "requires_grad_"),), loss_fn=lm_loss, kind="tokens", needs="transformers"),
    Case("timm ViT", "plain", vit, kind="image", needs="timm"),
]  # fmt: skip
