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
    """Return an override, quoted for the shell, whose values are read as text, or None.

    `whole` quotes the value despite brackets, otherwise elements are quoted separately;
    `sweep` splits at commas.
    """
    key, equals, value = override.partition("=")
    parts = _split(value) if sweep else [value]
    quoted = ",".join(_quote(part) if whole else _quote_elements(part) for part in parts)
    result = f"{key}{equals}{quoted}"
    return shlex.quote(result) if equals and _parsed(result) else None


def in_yaml(file: Path, key: str | None, value: Any) -> tuple[int, str, str] | None:
    """Return line (from 1), text and quoted form of a value that isn't read as text, or None.

    `key` is the last part of the dotted key, or the index in a list, which is quoted
    whole.
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
    """Yield every scalar by its last key, with the scalars of its list, if any."""
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
    """Read a scalar as omegaconf, whose YAML has numbers that PyYAML doesn't know."""
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
