"""The text of a schedule as a small tree; no lengths are known yet.

chain  := sum (">" sum)*
sum    := times ("+" times)*
times  := factor ("*" factor)*
factor := number | shape | "(" chain ")"
shape  := name [ "(" [arg ("," arg)*] ")" ]        the first argument of an operation is a chain
arg    := length | name "=" (quantity | name | "[" quantity ("," quantity)* "]")
length, quantity := number [ "%" | "steps" | "epochs" | "tokens" ]
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from lrscope.errors import ScheduleError
from lrscope.schedules.checks import MAX_VALUE, did_you_mean, short
from lrscope.schedules.horizon import UNITS

MAX_LENGTH = 10_000
MAX_DEPTH = 50
MAX_WORK = 2_500  # segments, each counted once for every parenthesis around it: what keeps reading below 50 ms
OPERATIONS = ("after", "bounded", "clip", "first", "repeat", "reverse", "shift", "stretch")
"""Names whose first argument is a schedule."""

_TOKEN = re.compile(
    r"(?P<number>[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?)"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<symbol>[()\[\],=>*+%])|(?P<end>\Z)",
    re.ASCII,
)
_INSTEAD = {
    "-": "write 1 + -1 * cosine for 1 - cosine",
    "/": "write 0.5 * cosine for cosine / 2",
}
"""Signs that there are not, and what is written for them."""

NUMBER = "expected a number, as in 500, 6%, 3 epochs or to=0.1"

_SPACE = re.compile(r"\s*", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A number, and its unit if one was written."""

    place: int
    number: float
    unit: str | None = None


@dataclass(frozen=True)
class Word:
    """A name as the value of an option."""

    place: int
    text: str


@dataclass(frozen=True)
class Segment:
    """A shape with its length, if written, its options and where each option stands.

    An operation has the schedule that it works on, ``inner``, in the place of a length.
    """

    place: int
    name: str
    length: Quantity | None = None
    inner: Node | None = None
    options: dict[str, Quantity | Word | list[Quantity]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Chain:
    place: int
    parts: list[Node]


@dataclass(frozen=True)
class Times:
    place: int
    factors: list[Node]


@dataclass(frozen=True)
class Plus:
    place: int
    terms: list[Node]


Node = Quantity | Segment | Chain | Times | Plus


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


def fail(text: str, place: int, message: str) -> NoReturn:
    """Raise one line that quotes the text at ``place``."""
    here = repr(text[place : place + 20]) if place < len(text) else "the end"
    raise ScheduleError(f"schedule text, character {place + 1}, at {here}: {message}")


def read(text: str) -> Node:
    """The tree of ``text``.

    Raises:
        ScheduleError: One line that names the place and what was expected there.
    """
    if not isinstance(text, str):
        raise ScheduleError(f"schedule text: must be a string such as 'warmup(6%) > cosine(to=0)', got {short(text)}")
    if len(text) > MAX_LENGTH:
        raise ScheduleError(f"schedule text: {len(text)} characters, at most {MAX_LENGTH} are read; use a spec")
    return _Reader(text).whole()


class _Reader:
    """Recursive descent: one method per line of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self.work = 0
        self.now = self._token(0)

    def _token(self, place: int) -> _Token:
        space = _SPACE.match(self.text, place)
        place = space.end() if space else place
        found = _TOKEN.match(self.text, place)
        if found is None:
            for sign, instead in _INSTEAD.items():
                if self.text.startswith(sign, place):
                    fail(self.text, place, f"{sign!r} is not read here; {instead}")
            fail(self.text, place, "no number, name or sign of ( ) [ ] , = > * + % begins here")
        return _Token(found.lastgroup or "", found.group(), place)

    def take(self) -> _Token:
        token = self.now
        self.now = self._token(token.place + len(token.text))
        return token

    def sees(self, *symbols: str) -> bool:
        return self.now.kind == "symbol" and self.now.text in symbols

    def expect(self, symbol: str, why: str) -> None:
        if not self.sees(symbol):
            fail(self.text, self.now.place, f"expected {symbol!r} {why}")
        self.take()

    def whole(self) -> Node:
        node = self.chain()
        if self.now.kind != "end":
            if self.now.text.startswith("-"):  # in "1 -0.5 * cosine"
                fail(self.text, self.now.place, f"'-' is not read here; {_INSTEAD['-']}")
            fail(
                self.text,
                self.now.place,
                "expected '>' and a next segment, '*' or '+' and a factor or term, or the end",
            )
        return node

    def chain(self) -> Node:
        place, parts, sign = self.now.place, [], None
        while True:
            part, its_sign = self.sum()
            parts.append(part)
            sign = its_sign if sign is None else sign
            if not self.sees(">"):
                break
            self.take()
        if len(parts) == 1:
            return parts[0]
        if sign is not None:
            # Read either way it would be someone's surprise, so it is refused.
            here = self.text[sign]
            fail(self.text, sign, f"{here!r} beside '>' needs parentheses: 3e-4 * (a > b), or (0.5 * a) > b")
        return Chain(place, parts)

    def sum(self) -> tuple[Node, int | None]:
        """A sum of products, and the place of its first bare sign."""
        place = self.now.place
        term, sign = self.times()
        terms = [term]
        while self.sees("+") or (self.now.kind == "number" and self.now.text[0] == "+"):
            sign = self.now.place if sign is None else sign
            self.now = self._token(self.now.place + 1)  # in "a +0.1" the sign is not the number's
            term, _ = self.times()
            terms.append(term)
        return (terms[0] if len(terms) == 1 else Plus(place, terms)), sign

    def times(self) -> tuple[Node, int | None]:
        """A product, and the place of its first bare ``*``."""
        place, star, factors = self.now.place, None, [self.factor()]
        while self.sees("*"):
            token = self.take()
            star = token.place if star is None else star
            factors.append(self.factor())
        return (factors[0] if len(factors) == 1 else Times(place, factors)), star

    def factor(self) -> Node:
        token = self.now
        self.work += 1 + self.depth
        if self.work > MAX_WORK:
            fail(self.text, token.place, "too many segments inside too many parentheses; use a spec")
        if token.kind == "number":
            return self.quantity(unit=False)
        if token.kind == "name":
            return self.segment()
        if not self.sees("("):
            fail(self.text, token.place, "expected a segment such as cosine(to=0), a number, or '('")
        self.open(token)
        node = self.chain()
        self.close(token)
        return node

    def open(self, token: _Token) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            fail(self.text, token.place, f"more than {MAX_DEPTH} parentheses are open")
        self.take()

    def close(self, token: _Token) -> None:
        self.expect(")", f"to close '(' of character {token.place + 1}")
        self.depth -= 1

    def segment(self) -> Segment:
        name = self.take()
        length: Quantity | None = None
        inner: Node | None = None
        options: dict[str, Quantity | Word | list[Quantity]] = {}
        places: dict[str, int] = {}
        if name.text in OPERATIONS and not self.sees("("):
            fail(self.text, self.now.place, f"expected '(' and the schedule that {name.text} works on")
        if self.sees("("):
            bracket = self.now
            self.open(bracket)
            if name.text in OPERATIONS:
                inner = self.chain()
                self.comma(name)
            while not self.sees(")"):
                if self.now.kind == "name":
                    key = self.take()
                    if key.text in options:
                        fail(self.text, key.place, f"{key.text}= is given twice")
                    if self.sees("("):
                        known = did_you_mean(name.text, OPERATIONS)
                        fail(self.text, name.place, f"{short(name.text)} takes no schedule inside; {known}")
                    places[key.text] = key.place
                    self.expect("=", f"and a value after the option {short(key.text)}")
                    options[key.text] = self.given()
                elif length is None and inner is None and not options:
                    length = self.quantity()
                else:
                    what = "length" if inner is None else "schedule"
                    fail(self.text, self.now.place, f"expected an option such as to=0; the {what} comes first, once")
                self.comma(name)
            self.close(bracket)
        return Segment(name.place, name.text, length, inner, options, places)

    def comma(self, name: _Token) -> None:
        if not self.sees(")"):
            self.expect(",", f"or ')' in {short(name.text)}(...)")

    def given(self) -> Quantity | Word | list[Quantity]:
        """The value of an option."""
        if self.now.kind == "name":
            word = self.take()
            return Word(word.place, word.text)
        return self.items() if self.sees("[") else self.quantity()

    def items(self) -> list[Quantity]:
        self.take()
        items: list[Quantity] = []
        while not self.sees("]"):
            items.append(self.quantity())
            if not self.sees("]"):
                self.expect(",", "or ']' in a list")
        self.take()
        return items

    def quantity(self, *, unit: bool = True) -> Quantity:
        token = self.now
        if token.kind != "number":
            fail(self.text, token.place, NUMBER)
        self.take()
        value = float(token.text.replace("_", ""))
        if not abs(value) <= MAX_VALUE:
            fail(self.text, token.place, "the number must be at most 1e30 in size")
        if unit and (self.sees("%") or self.now.kind == "name"):
            found = self.take()
            if found.text not in UNITS:
                fail(self.text, found.place, f"unknown unit {short(found.text)}; {did_you_mean(found.text, UNITS)}")
            return Quantity(token.place, value, found.text)
        return Quantity(token.place, value)
