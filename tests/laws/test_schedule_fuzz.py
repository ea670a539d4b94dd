"""Whatever is given to ``parse`` and ``from_spec``: a valid schedule or one line that says where and what, and soon.

10 000 strings and 10 000 specs from a fixed seed, and by hand what is made to hurt.
"""

import copy
import gc
import math
import random
import time

import numpy as np
import pytest

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError
from lrscope.schedules.base import kinds
from lrscope.schedules.grammar import OPERATIONS
from lrscope.schedules.resolve import SHAPES

pytestmark = pytest.mark.filterwarnings("error")
LIMIT = 0.05  # seconds
COUNT = 10_000
HORIZONS = [None, 100, lrs.Horizon(7), lrs.Horizon(10_000, 500, 1e6), lrs.Horizon(2**53, 2**53, 1e-300)]


def outcome(build):
    """The schedule, or the message of its refusal; anything else, or anything slow, fails the test.

    What counts is the time of this thread, and the best of four: a busy machine is not a slow function.
    """
    took = []
    for _ in range(4):
        start = time.thread_time()
        try:
            result = build()
        except ScheduleError as error:
            result = str(error)
        took.append(time.thread_time() - start)
        if took[-1] < LIMIT / 2:
            break
    assert min(took) < LIMIT, f"{min(took):.3f} s"
    if isinstance(result, lrs.Schedule):
        check_values(result)
        return result
    assert result
    assert len(result.splitlines()) == 1
    assert len(result) < 1000
    return result


def check_values(s):
    n = s.num_steps
    for t in (0, 1, 49, 2**53 - 1, 2**53):
        if isinstance(value := value_at(s, t), float):
            assert math.isfinite(value), (s, t)
        else:
            assert "past the end" in value or "has values at whole steps only" in value, (s, t)
    assert n is None or 0 <= n <= 2**53


def value_at(s, t):
    try:
        return s(t)
    except ScheduleError as error:
        return str(error)


# ---------------------------------------------------------------- text

TEXTS = [
    "3e-4 * (warmup(6%) > constant > sqrt(20%))",
    "warmup(600 steps) > cosine(to=0.1)",
    "nonzero_warmup(6%) > cosine",
    "warmup(10) > inverse_sqrt(timescale=10)",
    "piecewise(values=[1, .1, .01], at=[30%, 10 epochs])",
    "table(values=[1, 2.5, -3e-2]) > constant(value=1)",
    "exp_warmup(timescale=3) * cosine(50, to=0)",
    "step(factor=0.5, every=10) + 0.1",
    "wave(100, from=1, to=0, period=7.5)",
    "restarts(from=1, to=0.1, period=10, mult=2, decay=0.9)",
    "clip(restarts(period=5), low=0.1, high=1)",
    "first(cosine(40), steps=20) > after(linear(30), steps=10)",
    "shift(linear(30), by=5) * stretch(poly(10, power=2), to=40)",
    "repeat(linear(5, from=0, to=1) > linear(5, from=1, to=0), times=3)",
    "reverse(exp(20, to=0.1)) > bounded(linear(9))",
    "repeat(cosine(2 epochs))",
    "linear(2e9 tokens)",
]
WORDS = [
    *SHAPES,
    *"()[],=>*+% ",
    " > ",
    "from",
    "to",
    "at",
    "values",
    "power",
    "value",
    "timescale",
    "every",
    "factor",
]
WORDS += [
    "period",
    "mult",
    "decay",
    "low",
    "high",
    "steps",
    "by",
    "times",
    "epochs",
    "tokens",
    "6",
    "0.5",
    "1e-3",
    "-2",
]
WORDS += ["0", "1e30", "1e31", "1e999", "-0", "1e-300", "9007199254740993", "1_0", "nan", "inf", "٣", "５", "²", "−1"]


def characters(r):
    pool = r.choice(["()[],=>*+%.0123456789e-_ abc", "".join(map(chr, range(32, 127))), None])
    pick = (lambda: chr(r.randrange(1, 0xD7FF))) if pool is None else (lambda: r.choice(pool))
    return "".join(pick() for _ in range(r.randrange(80)))


def soup(r):
    return r.choice(["", " "]).join(r.choices(WORDS, k=r.randrange(25)))


def mutated(r):
    text = list(r.choice(TEXTS))
    for _ in range(r.randrange(1, 4)):
        i = r.randrange(len(text))
        edit = r.randrange(4)
        if edit == 0:
            del text[i]
        elif edit == 1:
            text.insert(i, r.choice(WORDS))
        elif edit == 2:
            text[i] = chr(r.randrange(33, 127))
        else:
            text[i:i] = list(r.choice(TEXTS))
        text = text or [" "]
    return "".join(text)


def numbers_changed(r):
    """A valid text with another number in the place of one of its own: the likeliest way to a valid extreme."""
    text = r.choice(TEXTS)
    digits = [i for i, c in enumerate(text) if c.isdigit()]
    i = r.choice(digits)
    return text[:i] + r.choice(["0", "-1", "1e30", "1e-300", "1e999", "4e15", "2.5", "1e15", "007"]) + text[i + 1 :]


def grown(r):
    """Valid texts inside operations, products, sums and chains."""
    text = r.choice(TEXTS)
    for _ in range(r.randrange(1, 6)):
        wrap = r.choice(
            ["clip({}, low=0)", "reverse({})", "({}) * 2", "1e30 * ({})", "0.1 + ({})", "stretch({}, to=9)", "({}) > linear(5)",
             "repeat({}, times=2)", "repeat({}, times=1e15)", "repeat({})", "first({}, steps=30%)", "bounded({})",
             "after({}, steps=3)", "shift({}, by=1 epoch)", "linear(3) > ({})", "({0}) * ({0})"]
        )  # fmt: skip
        text = wrap.format(text)
    return text


def test_ten_thousand_texts():
    r = random.Random(0)
    makers = [characters, soup, mutated, numbers_changed, grown]
    good = 0
    for i in range(COUNT):
        text, horizon = makers[i % len(makers)](r), r.choice(HORIZONS)
        result = outcome(lambda text=text, horizon=horizon: lrs.parse(text, horizon))
        if isinstance(result, str):
            assert result.startswith("schedule text, character "), (text, horizon, result)
            assert not result.startswith("schedule text, character 0")
            if "unknown" in result:
                assert "allowed: " in result
        else:
            good += 1
            if not isinstance(horizon, lrs.Horizon) and len(result.to_text()) < 9_000 and result.nesting < 40:
                assert lrs.parse(result.to_text()) == result
    assert COUNT * 0.1 < good < COUNT * 0.6  # neither all refused nor all tame


def one_edit(word, r):
    i = r.randrange(1, len(word))
    return r.choice(
        [word[:i] + word[i + 1 :], word[:i] + "x" + word[i:], word[: i - 1] + word[i] + word[i - 1] + word[i + 1 :]]
    )


@pytest.mark.parametrize("word", SHAPES)
def test_a_misspelt_word_is_answered_with_a_near_one(word):
    r = random.Random(word)
    for _ in range(10):
        wrong = one_edit(word, r)
        if wrong in SHAPES:
            continue
        text = f"constant(1) > {wrong}(linear(9))" if word in OPERATIONS else f"constant(1) > {wrong}(9)"
        result = outcome(lambda: lrs.parse(text, 100))  # noqa: B023
        assert "did you mean " in result, (text, result)
        assert "character 15, at " in result, (text, result)
    for option in SHAPES[word][0]:
        wrong = option + "x"
        inner = "linear(9), " if word in OPERATIONS else ""
        result = outcome(lambda: lrs.parse(f"{word}({inner}{wrong}=1)", 100))  # noqa: B023
        assert f"did you mean {option!r}?" in result, result


def nested(inner, depth, wrap):
    for _ in range(depth):
        inner = wrap.format(inner)
    return inner


HARD = {
    "parentheses": "(" * 9_000,
    "one word": "a" * 9_999,
    "open calls": "warmup(" * 1_400,
    "a huge number": "9" * 9_000,
    "exponents": "1e" * 5_000,
    "underscores": "_" * 9_000,
    "lists": "[" * 9_000,
    "signs": "-" * 9_000,
    "plus signs": "+" * 9_000,
    "too long": "x" * 10**6,
    "an exponent of nines": "warmup(1e-9999999%)",
    "a long chain": "cosine(1) > " * 800,
    "a long product": "linear(1) * " * 800 + "1",
    "a long sum": "linear(1) + " * 800 + "1",
    "many numbers": "1 * " * 2_400 + "constant",
    "many numbers, added": "1e30 + " * 1_400 + "constant",
    "a long table": "table(values=[" + "1," * 4_900 + "])",
    "a long list of boundaries": f"piecewise(values=[{'1,' * 1001}], at=[{','.join(str(i) for i in range(1, 1001))}])",
    "many tokens": "cosine(9007199254740992 tokens)",
    "a chain of long ones": "linear(4503599627370496) > " * 3 + "linear(1)",
    "reversed 45 times": nested(" > ".join(["linear(1)"] * 740), 45, "reverse({})"),
    "reversed 60 times": nested("linear(1)", 60, "reverse({})"),
    "clipped and joined 40 times": nested("(" + "linear(1) * " * 110 + "1)", 40, "clip({}, low=0) > linear(1)"),
    "repeated 40 times": nested("linear(2)", 40, "repeat({}, times=2)"),
    "repeated for ever, 40 times": nested("linear(2)", 40, "first(repeat({}), steps=3)"),
    "repeated very often": "repeat(linear(2), times=1e15)",
    "repeated too often": "repeat(linear(2), times=1e16)",
    "stretched far": nested("linear(3)", 40, "stretch({}, to=9007199254740992)"),
    "restarts in restarts": nested("(" + "restarts(1, period=2, mult=1.5) * " * 200 + "1)", 3, "reverse({}) > linear(1)"),
    "tiny periods": "restarts(period=1e-300, mult=1.0000001) + wave(period=1e-300)",
    "small periods": "restarts(period=2e-9, mult=1.0000001, decay=1e30) * wave(period=2e-9)",
    "overflowing cycles": "1e30 * restarts(from=-1e30, period=1, mult=1e30, decay=1e30)",
    "vanishing factors": "step(factor=1e-300) * step(factor=1e30) * 1e30 * 1e30",
    "a tiny time constant": "exp_warmup(timescale=1e-300)",
    "the longest time constant": "exp_warmup(timescale=2e14)",
    "tiny to huge": "exp(9007199254740992, from=5e-324, to=1e30)",
    "huge to tiny": "exp(9007199254740992, from=1e30, to=5e-324)",
    "huge powers": "poly(9007199254740992, power=1e30) * poly(5, power=1e-300)",
    "lists for numbers": "linear(5, from=[1, 2], to=[])",
    "options of options": "clip(clip(linear(3), low=0), low=(1))",
    "unicode digits": "warmup(٣) > cosine(５)",
    "line breaks": "warmup(3)\n>\u2028cosin\x85(5)\r\n",
    "null": "linear(5)\0",
    "a byte order mark": "\ufefflinear(5)",
    "lone surrogates": "linear(\ud800)",
}  # fmt: skip


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
@pytest.mark.parametrize("horizon", HORIZONS, ids=str)
def test_a_text_made_to_hurt(text, horizon):
    result = outcome(lambda: lrs.parse(text, horizon))
    assert not isinstance(result, str) or result.startswith("schedule text")


@pytest.mark.parametrize("text", [None, 3, b"linear(5)", ["linear(5)"], object()])
def test_text_must_be_text(text):
    assert "must be a string" in outcome(lambda: lrs.parse(text))  # type: ignore[arg-type]


# ---------------------------------------------------------------- specs

SCHEDULES = [
    lrs.warmup(5).then(lrs.Cosine(1.0, 0.0, 20)),
    0.5 * lrs.Linear(1.0, 0.0, 9) + lrs.StepDecay(0.9, 3, 30),
    lrs.Exponential(1.0, 0.1, 10).then(lrs.Polynomial(0.1, 0.0, 5, 2.0)).then(lrs.Sqrt(1.0, 0.0, 4)),
    lrs.warmup(5).then(lrs.InverseSqrt(1.0, 5)),
    lrs.Piecewise((1.0, 0.1, 0.01), (5, 9), 20).then(lrs.Table((1.0, 0.5, 0.2))),
    lrs.ExponentialWarmup(0.7).clip(0.1, 0.9),
    lrs.CosineWave(1.0, 0.0, 7.5) * lrs.Constant(0.5, 3),
    lrs.WarmRestarts(1.0, 0.0, 10, 2, 0.9, 100),
    lrs.Linear(1.0, 0.0, 9).first(4).then(lrs.Linear(1.0, 0.0, 9).after(3)).stretch(30),
    lrs.triangular(0.0, 1.0, 3, 4, cycle_decay=0.5).first(40).reverse().with_end("error"),
    lrs.exponential_equivalent(lrs.Cosine(1.0, 0.1, 12), base_lr=0.1, weight_decay=0.1, momentum=0.9, steps=12),
    lrs.exponential_equivalent(
        lrs.Linear(1.0, 0.5, 9), base_lr=0.1, weight_decay=0.01, momentum=0.9, rule="velocity"
    ).momentum_schedule(),
]
JUNK = [None, True, False, "", "x", "linear", 0, -1, 1, 3, 2.5, 1e30, -1e30, 1e31, 1e-300, 5e-324, math.nan, math.inf]
JUNK += [-math.inf, 2**53, 2**53 + 1, -(2**70), 10**400, 10**5000, [], {}, [[]], [None], [1.0, math.nan], {"kind": 3}]
JUNK += [{"kind": "linear"}, {"kind": "\n"}, [1.0] * 50, "a\nb", "x" * 5000, 1 + 2j, b"linear", {1, 2}, object()]


OURS = {name: cls for name, cls in kinds().items() if cls.__module__.startswith("lrscope.")}


def places(value, at=()):
    """Every place in nested dicts and lists."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def follow(value, at):
    for key in at:
        value = value[key]
    return value


def changed(r):
    spec = r.choice(SCHEDULES).to_spec()
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        at = r.choice(list(places(spec))[1:])
        holder, key = follow(spec, at[:-1]), at[-1]
        edit = r.randrange(6)
        if edit == 0:
            del holder[key]
        elif edit == 1 and isinstance(holder, dict):
            holder[str(key) + r.choice(["s", "x", "\n", ""])] = holder.pop(key)
        elif edit == 2:
            holder[key] = r.choice(SCHEDULES).to_spec()
        elif edit == 3 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[r.randrange(len(holder))]))
        elif edit == 4 and isinstance(holder[key], (int, float)):
            holder[key] = type(holder[key])(r.choice([0, 1, 2, 7, 1000, -3]))
        else:
            holder[key] = copy.deepcopy(r.choice(JUNK))
        if len(list(places(spec))) < 2:
            break
    return spec


def junk(r, depth=0):
    kind = r.randrange(4 if depth < 4 else 1)
    if kind == 1:
        return [junk(r, depth + 1) for _ in range(r.randrange(4))]
    if kind == 2:
        keys = ["kind", "start", "steps", "parts", "schedule", "x", "value", 3, None]
        return {r.choice(keys): junk(r, depth + 1) for _ in range(r.randrange(4))}
    if kind == 3:
        cls = OURS[r.choice([*OURS])]
        return {"kind": cls.kind, **{f: junk(r, depth + 1) for f in cls.__dataclass_fields__ if r.random() < 0.9}}
    return copy.deepcopy(r.choice(JUNK))


def test_ten_thousand_specs():
    r = random.Random(1)
    used = {
        spec["kind"]
        for s in SCHEDULES
        for at in places(s.to_spec())
        if isinstance(spec := follow(s.to_spec(), at), dict)
    }
    assert used == set(OURS), "a kind that is not fuzzed"
    good = 0
    for i in range(COUNT):
        spec = changed(r) if i % 4 else junk(r)
        result = outcome(lambda spec=spec: lrs.from_spec(spec))
        if isinstance(result, str):
            assert result.startswith("schedule spec"), (spec, result)
            if "unknown kind" in result or "has no argument" in result:
                assert "allowed: " in result
        else:
            good += 1
            assert lrs.from_spec(result.to_spec()) == result
    assert COUNT * 0.1 < good < COUNT * 0.6


@pytest.mark.parametrize("s", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_misspelt_name_in_a_spec_is_answered_with_its_place_and_a_near_one(s):
    for at in places(s.to_spec()):
        spec = s.to_spec()
        if not at or not isinstance(at[-1], str):
            continue
        holder, name = follow(spec, at[:-1]), at[-1]
        if name == "kind":
            name = holder["kind"]
            holder["kind"] = name[:-1] + "x"
        else:
            holder[name + "x"] = holder.pop(name)
        result = outcome(lambda: lrs.from_spec(spec))  # noqa: B023
        path = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in at[:-1]).lstrip(".")
        assert result.startswith(f"schedule spec, at {path}: " if path else "schedule spec: ")
        assert "did you mean " in result
        assert repr(name) in result or f"allowed: {name}" in result or f", {name}" in result


def deep(depth, wrap, spec=None):
    spec = {"kind": "linear", "start": 1.0, "end": 0.0, "steps": 9} if spec is None else spec
    for _ in range(depth):
        spec = wrap(spec)
    return spec


HARD_SPECS = {
    "a deep tree": deep(3_000, lambda s: {"kind": "product", "factors": [s, s]}),
    "deep operations": deep(3_000, lambda s: {"kind": "reverse", "schedule": s}),
    "deep lists": deep(3_000, lambda s: [s]),
    "49 deep": deep(49, lambda s: {"kind": "sum", "terms": [s, {"kind": "constant", "value": 1.0}]}),
    "60 deep": deep(60, lambda s: {"kind": "reverse", "schedule": s}),
    "a table of 50 000": {"kind": "table", "entries": [0.5] * 50_000},
    "a table of 50 000, the last one wrong": {"kind": "table", "entries": [0.5] * 49_999 + [True]},
    "a table of text": {"kind": "table", "entries": "0.5" * 100_000},
    "a long unknown argument": {"kind": "table", "entry": [0.5] * 50_000},
    "a long join": {"kind": "join", "parts": [{"kind": "constant", "value": 1.0, "steps": 1}] * 2_000},
    "a long product": {"kind": "product", "factors": [{"kind": "constant", "value": 1e30}] * 2_000},
    "long levels": {"kind": "piecewise", "levels": [1.0] * 20_001, "boundaries": list(range(1, 20_001))},
    "repeated for ever": deep(1, lambda s: {"kind": "repeat", "schedule": s, "times": 2**53 // 9}),
    "stretched for ever": deep(20, lambda s: {"kind": "stretch", "schedule": s, "steps": 2**53}),
    "after for ever": deep(40, lambda s: {"kind": "after", "schedule": s, "steps": 2**53}, {"kind": "step", "factor": 1.1}),
    "numbers from numpy": {"kind": "linear", "start": np.float32(1), "end": np.int64(0), "steps": np.int32(5)},
    "an array": {"kind": "table", "entries": np.ones(5)},
    "a tuple": ("kind", "linear"),
}  # fmt: skip


@pytest.mark.parametrize("spec", HARD_SPECS.values(), ids=HARD_SPECS)
def test_a_spec_made_to_hurt(spec):
    gc.collect()
    result = outcome(lambda: lrs.from_spec(spec))
    assert not isinstance(result, str) or result.startswith("schedule spec")
