"""What one step of GI-AdamW costs, against ``torch.optim.AdamW`` on the same parameters.

    python benchmarks/optimizer_step.py        # prints a table, writes benchmarks/results/optimizer_step.json

1 M and 50 M parameters in float32, in the tensors of a transformer, on the CPU and on a GPU if there is one: foreach,
fused, and one tensor at a time. The two take turns, one step each, many times. A shared machine only ever adds time,
so the best step of each counts; the median over turns of the ratio is printed beside it. ``torch / torch`` is the same
with a second AdamW in the place of GI-AdamW: how far such a ratio is from 1 by chance alone. ``first`` is the first
step, which makes the state: the only one in which GI-AdamW does more. Where a machine is too noisy for all that, the
last line says the same directly: of a later step only the look at the state is ours, and that is timed alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lrscope.optimizers import GIAdamW
from lrscope.records import environment

RESULTS = Path(__file__).parent / "results" / "optimizer_step.json"
MODES: dict[str, dict[str, bool]] = {
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "loop": {"foreach": False},
}
SIZES = {"1 M": (144, 4), "50 M": (768, 7)}
"""Width and depth of the transformers whose parameters are stepped: 12 tensors a block."""


def parameters(width: int, depth: int, device: str) -> list[torch.nn.Parameter]:
    block = [
        *((width,) for _ in range(4)),
        *((3 * width, width), (3 * width,), (width, width), (width,)),
        *((4 * width, width), (4 * width,), (width, 4 * width), (width,)),
    ]
    made = [torch.nn.Parameter(0.02 * torch.randn(shape, device=device)) for shape in block * depth]
    for p in made:
        p.grad = 1e-3 * torch.randn_like(p)
    return made


def seconds(step: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(kind: type[torch.optim.Optimizer], params: Sequence[Any], turns: int, device: str, **mode: bool) -> dict:
    """Times of AdamW and of ``kind``, which step the same parameters in turn."""
    ours, theirs = (cls(params, lr=1e-6, **mode) for cls in (kind, torch.optim.AdamW))  # type: ignore[call-arg]
    first = [seconds(theirs.step, device), seconds(ours.step, device)]
    times: list[tuple[float, float]] = []
    for turn in range(turns):
        pair = [0.0, 0.0]
        for which in (0, 1) if turn % 2 else (1, 0):
            pair[which] = seconds((theirs, ours)[which].step, device)
        times.append((pair[0], pair[1]))
    best = [min(column) for column in zip(*times, strict=True)]
    return {
        "AdamW ms": round(best[0] * 1e3, 4),
        "ms": round(best[1] * 1e3, 4),
        "ratio": round(best[1] / best[0], 4),
        "median ratio": round(statistics.median(b / a for a, b in times), 4),
        "first": round(first[1] / first[0], 3),
    }


def look(calls: int = 10, repeats: int = 4000) -> dict[str, float]:
    """Microseconds that one group's part of a step takes before any arithmetic: gathering the state of 48 tensors."""
    best, made = {}, {}
    for kind in (torch.optim.AdamW, GIAdamW):
        optimizer: Any = kind(parameters(8, 4, "cpu"), lr=1e-6)
        optimizer.step()
        best[kind.__name__], made[kind.__name__] = float("inf"), optimizer
    for _ in range(repeats):
        for name, optimizer in made.items():
            began = time.perf_counter()
            for _ in range(calls):
                optimizer._init_group(optimizer.param_groups[0], [], [], [], [], [], [])
            best[name] = min(best[name], (time.perf_counter() - began) / calls * 1e6)
    return {name: round(us, 2) for name, us in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1000, help="at 1 M parameters; a thirtieth of them at 50 M")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows = []
    print("| device | parameters | mode | AdamW ms | GI-AdamW ms | ratio | median | torch / torch | first step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for size, (width, depth) in SIZES.items():
            params = parameters(width, depth, device)
            count = sum(p.numel() for p in params)
            turns = max(asked.turns // (1 if size == "1 M" else 30), 5)
            for name, mode in MODES.items():
                ours = compare(GIAdamW, params, turns, device, **mode)
                control = compare(torch.optim.AdamW, params, turns, device, **mode)
                rows.append(
                    {"device": device, "parameters": count, "tensors": len(params), "mode": name, "turns": turns}
                    | {"GI-AdamW": ours, "torch again": control}
                )
                print(
                    f"| {device} | {count:,} | {name} | {ours['AdamW ms']} | {ours['ms']} | {ours['ratio']} | "
                    f"{ours['median ratio']} | {control['ratio']} / {control['median ratio']} | {ours['first']} |",
                    flush=True,
                )
            del params
    gather = look()
    print(f"gathering the state of a group of 48 tensors, microseconds: {gather}")
    about = environment() | {"load": os.getloadavg()[0], "threads": torch.get_num_threads()}
    asked.out.write_text(json.dumps({"about": about, "rows": rows, "gather us": gather}, indent=1) + "\n")


if __name__ == "__main__":
    main()
