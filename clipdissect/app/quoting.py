"""Quote values on the command line and in YAML so that they are read as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

BRACKETS = {"[": "]", "{": "}", "(": ")"}


def on_command_line(override: str, whole: bool = False, sweep: bool = False) -> str | None:
    """Return an override for the shell, with quotes where a value isn't read as text.

    Args:
        override: as in `probe.root=~/photos`.
        whole: quote the value as one text, despite brackets; default: quote elements of lists,
            values of dicts and of sweeps one by one.
        sweep: commas separate the values of a sweep.

    Returns:
        None if quotes don't make it readable.
    """
    key, equals, value = override.partition("=")
    parts = _split(value) if sweep else [value]
    quoted = ",".join(_quote(part) if whole else _quote_elements(part) for part in parts)
    result = f"{key}{equals}{quoted}"
    return shlex.quote(result) if equals and _parsed(result) else None


def in_yaml(file: Path, key: str | None, value: Any) -> tuple[int, str, str] | None:
    """Locate an unquoted value in a YAML file that isn't read as text.

    Args:
        key: last part of the value's dotted key; the index of a list's element.
        value: as omegaconf reads it.

    Returns:
        The line, from 1; the value as written; and its part of the line in quotes, of an element
        the whole list. None if there is no such value.
    """
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for name, scalar, siblings in _scalars(node):
        if name == key and _read(scalar) == value and not isinstance(_read(scalar), str):
            if siblings is None:
                quoted = f"{name}: {_yaml_quote(scalar)}"
            else:
                quoted = f"[{', '.join(map(_yaml_quote, siblings))}]"
            return scalar.start_mark.line + 1, scalar.value, quoted
    return None


Scalars = Iterator[tuple[str, yaml.ScalarNode, "list[yaml.ScalarNode] | None"]]


def _scalars(node: Any) -> Scalars:
    """Yield every scalar by its last key, with the scalars of its list if it is in one."""
    children: list[tuple[str, Any]] = []
    siblings = None
    if isinstance(node, yaml.MappingNode):
        children = [(str(name.value), child) for name, child in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(index), child) for index, child in enumerate(node.value)]
        siblings = [child for child in node.value if isinstance(child, yaml.ScalarNode)]
    for name, child in children:
        if isinstance(child, yaml.ScalarNode):
            yield name, child, siblings
        yield from _scalars(child)


def _read(scalar: yaml.ScalarNode) -> Any:
    """Read a scalar as omegaconf does, whose YAML has numbers that PyYAML doesn't know."""
    if scalar.style is not None:  # quoted, or a block
        return scalar.value
    try:
        return OmegaConf.create(f"- {scalar.value}")[0]
    except Exception:  # such as `${a}`, which refers to another key
        return scalar.value


def _yaml_quote(scalar: yaml.ScalarNode) -> str:
    text = str(scalar.value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _quote_elements(value: str) -> str:
    value = value.strip()
    if value.startswith("[") and value.endswith("]"):
        return f"[{','.join(map(_quote_elements, _split(value[1:-1])))}]"
    if value.startswith("{") and value.endswith("}"):
        pairs = [part.partition(":") for part in _split(value[1:-1])]
        return f"{{{','.join(f'{k.strip()}:{_quote_elements(v)}' for k, _, v in pairs)}}}"
    return value if _is_text(value) else _quote(value)


def _quote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value
    return QuotedString(text=value, quote=Quote.double).with_quotes()


def _split(values: str) -> list[str]:
    """Split at commas outside of brackets and quotes."""
    parts, quote = [""], ""
    closing: list[str] = []
    for character in values:
        if not closing and not quote and character == ",":
            parts.append("")
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not parts[-1].strip(" [{,:"):
            quote = character
        elif character in BRACKETS:
            closing.append(BRACKETS[character])
        elif closing and character == closing[-1]:
            closing.pop()
        parts[-1] += character
    return parts


def _parsed(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _is_text(value: str) -> bool:
    override = _parsed(f"x={value}")
    return bool(override and not override.is_sweep_override() and isinstance(override.value(), str))
