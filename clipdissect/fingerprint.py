"""What a network computes, apart from its tensors: attributes, hooks and bytecode, as plain values.

Bytecode rather than source, which can't be found for classes made in a notebook.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import threading
from collections.abc import Mapping
from types import CodeType
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor, nn

# Deeper than any sensible config object; cycles end here too.
MAX_DEPTH = 8
# What every module has, its tensors among them; and the mark of `torch.compile`.
_OWN = frozenset([*vars(nn.Module()), "_is_torch_compile"])
# Nothing is computed from these, and what they hold changes with the rest of the program.
IDLE = (logging.Logger, type(threading.Lock()), type(threading.RLock()))
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def of_module(module: nn.Module, depth: int = 0) -> list[Any]:
    """A module's class, attributes and forward hooks, as JSON-able values, without its children.

    Of a traced or exported module, which keeps a graph, the graph's text stands for the attributes.
    """
    graph = vars(module).get("graph", vars(module).get("_graph"))
    if isinstance(graph, torch.fx.Graph):
        attributes: dict[str, Any] = {"graph": str(graph)}
    else:
        attributes = {k: v for k, v in vars(module).items() if k not in _OWN}
    hooks = [list(getattr(module, name, {}).values()) for name in _HOOKS]
    script = str(module.code) if isinstance(module, torch.jit.ScriptModule) else ""
    return [of_class(type(module)), of_value(attributes, depth), of_value(hooks, depth), script]


def of_class(kind: type, depth: int = 0) -> list[Any]:
    """A class's name, its own and inherited methods and plain attributes, up to torch's bases."""
    found: list[Any] = []
    for ancestor in kind.__mro__:
        if ancestor in (nn.Module, torch.jit.ScriptModule, object) or _is_base(ancestor):
            break
        for name, value in sorted(vars(ancestor).items(), key=lambda item: item[0]):
            if not name.startswith("__") or name == "__call__":
                found.append([name, of_value(value, depth + MAX_DEPTH - 4)])
    return [kind.__module__, kind.__qualname__, found]


def _is_base(kind: type) -> bool:
    # What all networks of transformers share loads and saves them.
    return kind.__module__ == "transformers.modeling_utils"


def of_value(value: Any, depth: int = 0) -> Any:
    """Any value as JSON-able values that are the same in every process.

    What can't be looked into stands as something that never comes again: better to compute anew
    than to serve what may be stale.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, IDLE):
        return type(value).__qualname__
    if depth > MAX_DEPTH:
        return _name(value) or f"opaque {uuid4()}"
    if isinstance(value, (Tensor, np.ndarray)):
        return _of_array(value)
    if isinstance(value, Mapping):
        return [[repr(k), of_value(v, depth + 1)] for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [of_value(v, depth + 1) for v in value]]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(of_value(v, depth + 1)) for v in value)
    return _of_callable(value, depth) or _of_object(value, depth)


def _of_callable(value: Any, depth: int) -> Any:
    if isinstance(value, functools.partial):
        return [of_value(part, depth + 1) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, (classmethod, staticmethod)):
        return of_value(value.__func__, depth)
    if isinstance(value, property):
        return of_value([value.fget, value.fset], depth)
    function = inspect.unwrap(value) if inspect.isroutine(value) else None
    code = getattr(function, "__code__", None)
    if code is None:
        return _name(value)
    cells = [_content(cell) for cell in getattr(function, "__closure__", None) or ()]
    defaults = getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)
    return [_instructions(code), of_value([defaults, cells], depth + 1)]


def _of_object(value: Any, depth: int) -> Any:
    kind = type(value)
    if isinstance(value, nn.Module):
        # A module that isn't registered as a child, as in a plain list.
        tensors = [of_value(t) for t in value.state_dict().values()]
        return [tensors, [of_module(m, depth + 1) for m in value.modules()]]
    if any(base.__module__ == "transformers.configuration_utils" for base in kind.__mro__):
        return _of_configuration(value)
    if hasattr(value, "__dict__"):
        return [of_class(kind, depth + 1), of_value(vars(value), depth + 1)]
    text = repr(value)
    return [_name(kind), f"opaque {uuid4()}" if " at 0x" in text else text]


def _of_configuration(value: Any) -> Any:
    # Of transformers: its class holds machinery that can't be looked into, the values are plain.
    plain = json.loads(value.to_json_string(use_diff=False))
    unimportant = ("_name_or_path", "transformers_version")
    return [_name(type(value)), {k: v for k, v in plain.items() if k not in unimportant}]


def _name(value: Any) -> str | None:
    """Full name of a class or of a function without bytecode; None of anything else."""
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}"
    return None


def _of_array(value: Tensor | np.ndarray[Any, Any]) -> list[str]:
    array = bytes_of(value) if isinstance(value, Tensor) else np.ascontiguousarray(value).tobytes()
    return [str(value.dtype), str(tuple(value.shape)), hashlib.sha256(array).hexdigest()]


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's elements as they lie in memory, in order, whatever its type."""
    plain = tensor.detach().cpu()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    flat = plain.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _instructions(code: CodeType) -> list[Any]:
    constants = [
        _instructions(constant) if isinstance(constant, CodeType) else of_value(constant)
        for constant in code.co_consts
    ]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "a name that isn't bound yet"
