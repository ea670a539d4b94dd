"""A task by name: built in, from a file, or from an importable module."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from lrscope.errors import LrscopeError, TaskError
from lrscope.tasks.check import one_line
from lrscope.tasks.cifar import cifar10, cifar100
from lrscope.tasks.digits import digits
from lrscope.tasks.place import line_of
from lrscope.tasks.settings import as_arguments
from lrscope.tasks.task import Task
from lrscope.tasks.text import text as text_file
from lrscope.tasks.topics import topics

BUILT_IN: Mapping[str, Callable[..., Task]] = {
    "digits": digits,
    "topics": topics,
    "text": text_file,
    "cifar10": cifar10,
    "cifar100": cifar100,
}


def load(text: str, settings: Mapping[str, Any] | None = None) -> Task:
    """The task that ``text`` names.

    Args:
        text: A built-in name, ``file.py:function``, or ``package.module:function``. Instead of a function there may
            be a ``Task``. The file's folder (for a module: the working directory) is importable while it loads.
        settings: Keyword arguments for the function. Strings are converted to what its annotations, or else its
            defaults, say: int, float, bool, str, ``Path``, ``Literal``, or one of these or ``none``.

    Raises:
        TaskError: With what was not found, or what went wrong in the user's code, on one line.
    """
    return find(text)(settings or {})


@dataclass(frozen=True)
class Maker:
    """What makes a task out of settings: a function returning one, found by name or given; or a ``Task`` as it is.

    Attributes:
        what: Its name in messages.
        found: The function, or the task.
        folder: Importable while the function runs; ``None`` for nothing beyond ``sys.path``.
    """

    what: str
    found: Any
    folder: Path | None = None

    def __call__(self, settings: Mapping[str, Any]) -> Task:
        with nullcontext() if self.folder is None else _importable(self.folder):
            return _call(self.what, self.found, settings)

    def read(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """``settings`` with text converted, as the function will get them; others it may need are not asked for."""
        return as_arguments(self.what, self.found, settings, whole=False)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the settings; empty for a ``Task``."""
        if isinstance(self.found, Task):
            return ()
        try:
            parameters = inspect.signature(self.found).parameters.values()
        except (TypeError, ValueError):  # some callables written in C do not tell
            return ()
        return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def find(text: str) -> Maker:
    """What ``text`` names, not called yet; arguments and errors as in :func:`load`."""
    if text in BUILT_IN:
        return Maker(text, BUILT_IN[text])
    where, colon, name = text.rpartition(":")
    is_file = (where if colon else text).endswith(".py")
    if not colon and not is_file:
        raise TaskError(
            f"task: {text!r} is no built-in task{_near(text, BUILT_IN)}; give one of {', '.join(BUILT_IN)}, or your "
            "own as file.py:function or package.module:function"
        )
    where = where if colon else text
    folder = Path(where).expanduser().resolve().parent if is_file else Path.cwd()
    with _importable(folder):
        module = _import_file(where) if is_file else _import_module(where)
        return Maker(f"{where}:{name}", _find(module, where, name if colon else ""), folder)


def _find(module: ModuleType, where: str, name: str) -> Any:
    own = [
        key
        for key, value in vars(module).items()
        if isinstance(value, Task) or (inspect.isfunction(value) and value.__module__ == module.__name__)
    ]
    has = f"it defines {', '.join(own)}" if own else "it defines no function and no Task"
    if not name:
        raise TaskError(f"task: {where!r} does not say which function makes the task; write {where}:name ({has})")
    if not hasattr(module, name):
        raise TaskError(f"task: {where} has no {name!r}{_near(name, own)}; {has}")
    found = getattr(module, name)
    if not isinstance(found, Task) and not callable(found):
        raise TaskError(
            f"task: {where}:{name} is a {type(found).__name__}, expected a Task or a function returning one; {has}"
        )
    return found


def _call(what: str, found: Any, settings: Mapping[str, Any]) -> Task:
    if isinstance(found, Task):
        if settings:
            raise TaskError(
                f"task: {what} is a Task, not a function, so it takes no settings, got {', '.join(settings)}; "
                "turn it into a function with these as arguments"
            )
        return found
    arguments = as_arguments(what, found, settings)
    try:
        task = found(**arguments)
    except LrscopeError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(f"task: {what} raised {one_line(error)}{line_of(error)}") from error
    if not isinstance(task, Task):
        came = "None; does it end in return Task(...)?" if task is None else f"{type(task).__name__}"
        raise TaskError(f"task: {what} must return a lrscope.Task, got {came}")
    return task


def _import_file(where: str) -> ModuleType:
    file = Path(where).expanduser().resolve()
    if not file.is_file():
        beside = [p.name for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise TaskError(f"task: there is no file {where}{_near(file.name, beside)} (looked for {file})")
    # A name of its own, so that a user's digits.py hides no module and two files of one name can both be loaded.
    name = f"_lrscope_task_{file.stem}_{sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_FromSource(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TaskError(f"task: importing {where} failed with {one_line(error)}{line_of(error)}") from error
    return module


class _FromSource(SourceFileLoader):
    """Reads the file itself, never its bytecode cache, which takes a quick edit of equal length for the old file."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        return self.source_to_code(self.get_data(self.path), self.path)


def _import_module(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            raise TaskError(
                f"task: there is no module {where!r} (no {error.name!r} is installed or lies in {Path.cwd()}); for a "
                f"file write its path with .py, for example {where.replace('.', '/')}.py:task"
            ) from None
        raise TaskError(f"task: importing {where} failed with {one_line(error)}{line_of(error)}") from error
    except (Exception, SystemExit) as error:
        raise TaskError(f"task: importing {where} failed with {one_line(error)}{line_of(error)}") from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules beside the user's file can be imported in the block; ``sys.path`` loses this entry afterwards."""
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if entry in sys.path:  # user code may have taken it out
            sys.path.remove(entry)


def _near(word: str, known: Any) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
