"""Forms of the command line and of YAML in which a value is read as text."""

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
    """Return an override in the shell's words, with quotes around what isn't read as text.

    Args:
        override: as in `probe.root=~/photos`.
        whole: the value is one text, whatever brackets it has; otherwise elements of lists, values
            of dicts and of sweeps are looked at one by one.
        sweep: commas part the values of a sweep.

    Returns:
        None where quotes don't make it readable.
    """
    key, equals, value = override.partition("=")
    parts = _split(value) if sweep else [value]
    quoted = ",".join(_quote(part) if whole else _texts(part) for part in parts)
    found = f"{key}{equals}{quoted}"
    return shlex.quote(found) if equals and _parsed(found) else None


def in_yaml(file: Path, key: str | None, value: Any) -> tuple[int, str, str] | None:
    """Return where a YAML file has a plain value that isn't read as text, and how to write it.

    Args:
        file: with the value.
        key: the last part of the value's dotted key; the position, of an element of a list.
        value: what it is read as.

    Returns:
        The line, from 1; the value as it stands there; and the line's part in quotes, of an
        element of a list the whole list. None where there is no such value.
    """
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for name, scalar, siblings in _scalars(node):
        if name == key and _read(scalar) == value and not isinstance(_read(scalar), str):
            written = scalar.value
            if siblings is None:
                return scalar.start_mark.line + 1, written, f"{name}: {_in_quotes(scalar)}"
            elements = ", ".join(map(_in_quotes, siblings))
            return scalar.start_mark.line + 1, written, f"[{elements}]"
    return None


Scalars = Iterator[tuple[str, yaml.ScalarNode, "list[yaml.ScalarNode] | None"]]


def _scalars(node: Any) -> Scalars:
    """Every value that is no container, by its last key, with its list's where it is in one."""
    if isinstance(node, yaml.MappingNode):
        for name, inner in node.value:
            if isinstance(inner, yaml.ScalarNode):
                yield str(name.value), inner, None
            yield from _scalars(inner)
    if isinstance(node, yaml.SequenceNode):
        scalars = [inner for inner in node.value if isinstance(inner, yaml.ScalarNode)]
        for number, inner in enumerate(node.value):
            if isinstance(inner, yaml.ScalarNode):
                yield str(number), inner, scalars
            yield from _scalars(inner)


def _read(scalar: yaml.ScalarNode) -> Any:
    """What omegaconf, whose YAML has numbers that PyYAML doesn't know, reads."""
    if scalar.style is not None:  # quoted, or a block
        return scalar.value
    try:
        return OmegaConf.create(f"- {scalar.value}")[0]
    except Exception:  # such as `${a}`, of another place
        return scalar.value


def _in_quotes(scalar: yaml.ScalarNode) -> str:
    text = str(scalar.value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _texts(value: str) -> str:
    value = value.strip()
    if value.startswith("[") and value.endswith("]"):
        return f"[{','.join(map(_texts, _split(value[1:-1])))}]"
    if value.startswith("{") and value.endswith("}"):
        pairs = [part.partition(":") for part in _split(value[1:-1])]
        return f"{{{','.join(f'{k.strip()}:{_texts(v)}' for k, _, v in pairs)}}}"
    return value if _is_text(value) else _quote(value)


def _quote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value
    return QuotedString(text=value, quote=Quote.double).with_quotes()


def _split(values: str) -> list[str]:
    """Parts between the commas that are in no brackets and no quotes."""
    parts, quote = [""], ""
    depth: list[str] = []
    for character in values:
        if not depth and not quote and character == ",":
            parts.append("")
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not parts[-1].strip(" [{,:"):
            quote = character
        elif character in BRACKETS:
            depth.append(BRACKETS[character])
        elif depth and character == depth[-1]:
            depth.pop()
        parts[-1] += character
    return parts


def _parsed(override: str) -> Override | None:
    """The override as Hydra reads it, or None where it can't."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _is_text(value: str) -> bool:
    found = _parsed(f"x={value}")
    return bool(found and not found.is_sweep_override() and isinstance(found.value(), str))
