"""Named options: a package's `OPTIONS` maps names to functions that build them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from clipdissect.errors import DissectError, unknown
from clipdissect.utils.type_checks import checked, shortened

Options = Mapping[str, Callable[..., Any]]
T = TypeVar("T")


def build(kind: str, options: Options, name: str, parameters: Mapping[str, Any]) -> Any:
    """Call the function behind a name.

    Raises:
        DissectError: unknown name or parameter, listing the valid ones; a value of a wrong type.
    """
    if not isinstance(name, str):
        raise DissectError(f"the name of a {kind} must be text; got {shortened(name)}")
    if name not in options:
        raise unknown(kind, name, options)
    function = options[name]
    valid = inspect.signature(function).parameters
    for parameter in parameters:
        if parameter not in valid:
            raise unknown(f"parameter of {kind} {name}", parameter, valid)
    for parameter, about in valid.items():
        if about.default is inspect.Parameter.empty and parameter not in parameters:
            raise DissectError(f"{kind} {name} needs its parameter {parameter}")
    return function(**checked(function, f"{kind} {name}", parameters))


def named(kind: str, build: Callable[..., T], given: Any) -> T:
    """Build an option from `"soft_wpmi"` or `{"name": "soft_wpmi", "top_k": 10}`."""
    expected = (
        f"{kind} must be a name, or a name with parameters, such as "
        f"{{'name': <{kind}>, <parameter>: <value>}}; got {shortened(given)}"
    )
    return _build(build, given, expected)


def part(kind: str, word: str, part_type: type[T], build: Callable[..., T], given: Any) -> T:
    """Return a part of a union: the given object, or a new one from a name or mapping."""
    if isinstance(given, part_type):
        return given
    expected = (
        f"a part of a union is a {kind}'s name, or {{name: <{word}>, <parameter>: <value>}}; "
        f"got {given!r}"
    )
    return _build(build, given, expected)


def _build(build: Callable[..., T], given: Any, expected: str) -> T:
    if isinstance(given, str):
        return build(given)
    if isinstance(given, Mapping) and isinstance(given.get("name"), str):
        return build(**given)
    raise DissectError(expected)
