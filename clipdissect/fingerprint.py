"""What a network computes, apart from its tensors: attributes, hooks and bytecode, as plain values.

Bytecode rather than source, which can't be found for classes made in a notebook.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Deeper than any sensible config object; cycles end here too.
MAX_DEPTH = 8
_OWN = frozenset(vars(nn.Module()))  # what every module has, its tensors among them
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def of_module(module: nn.Module) -> list[Any]:
    """A module's class, attributes and forward hooks, as JSON-able values, without its children."""
    attributes = {k: v for k, v in vars(module).items() if k not in _OWN}
    hooks = [list(getattr(module, name, {}).values()) for name in _HOOKS]
    script = str(module.code) if isinstance(module, torch.jit.ScriptModule) else ""
    return [of_class(type(module)), of_value(attributes), of_value(hooks), script]


def of_class(kind: type) -> list[Any]:
    """A class's name, its own and inherited methods and plain attributes, up to torch's bases."""
    found: list[Any] = []
    for ancestor in kind.__mro__:
        if ancestor in (nn.Module, torch.jit.ScriptModule, object):
            break
        for name, value in sorted(vars(ancestor).items(), key=lambda item: item[0]):
            if not name.startswith("__") or name == "__call__":
                found.append([name, of_value(value, depth=MAX_DEPTH - 3)])
    return [kind.__module__, kind.__qualname__, found]


def of_value(value: Any, depth: int = 0) -> Any:
    """Any value as JSON-able values that are the same in every process.

    What can't be looked into (an object of a compiled extension) stands as its type's name.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if depth > MAX_DEPTH:
        return type(value).__qualname__
    if isinstance(value, (Tensor, np.ndarray)):
        return _of_array(value)
    if isinstance(value, Mapping):
        return [[repr(k), of_value(v, depth + 1)] for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [of_value(v, depth + 1) for v in value]]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(of_value(v, depth + 1)) for v in value)
    return _of_callable(value, depth) or _of_object(value, depth)


def _of_callable(value: Any, depth: int) -> list[Any] | None:
    if isinstance(value, functools.partial):
        return [of_value(part, depth + 1) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, (classmethod, staticmethod)):
        return _of_callable(value.__func__, depth)
    if isinstance(value, property):
        return _of_callable(value.fget, depth)
    if isinstance(value, type):
        return [value.__module__, value.__qualname__]
    function = inspect.unwrap(value) if inspect.isroutine(value) else None
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    cells = getattr(function, "__closure__", None) or ()
    inside = [c.cell_contents for c in cells if _is_filled(c)]
    defaults = getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)
    return [_instructions(code), of_value([defaults, inside], depth + 1)]


def _of_object(value: Any, depth: int) -> list[Any]:
    kind = type(value)
    name = [kind.__module__, kind.__qualname__]
    if isinstance(value, nn.Module):
        # A module that isn't registered as a child, as in a plain list.
        tensors = [of_value(t) for t in value.state_dict().values()]
        parts = [of_value(vars(m), depth + 3) for m in value.modules()]
        return [name, tensors, parts]
    if hasattr(value, "__dict__"):
        return [name, of_value(vars(value), depth + 1)]
    text = repr(value)
    return [name, "" if " at 0x" in text else text]


def _of_array(value: Tensor | np.ndarray[Any, Any]) -> list[str]:
    array = bytes_of(value) if isinstance(value, Tensor) else np.ascontiguousarray(value).tobytes()
    return [str(value.dtype), str(tuple(value.shape)), hashlib.sha256(array).hexdigest()]


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's elements as they lie in memory, in order, whatever its type."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _instructions(code: CodeType) -> list[Any]:
    constants = [
        _instructions(c) if isinstance(c, CodeType) else of_value(c) for c in code.co_consts
    ]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that isn't bound yet
        return False
