"""Named options: each package of the library maps names to functions that build one thing.

A package's `OPTIONS` dictionary is the one list of its names. `conf/<group>/<name>.yaml` gives
the same names their parameters for the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from clipdissect.errors import DissectError, unknown

Options = Mapping[str, Callable[..., Any]]


def call(kind: str, options: Options, name: str, parameters: Mapping[str, Any]) -> Any:
    """Call the function behind a name, after checking the parameters' names.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
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
    return function(**parameters)
