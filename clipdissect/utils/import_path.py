"""Objects of the user's own code, by import path."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from clipdissect.errors import DissectError, unknown


def load(path: str, what: str) -> Any:
    """Import `package.module:name`, first from the current folder; `what` is for errors."""
    name, colon, attribute = path.partition(":")
    if not (name and colon and attribute):
        raise DissectError(f"{what} is '{path}'; it must look like package.module:name")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    value = _module(name, what)
    for part in attribute.split("."):
        if not hasattr(value, part):
            names = [n for n in dir(value) if not n.startswith("_")]
            raise unknown(f"name in {name} ({what})", part, names)
        value = getattr(value, part)
    return value


def call(path: str, arguments: Any, what: str) -> Any:
    function: Callable[..., Any] = load(path, what)
    if not callable(function):
        raise DissectError(f"{what}: {path} is a {type(function).__name__}, which can't be called")
    named = keywords(arguments, f"{what.partition('.')[0]}.arguments")
    try:
        return function(**named)
    except DissectError:
        raise
    except Exception as error:  # the user's own code
        raise DissectError(f"{what}: {path} raised {where(error)}") from error


def keywords(arguments: Any, what: str = "target.arguments") -> dict[str, Any]:
    named = {} if arguments is None else arguments
    if not isinstance(named, Mapping) or not all(isinstance(key, str) for key in named):
        raise DissectError(
            f"{what} must be names with values, such as {{width: 8}}; got {arguments!r}"
        )
    return dict(named)


def where(error: BaseException) -> str:
    """Describe an exception in user code in one line: type, message, file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def _module(name: str, what: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise DissectError(
                f"{what}: there is no module {error.name} in {os.getcwd()} or among the installed "
                f"packages"
            ) from error
        raise DissectError(f"{what}: importing {name} raised {where(error)}") from error
    except Exception as error:  # the user's own code
        raise DissectError(f"{what}: importing {name} raised {where(error)}") from error
