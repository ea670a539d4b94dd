"""Whole updates of a captured program, several at a call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from lrscope.optimizers.functional import FunctionalOptimizer, FunctionalState
from lrscope.training.captured import Captured
from lrscope.training.feed import Draw, joined
from lrscope.training.kernels import Call, Given, Unplayable
from lrscope.training.players import Play, player
from lrscope.training.recorded import recorded


class Updates:
    """Updates of ``captured``'s program after the first one, which decides what the rule remembers.

    Args:
        captured: Where the gradients come from.
        rule, state: The rule's, for this program.
        seeds: Whose batches its replicas need, in their order.
        shared: All take the one batch of one seed.
    """

    def __init__(
        self,
        captured: Captured,
        rule: FunctionalOptimizer,
        state: FunctionalState,
        seeds: Sequence[int],
        *,
        shared: bool,
    ) -> None:
        self.captured, self.rule, self.state, self.seeds, self.shared = captured, rule, state, seeds, shared
        self._streams = list(dict.fromkeys(seeds))
        self._plays: dict[Hashable, Play | None] = {}

    def play(self, draws: Sequence[Draw], numbers: Sequence[Tensor], losses: Tensor) -> None:
        """One update for each of ``draws``.

        Args:
            draws: K batches of each seed.
            numbers: What the rule has for these updates, each ``(K, N or 1, 1)``.
            losses: Where the losses go, ``(K, N)``.
        """
        each = zip(*(n.unbind(0) for n in numbers), strict=True)
        steps = list(zip(draws, each, losses.unbind(0), strict=True))
        for play, some in groupby(steps, lambda step: self.prepare(step[0])):
            if play is not None:
                play([[*self._tensors(draw), *now, out] for draw, now, out in some])
                continue
            for draw, now, out in some:
                found, grads = self.captured.gradients(*joined(draw, self.seeds, shared=self.shared))
                out.copy_(found)
                self.rule.apply(self.captured.program.theta, grads, now, self.state)

    def prepare(self, draw: Draw) -> Play | None:
        """What makes updates by batches like these; ``None`` where they cannot be played."""
        kind = tuple(draw[seed].kind for seed in self._streams)
        if kind not in self._plays:
            self._plays[kind] = self._made(draw)
        return self._plays[kind]

    def _tensors(self, draw: Draw) -> list[Tensor]:
        return [tensor for seed in self._streams for tensor in draw[seed].tensors]

    def _made(self, draw: Draw) -> Play | None:
        tape = self.captured.tape(*joined(draw, self.seeds, shared=self.shared))
        if tape is None:
            return None
        program, (grads, losses, *after) = self.captured.program, tape.outputs
        count, given = len(draw[self.seeds[0]].tensors), len(self._tensors(draw))
        calls = [self._fed(i, count, memory) for i, memory in enumerate(tape.inputs[len(tape.inputs) - count :])]
        calls += tape.calls
        held = zip(program.stacked.values(), after, strict=True)
        calls += [Call.copy(old, new) for old, new in held if old is not new]

        def update(*numbers: Tensor) -> None:
            self.rule.apply(program.theta, grads, numbers, self.state)

        # Any rates will do: which operations an update is made of does not depend on them.
        wide = torch.promote_types(grads.dtype, torch.float32)
        numbers = self.rule.numbers(torch.zeros(1, len(self.seeds), 1, dtype=wide), self.state.step)
        try:
            calls += recorded(update, [n[0] for n in numbers], first=given)
        except Unplayable:
            return None
        return player([*calls, Call.copy(Given(given + len(numbers)), losses)])

    def _fed(self, leaf: int, count: int, memory: Tensor) -> Call:
        """Fill the place of a batch's tensor from what is given: one for all, or one for each replica."""
        if self.shared:
            return Call.copy(memory, Given(leaf))
        rows = [Given(self._streams.index(seed) * count + leaf) for seed in self.seeds]
        return Call(torch.ops.aten.stack.out, (rows, 0), {"out": memory})
