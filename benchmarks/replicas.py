"""Run-steps per second of batched replicas: against one run after the other, against JAX, and against arithmetic.

    python benchmarks/replicas.py                        # half an hour; writes benchmarks/results/replicas.json
    python benchmarks/replicas.py --jax PATH             # also jit(vmap(scan)); PATH holds jax, or is "installed"
    python benchmarks/replicas.py --only "MLP 5k" --n 16 --threads 1
    python benchmarks/replicas.py --device cuda --n 64 1024

All engines train the same model on the same batches with the same optimizer, and take turns; the best turn of each
counts, since a shared machine only ever adds time. The bare loop is torch.optim with nothing around it; ratios are to
the better of it on all threads and on one, which often suits small models. Tracing and
compiling come once for any number of steps: they stand in columns of their own, not in the rates. The floor is the
time that the matrix products alone would take at this machine's best rate for a product of 1024 x 1024, on all
threads.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lrscope.isolation import isolated_rng
from lrscope.optimizers import OptimizerSpec
from lrscope.records import environment
from lrscope.schedules import Constant
from lrscope.tasks import Batches, Task
from lrscope.tasks.models import CNN, GPT, MLP
from lrscope.training import Cell, replicas, run_cells
from lrscope.training.choice import choose
from lrscope.training.lanes import threads

RESULTS = Path(__file__).parent / "results" / "replicas.json"
EXAMPLES, VOCAB, LENGTH = 1024, 97, 64
# model, optimizer, batch size, steps in a turn: a program that is played compares a step with the plain one at 10, 100,
# ..., which in a turn of few steps would be more of its time than it is in a run
POINTS: dict[str, tuple[Callable[[], nn.Module], str, int, int]] = {
    "MLP 5k": (lambda: MLP(64, 10, width=42, activation="tanh"), "sgd", 128, 300),
    "MLP 85k": (lambda: MLP(64, 10, width=256, activation="tanh"), "sgd", 128, 100),
    "CNN 22k": (lambda: CNN(1, 10, width=32, cells=2, norm="none", activation="tanh"), "sgd", 128, 50),
    "CNN 22k, GroupNorm": (lambda: CNN(1, 10, width=32, cells=2), "sgd", 128, 50),
    "GPT 56k": (lambda: GPT(VOCAB, context=LENGTH, width=32, depth=4, heads=2), "adamw", 16, 30),
}


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


def task_of(name: str, device: str) -> Task:
    make, _, batch_size, _ = POINTS[name]
    g = torch.Generator().manual_seed(0)
    if name.startswith("GPT"):
        tokens = torch.randint(VOCAB, (EXAMPLES, LENGTH + 1), generator=g)
        data = tokens[:, :-1], tokens[:, 1:]
    else:
        shape = (1, 8, 8) if name.startswith("CNN") else (64,)
        data = torch.randn(EXAMPLES, *shape, generator=g), torch.randint(10, (EXAMPLES,), generator=g)
    data = tuple(t.to(device) for t in data)
    train = Batches(*data, batch_size=batch_size, shuffle=device == "cpu", drop_last=True)
    return Task(lambda seed: make(), loss_fn, train, name=name, device=device)  # noqa: ARG005


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def rate(run: Callable[[int], Any], n: int, steps: int, asked: argparse.Namespace) -> tuple[float, float]:
    """Run-steps per second between two and ``steps`` updates, and the seconds that two take (what comes once)."""
    seconds = []
    run(2)  # the first call in a process pays for torch's own warming up
    for count in (2, steps):
        gc.collect()
        synchronize(asked.device)
        started = asked.now()
        run(count)
        synchronize(asked.device)
        seconds.append(asked.now() - started)
    between = seconds[1] - seconds[0]
    if between < 0.1 * seconds[1]:  # disturbed by others: count everything
        return n * steps / seconds[1], seconds[0]
    return n * (steps - 2) / between, seconds[0]


def compiled(run: Callable[[int], Any], n: int, steps: int, asked: argparse.Namespace) -> tuple[float, float]:
    """Run-steps per second of what was compiled, and the seconds of compiling it the first time."""
    note = run(2)[0].config["compile"]
    seconds = float(note.removeprefix("compiled in ").removesuffix(" s"))  # anything else: it was not compiled
    return rate(run, n, steps, asked)[0], seconds


def bare_loop(task: Task, optimizer: str, n: int, steps: int) -> None:
    """What everybody writes, for ``n`` learning rates."""
    spec = OptimizerSpec.parse(optimizer)
    for i in range(n):
        model = task.model(0)
        opt = spec.build(model.parameters(), lr=1e-3 * (i + 1) / n)
        with isolated_rng(0):
            done = 0
            while done < steps:
                for batch in task.train:
                    opt.zero_grad()
                    loss_fn(model, batch).backward()
                    opt.step()
                    done += 1
                    if done == steps:
                        break


def measure(name: str, n: int, asked: argparse.Namespace) -> dict[str, Any]:
    _, optimizer, _, steps = POINTS[name]
    task = task_of(name, asked.device)
    steps = steps * max(1, 64 // n)
    few, loop_steps = 4, 5 * POINTS[name][3]  # the loop's rate does not depend on n, so a few runs of it are enough
    cells = [Cell(Constant(1e-3 * (i + 1) / n)) for i in range(n)]

    def batched(**how: Any) -> Callable[[int], Any]:
        return lambda count: replicas(task, optimizer, cells, count, evaluate=False, record_every=count, **how)

    def one_by_one(count: int) -> Any:
        return run_cells(task, optimizer, cells[:few], count, engine="serial", evaluate=False, record_every=count)

    def on_one_thread(count: int) -> None:
        with threads(1):
            bare_loop(task, optimizer, few, count)

    ways: dict[str, tuple[Callable[[int], Any], int, int]] = {
        "bare loop": (lambda count: bare_loop(task, optimizer, few, count), few, loop_steps),
        "on one thread": (on_one_thread, few, loop_steps),
        "serial": (one_by_one, few, loop_steps),
        "plain": (batched(captured=False), n, steps),
    }
    if asked.device == "cpu":
        ways["captured"] = (batched(captured=True), n, steps)
    # It changes the numbers, so it is never counted as the best.
    ways["medium"] = (batched(captured=asked.device == "cpu", matmul_precision="medium"), n, steps)
    slow = name.startswith("CNN")  # grouped convolutions, which XLA does not do well on a CPU
    if asked.jax is not None and not name.endswith("GroupNorm") and not (slow and n > 16):
        import replicas_jax

        ways["jax"] = (replicas_jax.trainer(name, n, asked.jax), n, 6 if slow else steps)
    best = dict.fromkeys(ways, 0.0)
    once: dict[str, float] = {}
    for _ in range(asked.repeats):
        for way, (run, runs, count) in ways.items():
            found, start = rate(run, runs, count, asked)
            best[way], once[way] = max(best[way], found), min(once.get(way, start), start)
    if asked.compiled:
        best["compiled"], once["compiled"] = compiled(batched(compile=True), n, steps, asked)
    row: dict[str, Any] = {"point": name, "n": n, "steps": steps, "optimizer": optimizer, "rates": best, "once": once}
    if asked.device == "cpu":
        choice = choose(task, OptimizerSpec.parse(optimizer), cells, steps=100_000)
        row["auto"], row["auto_note"] = "captured" if choice.captured else choice.engine, choice.note
    model = task.model(0)
    row["parameters"] = sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        loss_fn(model, next(iter(task.train))).backward()
    row["flops"] = counter.get_total_flops()
    return row


def peak(asked: argparse.Namespace) -> float:
    """Floating point operations per second of a large matrix product."""
    a = torch.randn(1024, 1024, device=asked.device)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(30):
        synchronize(asked.device)
        started = asked.now()
        torch.mm(a, a, out=out)
        synchronize(asked.device)
        best = min(best, asked.now() - started)
    return 2 * 1024**3 / best


def printed(row: dict[str, Any], best_flops: float) -> str:
    rates, floor = row["rates"], best_flops / row["flops"]
    loop = max(rates["bare loop"], rates["on one thread"])
    top = max(v for k, v in rates.items() if k in ("serial", "plain", "captured"))

    def shown(way: str) -> str:
        return f"{rates[way]:,.0f}" if way in rates else "-"

    over_jax = f"{top / rates['jax']:.2f}" if "jax" in rates else "-"
    return (
        f"| {row['point']} | {row['n']} | {shown('bare loop')} | {shown('on one thread')} | {shown('serial')} | {shown('plain')} | "
        f"{shown('captured')} | {shown('medium')} | {shown('compiled')} | {shown('jax')} | {row.get('auto', '-')} | {top / loop:.2f} | {over_jax} | "
        f"{floor:,.0f} | {top / floor:.0%} |"
    )


def _numbers(name: str, device: str) -> tuple[int, ...]:
    """Of runs, where none are asked for: where a step takes long, 256 of them are left to ``--n``."""
    if device == "cuda":
        return (64, 1024)
    return (16, 64, 256) if name.startswith("MLP") else (16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--n", type=int, nargs="+", default=None, help="numbers of runs (default: 16 64, for MLPs also 256)"
    )
    parser.add_argument("--only", nargs="+", choices=POINTS, default=list(POINTS), metavar="POINT")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compiled", action="store_true", help="also compile=True, which takes minutes")
    parser.add_argument("--jax", default=None, metavar="PATH", help="a folder with jax, or 'installed'")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time, for one thread on a busy machine",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    asked.now = time.perf_counter if asked.clock == "wall" else time.process_time
    torch.set_num_threads(asked.threads)
    best_flops = peak(asked)
    print(f"peak of a matrix product: {best_flops / 1e9:.0f} GFLOP/s\n")
    print(
        "| model | N | bare loop | on one thread | serial | plain | captured | medium | compiled | JAX | auto | over loop | over JAX | floor | of floor |"
    )
    print("|" + "---|" * 15)
    rows = []
    for name in asked.only:
        for n in asked.n or _numbers(name, asked.device):
            rows.append(measure(name, n, asked))
            print(printed(rows[-1], best_flops), flush=True)
    about = {
        **environment(),
        "threads": asked.threads,
        "device": asked.device,
        "clock": asked.clock,
        "peak_flops": best_flops,
    }
    about |= {"date": time.strftime("%Y-%m-%d"), "load": round(os.getloadavg()[0], 1)}  # load: how busy it was
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"about": about, "unit": "run-steps per second", "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
