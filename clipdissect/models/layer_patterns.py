"""Layer name patterns such as `blocks.*.mlp.fc1`, and class names of modules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from clipdissect.errors import unknown

_PART = re.compile(r"\[([^\[\]]+)\]$")
LATENTS = "{sae}"  # ends the name of a layer whose units are a sparse autoencoder's latents

ALL_CONVS = "all_convs"
_CONV = re.compile(r"Conv(Transpose)?[123]d$")
_WILD = {"**.": r"(?:[^.]+\.)*", "**": ".+", "*": "[^.]*", "?": "[^.]"}


def expand(model: nn.Module, layers: Sequence[str]) -> tuple[str, ...]:
    """Replace patterns among layer names by the matching modules, in the network's order.

    `*` and `?` match characters other than a dot, `**` any; `**.conv1` also matches at the top;
    `all_convs` means every convolution. `[part]` and `{sae}` are preserved; plain names are not
    checked.

    Raises:
        DissectError: a pattern matches no module; lists the closest names.
    """
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    names: list[str] = []
    for layer in layers:
        pattern, _ = split_layer(layer)
        if not _is_pattern(pattern, modules):
            names.append(layer)
            continue
        matching = _matching(pattern, modules)
        if not matching:
            raise unknown("layer pattern", pattern, modules, most=12)
        ending = layer.removeprefix(pattern)
        names += [name + ending for name in matching if name + ending not in names]
    return tuple(names)


def kind_of(module: nn.Module) -> str:
    """Return a module's class name, the original in TorchScript and exported programs."""
    original = getattr(module, "original_name", None) or _exported_name(module)
    return str(original or type(module).__name__).rsplit(".", 1)[-1]


def _is_pattern(layer: str, modules: dict[str, nn.Module]) -> bool:
    return layer not in modules and (layer == ALL_CONVS or bool(set("*?") & set(layer)))


def _matching(pattern: str, modules: dict[str, nn.Module]) -> list[str]:
    if pattern == ALL_CONVS:
        return [name for name, module in modules.items() if _is_convolution(module)]
    # Longest wildcards first, so that `**.` isn't read as two `*` and a dot.
    pieces = re.split(r"(\*\*\.|\*\*|\*|\?)", pattern)
    expression = re.compile("".join(_WILD.get(p) or re.escape(p) for p in pieces))
    return [name for name in modules if expression.fullmatch(name)]


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) or bool(_CONV.match(kind_of(module)))


def _exported_name(module: nn.Module) -> str | None:
    if type(module).__name__ not in ("InterpreterModule", "UnflattenedModule"):
        return None
    name: Any = getattr(module, "type_name", None)
    return str(name()) if callable(name) and name() else None


def split_layer(layer: str) -> tuple[str, tuple[str, ...]]:
    """Split a layer's name from the parts of its output: `attn[0]{sae}` -> `attn`, `("0",)`."""
    layer = layer.removesuffix(LATENTS)
    parts: list[str] = []
    while match := _PART.search(layer):
        parts.insert(0, match.group(1))
        layer = layer[: match.start()]
    return layer, tuple(parts)
