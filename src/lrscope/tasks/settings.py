"""Settings typed on the command line, as the keyword arguments of a function."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union

from lrscope.errors import TaskError

_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def as_arguments(
    what: str, fn: Callable[..., Any], settings: Mapping[str, Any], *, whole: bool = True
) -> dict[str, Any]:
    """``settings`` with strings converted to what the parameters of ``fn`` say.

    Raises:
        TaskError: A name that ``fn`` does not take, a text that is no such value, or, if these are the ``whole``
            settings, a parameter left without one.
    """
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some callables written in C do not tell
        return dict(settings)
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in settings:
        if name not in named and not takes_any:
            close = get_close_matches(name, named, n=1)
            raise TaskError(
                f"settings: {what} has no argument {name!r}"
                + (f" (did you mean {close[0]!r}?)" if close else "")
                + (f"; it takes {', '.join(named)}" if named else "; it takes none")
            )
    needed = [n for n, p in named.items() if p.default is p.empty and n not in settings]
    if needed and whole:
        values = " ".join(f"--set {name}=VALUE" for name in needed)
        raise TaskError(
            f"task: {what} needs {', '.join(needed)}; give {values} (in Python: settings={{{needed[0]!r}: ...}}), "
            "or name a function whose arguments have defaults"
        )
    kinds = _annotations(fn)
    return {
        name: _convert(what, name, value, kinds.get(name), named[name].default if name in named else None)
        for name, value in settings.items()
    }


def _annotations(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn)
    except Exception:  # names that exist for the type checker only; the defaults then say
        return {}


def _convert(what: str, name: str, value: Any, kind: Any, default: Any) -> Any:
    if not isinstance(value, str):
        return value
    if kind is None and default is not None and default is not inspect.Parameter.empty:
        kind = type(default)
    try:
        return parse(value, kind)
    except ValueError:
        raise TaskError(f"settings: {what}: {name}={value} is not {_spelled(kind)}") from None


def parse(text: str, kind: Any) -> Any:
    """``text`` as a value of type ``kind``; unchanged if ``kind`` says nothing.

    Raises:
        ValueError: It is none.
    """
    if kind is bool:
        return _one_of(text.strip().lower(), _BOOLS)
    if kind is int:
        try:
            return int(text)
        except ValueError:  # 1e4 is how people write round numbers
            number = float(text)
        if not number.is_integer():
            raise ValueError(text)
        return int(number)
    if kind is float:
        return float(text)
    if kind is Path:
        return Path(text)
    if kind is types.NoneType:
        return _one_of(text.strip().lower(), {"none": None, "": None})
    if typing.get_origin(kind) is Literal:
        return _one_of(text, {str(choice): choice for choice in typing.get_args(kind)})
    if typing.get_origin(kind) in (Union, types.UnionType):
        # None first: "none" is also a good string.
        for member in sorted(typing.get_args(kind), key=lambda k: k is not types.NoneType):
            try:
                return parse(text, member)
            except ValueError:
                continue
        raise ValueError(text)
    return text


def _one_of(text: str, known: Mapping[str, Any]) -> Any:
    if text not in known:
        raise ValueError(text)
    return known[text]


def _spelled(kind: Any) -> str:
    if kind is bool:
        return "true or false"
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_spelled(member) for member in typing.get_args(kind))
    return {int: "a whole number", float: "a number", types.NoneType: "none"}.get(kind, f"a {kind}")
