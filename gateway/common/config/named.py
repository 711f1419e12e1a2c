"""Objects that an option names as MODULE:NAME, and how a message names a function and a failure in it."""

import functools
import importlib
import inspect
import os
import sys
from types import ModuleType
from typing import Any

from moorline.gateway.common.config.options import Kind, did_you_mean
from moorline.gateway.common.errors import UsageError

__all__ = ["REFERENCE", "described", "failure", "load_again", "load_named", "takes"]


def _parse_reference(text: str) -> str:
    module, _, name = text.partition(":")
    if not (module and name):
        raise ValueError("is not MODULE:NAME; write for example chat:answer")
    if module.endswith(".py"):
        named = module.removesuffix(".py").replace("/", ".")
        raise ValueError(f"names a file; write its module: {named}:{name}")
    return text


REFERENCE = Kind("MODULE:NAME", _parse_reference)


def load_named(text: str, option: str) -> Any:
    """The object that `text` names. The current folder is importable, after the installed packages.

    Raises:
        UsageError: there is none, or its module fails to import.
    """
    module_name, _, name = text.partition(":")
    folder = os.getcwd()
    # Last: a file of the user's must not take the place of a library that is imported later.
    if not {"", folder} & set(sys.path):
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f'{option}: "{text}": there is no module "{error.name}" in {folder} or among the installed packages'
            ) from None
        raise UsageError(f'{option}: "{text}": {failure(error)}') from error
    except (Exception, SystemExit) as error:
        raise UsageError(f'{option}: "{text}": {failure(error)}') from error
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        raise UsageError(
            f'{option}: "{text}": {_file(module)} has no "{name}"{did_you_mean(name, vars(module))}'
        ) from None


def load_again(text: str, option: str) -> Any:
    """The object as the sources in the current folder define it now, with all modules of that folder imported anew.

    Raises:
        UsageError: as `load_named`.
    """
    for name, module in list(sys.modules.items()):
        # In a clone of moorline its own modules are below the current folder.
        if name.partition(".")[0] not in ("__main__", "moorline") and _is_own(getattr(module, "__file__", None) or ""):
            del sys.modules[name]
    importlib.invalidate_caches()
    return load_named(text, option)


def described(thing: object) -> str:
    """`answer in chat.py, line 4`, of a function, a class, or the class of an object."""
    named: Any = inspect.unwrap(thing) if callable(thing) else thing
    if not hasattr(named, "__qualname__"):
        named = type(named)
    # Not `getsourcelines`: it splits all of the source into tokens, to find where a function ends, which takes 30 ms of
    # each start of a backend.
    code = getattr(named, "__code__", None)
    try:
        file = inspect.getsourcefile(named)
        line = inspect.getsourcelines(named)[1] if code is None else code.co_firstlineno
    except (OSError, TypeError):
        file = None
    if file is None:
        return f"{named.__qualname__} in {named.__module__}"
    return f"{named.__qualname__} in {_shown(file)}, line {line}"


def failure(error: BaseException, *, private: bool = False) -> str:
    """`KeyError: 'a' (answer in chat.py, line 12)`: what was raised, where in the user's own code.

    `private`: without the words of the exception, which may quote a chat.
    """
    words = "" if private else " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    what = f"{type(error).__name__}: {words}" if words else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{what} ({_shown(error.filename)}, line {error.lineno})"
    # For what has failed alone: most programs never need it.
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)] or frames
    if not own:
        return what
    return f"{what} ({own[-1].name} in {_shown(own[-1].filename)}, line {own[-1].lineno})"


def takes(function: Any, count: int) -> bool:
    """Whether `function` can be called with `count` positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _is_own(file: str) -> bool:
    return file.startswith(os.getcwd() + os.sep) and "site-packages" not in file


def _file(module: ModuleType) -> str:
    return _shown(module.__file__) if module.__file__ else module.__name__


def _shown(file: str) -> str:
    """A path as a person who works in the current folder knows it."""
    return file.removeprefix(os.getcwd() + os.sep)
