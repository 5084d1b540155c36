"""Write `schema.json` from the signatures of the library's functions: `scripts/schema`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from clipdissect import (
    concepts,
    encoder,
    method,
    probe,
    sae,
    sentence,
    similarity,
    studies,
    targets,
    text_images,
    tracking,
)
from clipdissect.app.help import SCHEMA
from clipdissect.utils.files import write_text
from clipdissect.utils.registry import Options

GROUPS: dict[str, Options] = {
    "target": targets.OPTIONS,
    "probe": probe.OPTIONS,
    "concepts": concepts.OPTIONS,
    "encoder": encoder.OPTIONS,
    "similarity": similarity.OPTIONS,
    "sentence": sentence.OPTIONS,
    "method": method.OPTIONS,
    "sae": sae.OPTIONS,
    "text_images": text_images.OPTIONS,
    "study": studies.OPTIONS,
    "tracking": tracking.OPTIONS,
}
PLAIN = {str: "text", int: "int", float: "float", bool: "bool", Any: "any"}


def main() -> None:
    write_text(SCHEMA, text())


def text() -> str:
    """Return the contents of `schema.json`."""
    groups = {
        group: {
            name: {key: json.dumps(about) for key, about in parameters_of(function).items()}
            for name, function in options.items()
        }
        for group, options in GROUPS.items()
    }
    return f"{_nested(groups)}\n"


def _nested(values: Mapping[str, Any] | str, indent: str = "") -> str:
    """Return JSON with one parameter a line; texts are JSON already."""
    if isinstance(values, str):
        return values
    if not values:
        return "{}"
    deeper = f"{indent} "
    lines = [f"{deeper}{json.dumps(key)}: {_nested(v, deeper)}" for key, v in values.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def parameters_of(function: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Return the type and the default, if any, of each parameter."""
    source: Any = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(source)
    parameters = {}
    for name, parameter in inspect.signature(function).parameters.items():
        parameters[name] = {"type": type_of(hints[name])}
        if parameter.default is not inspect.Parameter.empty:
            parameters[name]["default"] = parameter.default
    return parameters


def type_of(hint: Any) -> Any:
    """Return a type's description for `schema.json`; raise a TypeError if there is none."""
    if hint in PLAIN:
        return PLAIN[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin is list:
        return {"list": type_of(inner[0])}
    if origin is dict and inner[0] is str:
        return {"dict": type_of(inner[1])}
    others = [argument for argument in inner if argument is not NoneType]
    if origin in (Union, UnionType) and len(others) == 1:
        return {"optional": type_of(others[0])}
    raise TypeError(f"a parameter's type must be plain, a list, a dict or optional; it is {hint}")


if __name__ == "__main__":
    main()
