"""Layer name patterns such as `blocks.*.mlp.fc1`, filters, and class names of modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.conv import _ConvNd

from clipdissect.errors import DissectError, one_line, unknown
from clipdissect.utils.type_checks import shortened

LayerFilter: TypeAlias = (
    type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[str, nn.Module], bool]
)
"""The layers of a network by the modules' type or types, or by a function of name and module."""

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


def check(layers: Any) -> tuple[str, ...] | None:
    """Return the names of a list of layers; None for a `LayerFilter` or None.

    Raises:
        DissectError: something else.
    """
    types = layers if isinstance(layers, tuple) else (layers,)
    if layers is None or (types and all(_is_module_type(each) for each in types)):
        return None
    if callable(layers) and not isinstance(layers, (type, nn.Module)):
        return None
    is_list = isinstance(layers, Sequence) and not isinstance(layers, str)
    if not is_list or any(not isinstance(layer, str) for layer in layers):
        raise DissectError(
            f"layers must be a list of names, such as ['layer4'], a module type, such as "
            f"torch.nn.Conv2d, or a function of a name and a module; got {shortened(layers)}"
        )
    return tuple(layers)


def select(model: nn.Module, chosen: LayerFilter) -> tuple[str, ...]:
    """Return the names of the modules that a filter selects, in the network's order.

    Raises:
        DissectError: the filter selects none, or fails.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if isinstance(chosen, (type, tuple)):
        names = [name for name, module in modules.items() if isinstance(module, chosen)]
    else:
        names = [name for name, module in modules.items() if _passes(chosen, name, module)]
    if not names:
        kinds = ", ".join(dict.fromkeys(kind_of(module) for module in modules.values()))
        raise DissectError(
            f"layers selects none of the network's {len(modules)} modules. Their types: {kinds}"
        )
    return tuple(names)


def _passes(chosen: Callable[[str, nn.Module], bool], name: str, module: nn.Module) -> bool:
    try:
        return bool(chosen(name, module))
    except Exception as error:  # the user's own code
        raise DissectError(
            f"the function layers(name, module) failed on {name} with {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error


def _is_module_type(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


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
