"""Fingerprint of a network without its tensors: attributes, hooks and code."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import inspect
import json
import logging
import re
import sys
import threading
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clipdissect.utils import source_files

PART = 1 << 26  # bytes of a tensor that are hashed, and copied from a device, at once
MAX_DEPTH = 60  # of nested objects; Python's own limit is not far beyond
# Attributes that every module has, its tensors among them; and the mark of `torch.compile`.
_MODULE_ATTRIBUTES = frozenset([*vars(nn.Module()), "_is_torch_compile"])
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
# Nothing is computed from these, and their state changes with the rest of the program.
_STATELESS = (
    logging.Logger,
    type(threading.Lock()),
    type(threading.RLock()),
    RemovableHandle,
    type(NotImplemented),
    type(Ellipsis),
)
# Globals that functions fill while they run, rather than compute from.
_FILLED = (Counter, defaultdict, deque)
# Libraries that check types, change no value, and hold addresses.
_CHECKERS = ("beartype", "typeguard", "jaxtyping")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
# Methods that no forward pass runs.
_UNUSED_METHODS = re.compile(
    "__(init|new|init_subclass|repr|str|reduce|reduce_ex|getstate|setstate|getnewargs|del|eq|hash|"
    "dir|class_getitem|annotate|annotate_func)__"
)
_Key = tuple[int, str, bool]  # id of a value, name of the visiting method, lenient
# CPython's flags of types: created at run time (heap types), immutable.
_HEAP, _IMMUTABLE = 1 << 9, 1 << 8


def is_compile_wrapper(module: nn.Module) -> bool:
    # By name: importing the class imports the whole compiler.
    return type(module).__name__ == "OptimizedModule"


class Fingerprint:
    """A visitor of a network's attributes and code; texts are equal in every process.

    Code counts as loaded bytecode, with the functions and constants that it names, and as the
    user's source files behind it.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        modules = model.named_modules() if model is not None else ()
        self._names = {id(module): name for name, module in modules}
        self._files: set[str] = set()
        self._texts: dict[_Key, tuple[Any, str]] = {}  # with the value, which keeps its id taken
        self._open: list[_Key] = []  # values being visited, outermost first
        self._lenient = False
        self.opaque: list[str] = []  # types of values that can't be hashed

    def sources(self) -> list[str]:
        """Return digests of the user's source files behind everything visited."""
        return source_files.digests(self._files)

    def of_module(self, module: nn.Module) -> list[Any]:
        """Return a module's class, attributes and forward hooks, without children."""
        # These wrappers change a network's output in the last digit only.
        is_parallel = type(module) in (nn.DataParallel, nn.parallel.DistributedDataParallel)
        if is_parallel or is_compile_wrapper(module):
            return [type(module).__qualname__]
        # The graph of an exported or traced (torch.fx) module replaces its attributes.
        graph = vars(module).get("graph", vars(module).get("_graph"))
        attributes = {k: v for k, v in vars(module).items() if k not in _MODULE_ATTRIBUTES}
        is_compiled = attributes.pop("_compiled_call_impl", None) is not None
        if isinstance(graph, torch.fx.Graph):
            called = [node.target for node in graph.nodes if node.op == "call_function"]
            attributes = {"graph": str(graph), "called": called}
        hooks = [list(getattr(module, name, {}).values()) for name in _HOOKS]
        parts = [self._of_class(type(module)), self.of_value(attributes), self.of_value(hooks)]
        return [*parts, "compiled"] if is_compiled else parts

    def of_value(self, value: Any) -> str:
        """Return a value as text that is the same in every process, or list it in `opaque`."""
        if isinstance(value, _PLAIN) and not isinstance(value, enum.Enum):
            return repr(value)
        return self._once(value, self._visit)

    def _once(self, value: Any, visit: Callable[[Any], Any]) -> str:
        """Hash the result of `visit`; a cycle becomes a reference upwards."""
        key = id(value), visit.__name__, self._lenient
        if key in self._texts:
            return self._texts[key][1]
        if key in self._open:
            return f"above {len(self._open) - self._open.index(key)}"
        if len(self._open) >= MAX_DEPTH:
            return self._unknown(value)
        self._open.append(key)
        try:
            text = _text(visit(value))
        finally:
            self._open.pop()
        self._texts[key] = (value, text)
        return text

    def _visit(self, value: Any) -> Any:
        if isinstance(value, _STATELESS):
            return type(value).__qualname__
        if _module_of(value).partition(".")[0] in _CHECKERS:
            return _name(value)
        if isinstance(value, np.ndarray) and value.dtype.hasobject:
            return ["array", self.of_value(value.tolist())]
        if isinstance(value, (Tensor, np.ndarray)):
            return _of_array(value)
        if isinstance(value, nn.Module):
            return self._of_loose_module(value)
        if isinstance(value, enum.Enum):
            return [self._of_type(type(value)), value.name, self.of_value(value.value)]
        if isinstance(value, ModuleType):
            self._add_file(source_files.file_of(value))
            return value.__name__
        if isinstance(value, weakref.ref):
            return ["reference", self.of_value(value())]
        if isinstance(value, ContextVar):
            return ["context", self.of_value(value.get(None))]  # its name may hold an address
        if isinstance(value, type):
            return self._of_type(value)
        try:
            for visit in (self._of_container, self._of_callable):
                parts = visit(value)
                if parts is not None:
                    return parts
            return self._of_object(value)
        except Exception:  # other people's iteration, `__repr__` or pickling
            return self._unknown(value)

    def _of_container(self, value: Any) -> Any:
        kind = type(value)
        name: Any = kind.__name__
        if _is_own_type(kind):
            name = [self._of_class(kind), self.of_value(_attributes(value))]
        if isinstance(value, Mapping):
            return [name, [[self.of_value(k), self.of_value(v)] for k, v in value.items()]]
        if isinstance(value, (list, tuple, deque)):
            return [name, [self.of_value(v) for v in value]]
        if isinstance(value, (set, frozenset)):
            return [name, sorted(self.of_value(v) for v in value)]
        if isinstance(value, torch.Generator):
            return [name, str(value.device), _of_array(value.get_state())]
        if isinstance(value, GeneratorType):
            frame = value.gi_frame
            state = [frame.f_lasti, self.of_value(dict(frame.f_locals))] if frame else "ended"
            return [name, self._instructions(value.gi_code), state]
        return None

    def _of_loose_module(self, module: nn.Module) -> Any:
        """Visit a module that isn't a registered child, as in a plain list."""
        if id(module) in self._names:
            return ["module", self._names[id(module)]]
        tensors = [self.of_value(t) for t in module.state_dict().values()]
        return [tensors, [self.of_module(part) for part in module.modules()]]

    # Code

    def _of_type(self, kind: type) -> Any:
        return self._of_class(kind) if _is_own_type(kind) else _name(kind)

    def _of_class(self, kind: type) -> list[Any]:
        # transformers' common base of all networks only loads and saves them.
        members = [
            [_name(ancestor), self._once(ancestor, self._of_members)]
            for ancestor in kind.__mro__
            if ancestor not in (nn.Module, object)
            and ancestor.__module__ != "transformers.modeling_utils"
        ]
        return [_name(kind), members]

    def _of_members(self, kind: type) -> list[Any]:
        is_own = _is_own_type(kind)
        if is_own:
            self._add_file(source_files.file_of(sys.modules.get(kind.__module__)))
        return [
            [name, self.of_value(value)]
            for name, value in sorted(vars(kind).items(), key=lambda item: item[0])
            if _is_relevant(name, value, is_own)
        ]

    def _of_callable(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return [self.of_value(part) for part in (value.func, value.args, value.keywords)]
        if isinstance(value, (classmethod, staticmethod)):
            return self.of_value(value.__func__)
        if isinstance(value, property):
            return self.of_value([value.fget, value.fset])
        if isinstance(value, functools.cached_property):
            return self.of_value(value.func)
        if isinstance(value, (MethodType, BuiltinMethodType)):
            return self._of_bound(value)
        if isinstance(value, FunctionType):
            return self._of_function(value)
        if isinstance(value, torch.jit.ScriptFunction):
            return str(value.code)
        if not inspect.isroutine(value) and not hasattr(value, "cache_info"):
            return None
        wrapped = getattr(value, "__wrapped__", None)  # of functools.lru_cache
        return [_name(value), self.of_value(wrapped)]

    def _of_bound(self, method: Any) -> Any:
        owner = method.__self__
        function = getattr(method, "__func__", None)
        text = self.of_value(function) if function is not None else _name(method)
        if owner is None or isinstance(owner, ModuleType):
            return text
        return [text, self.of_value(owner)]

    def _of_function(self, function: FunctionType) -> Any:
        plain = getattr(function, "_torchdynamo_orig_callable", None)
        if plain is not None and plain is not function:
            return ["compiled", self.of_value(plain)]
        if function.__code__.co_filename.startswith("<@beartype"):  # differs between processes
            return ["checked", self.of_value(getattr(function, "__wrapped__", None))]
        cells = [_content(cell) for cell in function.__closure__ or ()]
        bound = [function.__defaults__, function.__kwdefaults__, cells]
        parts: list[Any] = [self._instructions(function.__code__), self.of_value(bound)]
        if _is_own_function(function):
            self._add_file(source_files.file_of(function.__code__.co_filename))
            parts.append(self._of_globals(function))
        return parts

    def _of_globals(self, function: FunctionType) -> Any:
        names, attributes = _named(function.__code__)
        imported = {name: sys.modules[name] for name in names if name in sys.modules}
        namespace = {**imported, **function.__globals__}
        before, self._lenient = self._lenient, True
        try:
            return self._of_names(namespace, names, attributes, set())
        finally:
            self._lenient = before

    def _of_names(
        self, namespace: Mapping[str, Any], names: set[str], attributes: set[str], seen: set[str]
    ) -> list[Any]:
        parts: list[Any] = []
        for name in sorted(names & namespace.keys()):
            value = namespace[name]
            if not isinstance(value, ModuleType):
                parts.append([name, "" if isinstance(value, _FILLED) else self.of_value(value)])
            elif value.__name__ not in seen and _is_own_file(getattr(value, "__file__", None)):
                seen.add(value.__name__)
                self._add_file(source_files.file_of(value))
                parts.append([name, self._of_names(vars(value), attributes, attributes, seen)])
        return parts

    def _instructions(self, code: CodeType) -> list[Any]:
        constants = [
            self._instructions(constant)
            if isinstance(constant, CodeType)
            else self.of_value(constant)
            for constant in code.co_consts
        ]
        return [code.co_code.hex(), constants, list(code.co_names)]

    # Objects

    def _of_object(self, value: Any) -> Any:
        kind = type(value)
        if any(base.__module__ == "transformers.configuration_utils" for base in kind.__mro__):
            return _of_configuration(value)
        if kind.__module__ == "torch._ops":  # operations of torch, as in exported graphs
            return str(value)
        if _is_plain_python(kind):
            return [self._of_class(kind), self.of_value(_attributes(value))]
        text = repr(value)
        if " at 0x" not in text:
            return [_name(kind), text]
        # The parts that the object would be pickled as; raises where it can't be pickled.
        _, *parts = value.__reduce_ex__(2)
        return [_name(kind), [self.of_value(_listed(part)) for part in parts]]

    def _unknown(self, value: Any) -> str:
        name = str(_name(type(value)))
        if self._lenient:  # globals that can't be hashed don't make a network opaque
            return name
        self.opaque.append(name)
        # A unique text: better to compute again than to serve stale numbers.
        return f"opaque {uuid4()}"

    def _add_file(self, file: str | None) -> None:
        if file:
            self._files.add(file)


def _text(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=20).hexdigest()


def _is_relevant(name: str, value: Any, is_own: bool) -> bool:
    """Return whether a member of a class may affect the network's computation."""
    if name == "_abc_impl":  # abstract classes' cache of type checks
        return False
    if not name.startswith("__") or name == "__call__":
        return True
    return is_own and isinstance(value, FunctionType) and not _UNUSED_METHODS.fullmatch(name)


def _is_own_file(name: str | None) -> bool:
    return bool(name) and not source_files.is_installed(str(name))


def _is_own_module(name: str | None) -> bool:
    # Code of a module that is no longer loaded, such as torch.hub's, is in no installed library.
    module = sys.modules.get(name or "")
    return module is None or name == "__main__" or _is_own_file(getattr(module, "__file__", None))


def _is_own_type(kind: type) -> bool:
    return _is_own_module(kind.__module__)


def _is_own_function(function: FunctionType) -> bool:
    file = function.__code__.co_filename
    return _is_own_module(function.__module__) if file.startswith("<") else _is_own_file(file)


def _named(code: CodeType) -> tuple[set[str], set[str]]:
    """Return globals and modules that code reads, and attributes that it accesses."""
    names, attributes = set[str](), set[str]()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"):
            names.add(str(step.argval))
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            attributes.add(str(step.argval))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            inner_names, inner_attributes = _named(inner)
            names, attributes = names | inner_names, attributes | inner_attributes
    return names, attributes


def _is_plain_python(kind: type) -> bool:
    """Return whether an object's state is all in its `__dict__` and `__slots__`."""
    bases = [base for base in kind.__mro__ if base is not object]
    has_state = bool(kind.__dictoffset__) or "__slots__" in vars(kind) or kind is object
    slots = sum(inspect.ismemberdescriptor(m) for base in bases for m in vars(base).values())
    is_small = kind.__basicsize__ <= object.__basicsize__ + 8 * (2 + slots)
    flags = [base.__flags__ for base in bases]
    return has_state and is_small and all(f & _HEAP and not f & _IMMUTABLE for f in flags)


def _attributes(value: Any) -> dict[str, Any]:
    slots = {
        name: getattr(value, name)
        for base in type(value).__mro__
        for name, member in vars(base).items()
        if inspect.ismemberdescriptor(member) and hasattr(value, name)
    }
    return {**slots, **getattr(value, "__dict__", {})}


def _listed(part: Any) -> Any:
    return list(part) if hasattr(part, "__next__") else part


def _of_configuration(value: Any) -> Any:
    # Of transformers: its class can't be hashed, its values are plain.
    plain = json.loads(value.to_json_string(use_diff=False))
    unimportant = ("_name_or_path", "transformers_version")
    return [_name(type(value)), {k: v for k, v in plain.items() if k not in unimportant}]


def _name(value: Any) -> str:
    """Return the full name of a class, a function without bytecode, or an object's class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}"


def _module_of(value: Any) -> str:
    named = value if isinstance(value, (type, FunctionType)) else type(value)
    return str(named.__module__)


def _of_array(value: Tensor | np.ndarray[Any, Any]) -> list[str]:
    if isinstance(value, Tensor):
        digest = hash_elements(value)
    else:
        digest = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(value).tobytes())
    return [str(value.dtype), str(tuple(value.shape)), digest]


def hash_elements(tensor: Tensor) -> str:
    """Return a digest of a tensor's elements, in order, for any type, layout and device."""
    plain = tensor.detach()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    flat = plain.contiguous().reshape(-1).view(torch.uint8)
    hasher = xxhash.xxh3_128()
    for start in range(0, len(flat), PART):
        part: Any = _on_cpu(flat[start : start + PART]).numpy()
        hasher.update(part)
    return hasher.hexdigest()


def _on_cpu(part: Tensor) -> Tensor:
    # Pinned memory, which torch caches, is copied to several times as fast.
    if not part.is_cuda:
        return part.cpu()
    return torch.empty(len(part), dtype=part.dtype, pin_memory=True).copy_(part)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "a name that isn't bound yet"
