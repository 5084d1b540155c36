"""Checks of users' arguments against annotations, before anything is computed."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from reprlib import Repr
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from clipdissect.errors import DissectError, closest, unknown

T = TypeVar("T")
WORDS = {
    str: "text",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    NoneType: "None",
}
MAX_SHOWN = 80  # characters of a wrong value in errors


def checked(function: Callable[..., Any], what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked parameter values; paths given for text become text."""
    annotated: Any = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(annotated)
    return {
        name: _checked(f"{what}: {name}", hints.get(name, Any), value)
        for name, value in values.items()
    }


def check_fields(settings: Any, what: str) -> None:
    """Raise a DissectError unless a dataclass's fields match their annotations."""
    for name, hint in get_type_hints(type(settings)).items():
        if name in settings.__dataclass_fields__:
            _checked(f"{what}{name}", hint, getattr(settings, name))


def check_choice(name: str, value: Any, valid: Sequence[str]) -> None:
    if value not in valid:
        hint = closest(value, valid)
        raise DissectError(f"{name} is '{value}'; it can be {' or '.join(valid)}.{hint}")


def checked_fields(cls: type[T]) -> type[T]:
    """Decorate a dataclass that users construct: an unknown field is a DissectError."""
    init: Any = cls.__init__
    fields: Mapping[str, Any] = vars(cls)["__dataclass_fields__"]

    @functools.wraps(init)
    def checked_init(self: T, *values: Any, **given: Any) -> None:
        for name in given:
            if name not in fields:
                raise unknown(f"field of {cls.__name__}", name, fields)
        init(self, *values, **given)

    setattr(cls, "__init__", checked_init)  # noqa: B010 - which mypy refuses as an assignment
    return cls


def check_range(name: str, value: float, minimum: float, maximum: float | None = None) -> None:
    # Of NaN, no comparison is true.
    if not value >= minimum or (maximum is not None and not value <= maximum):
        limits = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
        raise DissectError(f"{name} is {value}; it must be {limits}")


def shortened(value: Any) -> str:
    short = Repr()
    short.maxstring = short.maxother = MAX_SHOWN
    return short.repr(value)


def _checked(name: str, hint: Any, value: Any) -> Any:
    if isinstance(value, os.PathLike) and not _fits(hint, value) and _fits(hint, ""):
        return os.fspath(value)
    if not _fits(hint, value):
        raise DissectError(f"{name} must be {_words(hint)}; got {shortened(value)}")
    return value


def _fits(hint: Any, value: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(each, value) for each in inner)
    if origin in (list, Sequence):
        return (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and all(_fits(inner[0], each) for each in value)
        )
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(inner[1], v) for v in value.values())
    if hint in (int, float):
        kind = Integral if hint is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, (bool, np.bool_))
    if hint is Any or not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return True
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, inner))
    if origin in (list, Sequence):
        return "a list" + {str: " of texts", int: " of whole numbers"}.get(inner[0], "")
    if origin in (dict, Mapping):
        return "a mapping"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))
