"""The points of ``replicas.py`` in JAX: ``jit(vmap(scan))`` over learning rates, all steps in one compiled program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

EXAMPLES, VOCAB, LENGTH = 1024, 97, 64


def trainer(name: str, n: int, path: str) -> Callable[[int], Any]:
    """``run(steps)`` trains ``n`` runs; programs are compiled at the first call for each number of steps."""
    if path != "installed":
        sys.path.append(path)  # after everything else: only what is missing comes from there
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    model, params = _models(name, rng)
    batch, adam = (16, True) if name.startswith("GPT") else (128, False)
    if adam:
        tokens = jnp.asarray(rng.integers(0, VOCAB, (EXAMPLES, LENGTH + 1)))
        x, y = tokens[:, :-1], tokens[:, 1:]
    else:
        shape = (1, 8, 8) if name.startswith("CNN") else (64,)
        x = jnp.asarray(rng.standard_normal((EXAMPLES, *shape)).astype("f"))
        y = jnp.asarray(rng.integers(0, 10, EXAMPLES))

    def loss(params: Any, index: Any) -> Any:
        logits = jax.nn.log_softmax(model(params, x[index]))
        return -jnp.take_along_axis(logits, y[index][..., None], -1).mean()

    def train(params: Any, lr: Any, order: Any) -> Any:
        each = partial(jax.tree.map)
        zeros = each(jnp.zeros_like, params)

        def sgd(carry: Any, now: Any) -> Any:
            params, m, v = carry
            value, grads = jax.value_and_grad(loss)(params, now[1])
            m = each(lambda m, g: 0.9 * m + g, m, grads)
            return (each(lambda p, m: p - lr * m, params, m), m, v), value

        def adamw(carry: Any, now: Any) -> Any:
            params, m, v = carry
            value, grads = jax.value_and_grad(loss)(params, now[1])
            m = each(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
            v = each(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
            c1, c2 = 1 - 0.9 ** (now[0] + 1.0), jnp.sqrt(1 - 0.999 ** (now[0] + 1.0))

            def update(p: Any, m: Any, v: Any) -> Any:
                return p * (1 - lr * 0.01) - lr / c1 * m / (jnp.sqrt(v) / c2 + 1e-8)

            return (each(update, params, m, v), m, v), value

        start = params, zeros, zeros if adam else None
        (params, _, _), losses = jax.lax.scan(adamw if adam else sgd, start, (jnp.arange(len(order)), order))
        return params, losses

    mapped = jax.jit(jax.vmap(train, in_axes=(0, 0, None)))
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a), (n, *np.shape(a))), params)
    rates = jnp.asarray([1e-3 * (i + 1) / n for i in range(n)], dtype="float32")
    programs: dict[int, Any] = {}

    def run(steps: int) -> None:
        order = jnp.asarray(np.random.default_rng(1).integers(0, EXAMPLES, (steps, batch)))
        if steps not in programs:  # compiled, and called once to warm up, outside the time of later turns
            programs[steps] = mapped
            jax.block_until_ready(mapped(stacked, rates, order))
        jax.block_until_ready(programs[steps](stacked, rates, order))

    return run


def _models(name: str, rng: np.random.Generator) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp
    from jax import lax

    def linear(inputs: int, outputs: int) -> Any:
        return rng.standard_normal((outputs, inputs)).astype("f") / inputs**0.5, np.zeros(outputs, "f")

    def affine(x: Any, p: Any) -> Any:
        return x @ p[0].T + p[1]

    if name.startswith("MLP"):
        width = {"MLP 5k": 42, "MLP 85k": 256}[name]

        def mlp(params: Any, x: Any) -> Any:
            for p in params[:-1]:
                x = jnp.tanh(affine(x, p))
            return affine(x, params[-1])

        return mlp, [linear(64, width), linear(width, width), linear(width, 10)]

    if name.startswith("CNN"):

        def kernel(inputs: int, outputs: int) -> Any:
            return rng.standard_normal((outputs, inputs, 3, 3)).astype("f") / (9 * inputs) ** 0.5, np.zeros(
                outputs, "f"
            )

        def cnn(params: Any, x: Any) -> Any:
            for stride, (w, b) in zip((1, 2), params[:-1], strict=True):
                x = lax.conv_general_dilated(x, w, (stride, stride), ((1, 1), (1, 1)))
                x = jnp.tanh(x + b[:, None, None])
            cells = x.reshape(*x.shape[:2], 2, 2, 2, 2).mean((3, 5))
            return affine(cells.reshape(len(x), -1), params[-1])

        return cnn, [kernel(1, 32), kernel(32, 64), linear(256, 10)]

    width, heads = 32, 2

    def norm() -> Any:
        return np.ones(width, "f"), np.zeros(width, "f")

    params = {
        "token": rng.standard_normal((VOCAB, width)).astype("f") * 0.02,
        "position": rng.standard_normal((LENGTH, width)).astype("f") * 0.02,
        "norm": norm(),
        "blocks": [
            {
                "norm1": norm(),
                "norm2": norm(),
                "qkv": linear(width, 3 * width),
                "out": linear(width, width),
                "in": linear(width, 4 * width),
                "back": linear(4 * width, width),
            }
            for _ in range(4)
        ],
    }
    past = np.tril(np.ones((LENGTH, LENGTH), bool))

    def normed(x: Any, p: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p[0] + p[1]

    def gpt(params: Any, tokens: Any) -> Any:
        x = params["token"][tokens] + params["position"]
        size, length, _ = x.shape
        for p in params["blocks"]:
            qkv = affine(normed(x, p["norm1"]), p["qkv"]).reshape(size, length, 3, heads, width // heads)
            q, k, v = qkv.transpose(2, 0, 3, 1, 4)
            scores = jnp.einsum("bhtd,bhsd->bhts", q, k) / (width // heads) ** 0.5
            seen = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
            mixed = jnp.einsum("bhts,bhsd->bhtd", seen, v).transpose(0, 2, 1, 3).reshape(x.shape)
            x = x + affine(mixed, p["out"])
            x = x + affine(jax.nn.gelu(affine(normed(x, p["norm2"]), p["in"]), approximate=False), p["back"])
        return normed(x, params["norm"]) @ params["token"].T

    return gpt, params
