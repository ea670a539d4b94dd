"""A small pre-norm language model of kalra2024's kind, with and without its final normalisation."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.papers.kalra2024.networks import standard
from lrscope.tasks import Task
from lrscope.tasks.topics import ALPHABET, topics_text

CONTEXT = 64


class Block(nn.Module):
    """Attention and a GELU layer of four times the width, each behind a LayerNorm and beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(-2, -3).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class PreNormLM(nn.Module):
    """Sinusoidal positions, ``blocks`` of :class:`Block`, a LayerNorm if asked for, and a head of its own.

    Standard parameterisation; embeddings have variance 1 / width (ours: the paper's is not known).
    """

    def __init__(self, final_norm: bool, width: int = 64, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width) if final_norm else nn.Identity()
        self.head = nn.Linear(width, len(ALPHABET))
        standard(self, self.head)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        angle = torch.arange(CONTEXT)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
        self.register_buffer("positions", torch.cat([angle.sin(), angle.cos()], -1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.positions)))


def small_text(final_norm: bool, windows: int = 16) -> Task:
    """The next of each of 64 characters, in ``windows`` spread evenly over the topics of Python's help, one batch."""
    place = {letter: i for i, letter in enumerate(ALPHABET)}
    text = torch.tensor([place[c] for c in topics_text() if c in place])
    starts = torch.linspace(0, len(text) - CONTEXT - 1, windows).long()
    rows = torch.stack([text[s : s + CONTEXT + 1] for s in starts])
    build = partial(_build, final_norm)
    return Task(build, _next_character, [(rows[:, :-1], rows[:, 1:])], name="topics-prenorm")


def _build(final_norm: bool, seed: int) -> nn.Module:  # noqa: ARG001 - the generator is seeded
    return PreNormLM(final_norm)


def _next_character(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    tokens, following = batch
    return F.cross_entropy(model(tokens).flatten(0, -2), following.flatten())
