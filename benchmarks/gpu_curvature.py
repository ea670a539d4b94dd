"""Curvature of a GPT of 124 million parameters on a GPU, as it is trained: bfloat16 autocast, flash attention, compiled.

    python benchmarks/gpu_curvature.py                       # needs a CUDA device with 40 GB or more
    python benchmarks/gpu_curvature.py --tiny --device cpu   # the same path at toy size, under a minute

One run answers: what a Hessian-vector product costs in gradients of the training loss and in memory beyond one, what a
cold solve costs and how far off it is, what tracking adds when it looks every 50 steps. The error is that against the
same model in float32, uncompiled, solved to a residual of 0.1 %. Tokens are drawn from a Zipf law, each second one
copied from its predecessor, so that there is something to learn and nothing to download. Prints Markdown tables; raw
numbers go to benchmarks/results/gpu_curvature.json (not with ``--tiny``).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable
from typing import Any

import problems
import torch
from problems import cross_entropy
from torch import Tensor, nn

from lrscope import Objective, SharpnessTracker, sharpness
from lrscope.curvature import choose
from lrscope.errors import MeasurementError
from lrscope.tasks.models import GPT

FULL = {"vocab": 50_304, "context": 1024, "width": 768, "depth": 12, "heads": 12}
TINY = {"vocab": 97, "context": 32, "width": 32, "depth": 2, "heads": 2}


def tokens(batch: int, vocab: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = 1 / (torch.arange(vocab) + 10.0)
    drawn = torch.multinomial(weights.expand(batch, -1), context + 1, replacement=True, generator=generator)
    drawn[:, 1::2] = drawn[:, 0:-1:2][:, : drawn[:, 1::2].shape[1]]
    return drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


class Setting:
    """The model as it is trained, and a batch to measure on."""

    def __init__(self, options: argparse.Namespace) -> None:
        shape = TINY if options.tiny else FULL
        self.device = torch.device(options.device)
        torch.manual_seed(0)
        self.plain = GPT(**shape).to(self.device)
        self.model: nn.Module = torch.compile(self.plain) if options.compile else self.plain  # type: ignore[assignment]
        draws = [tokens(options.batch, shape["vocab"], shape["context"], seed) for seed in range(20)]
        self.batches = [tuple(t.to(self.device) for t in batch) for batch in draws]
        self.small = [tuple(t[: options.measured] for t in self.batches[0])]
        self.optimizer = torch.optim.AdamW(self.plain.parameters(), lr=6e-4, betas=(0.9, 0.95))
        self.updates = 0

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return cross_entropy(model(batch[0]), batch[1])

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss(self.model, self.batches[self.updates % len(self.batches)]).backward()
        self.optimizer.step()
        self.updates += 1

    def objective(self) -> Objective:
        return Objective(self.model, self.loss, self.small)

    def in_float32(self) -> Objective:
        return Objective(copy.deepcopy(self.plain), lambda m, b: cross_entropy(m(b[0]), b[1]), self.small)


def products(setting: Setting, repeats: int) -> dict[str, Any]:
    objective = setting.objective()
    theta = objective.point()
    v = torch.randn(theta.shape, device=theta.device, generator=torch.Generator(theta.device).manual_seed(0))
    params = list(setting.plain.parameters())

    def gradient() -> Any:
        return torch.autograd.grad(setting.loss(setting.model, setting.small[0]), params)

    calls: dict[str, Callable[[], Any]] = {"gradient": gradient}
    refused, errors = {}, {}
    for method in ("difference", "exact"):
        try:
            choice = choose(objective, theta, method=method)
        except MeasurementError as error:
            refused[method] = str(error)
            continue
        errors[method] = choice.error
        calls[method] = lambda choice=choice: choice.at(objective, theta) @ v
    taken = problems.taking_turns(calls, repeats)
    memory = {name: problems.peak_bytes(do) for name, do in calls.items()}
    vector = theta.numel() * theta.element_size()
    print(
        "| product | wall, gradients | peak memory beyond a gradient's, parameter vectors | error |\n|---|---|---|---|"
    )
    print(f"| gradient | 1 = {1e3 * statistics.median(taken['gradient']):.1f} ms | the peak itself is "
          f"{memory['gradient'] / vector:.1f} | |")  # fmt: skip
    rows = {}
    for name in errors:
        beyond = (memory[name] - memory["gradient"]) / vector
        rows[name] = {"gradients": problems.ratio(taken[name], taken["gradient"]), "beyond": beyond,
                      "error": errors[name]}  # fmt: skip
        print(f"| {name} | {rows[name]['gradients']:.2f} | {beyond:.2f} | {errors[name]:.1g} |")
    for name, why in refused.items():
        print(f"| {name} | refused: {why} | | |")
    return {"rows": rows, "refused": refused, "seconds": taken, "bytes": memory}


def cold(setting: Setting, gradient_seconds: float) -> list[dict[str, Any]]:
    truth = sharpness(setting.in_float32(), tol=1e-3)
    print(f"\nIn float32: {truth}\n\n| asked for | products | time, gradients | error | peak memory, parameter vectors |"
          "\n|---|---|---|---|---|")  # fmt: skip
    rows = []
    for tol in (1e-2, 1e-3):
        objective = setting.objective()
        found: list[Any] = []
        taken = problems.seconds(lambda tol=tol, found=found, o=objective: found.append(sharpness(o, tol=tol)))
        peak = problems.peak_bytes(lambda tol=tol: sharpness(setting.objective(), tol=tol))
        rows.append({
            "tol": tol, "result": found[0].to_dict(), "gradients": taken / gradient_seconds,
            "error": abs(found[0].value / truth.value - 1), "vectors": peak / (4 * objective.size),
        })  # fmt: skip
        row = rows[-1]
        print(f"| {tol:.1%} | {found[0].num_matvecs}{'' if found[0].converged else ' (not converged)'} | "
              f"{row['gradients']:.0f} | {row['error']:.2g} | {row['vectors']:.1f} |")  # fmt: skip
    return rows


def tracking(setting: Setting, blocks: int) -> dict[str, Any]:
    tracker = SharpnessTracker(setting.objective(), setting.optimizer)
    setting.step()
    tracker.update()

    def block() -> None:
        for _ in range(50):
            setting.step()

    def watched() -> None:
        block()
        tracker.update()

    taken = problems.taking_turns({"plain": block, "watched": watched}, blocks)
    overhead = problems.ratio(taken["watched"], taken["plain"]) - 1
    each = (tracker.num_matvecs, tracker.num_updates)
    print(f"\nTracking every 50 steps: {overhead:+.1%} of {1e3 * statistics.median(taken['plain']) / 50:.1f} ms a step, "
          f"{each[0]} products in {each[1]} readings, the first one included")  # fmt: skip
    return {"overhead": overhead, "products": each[0], "readings": each[1], "seconds": taken}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true", help="toy size; nothing is kept")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, help="sequences in a training batch (16)")
    parser.add_argument("--measured", type=int, help="of which curvature is measured on (2)")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    options.batch = options.batch or (4 if options.tiny else 16)
    options.measured = options.measured or 2
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("--device: expected a CUDA device, and torch sees none here; --tiny --device cpu runs the same path")
    if not options.device.startswith("cuda") and not options.tiny:
        sys.exit(f"--device: {options.device} is too slow for 124 million parameters; add --tiny")
    setting = Setting(options)
    size = sum(p.numel() for p in setting.plain.parameters())
    name = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "CPU"
    print(f"GPT, {size:,} parameters, bfloat16 autocast, {'compiled, ' * options.compile}{name}\n")
    for _ in range(
        3 if options.tiny else 30
    ):  # away from the start, where the head's gradient is nearly all there is
        setting.step()
    found: dict[str, Any] = {"size": size, "device": name, "options": vars(options)}
    found["products"] = products(setting, 3 if options.tiny else 20)
    unit = statistics.median(found["products"]["seconds"]["gradient"])
    found["cold"] = cold(setting, unit)
    found["tracking"] = tracking(setting, 2 if options.tiny else 5)
    if not options.tiny:
        print("\n", problems.keep("gpu_curvature", **found), sep="")


if __name__ == "__main__":
    main()
