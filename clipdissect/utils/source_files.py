"""Source files of the user's own that a network's code stands in, and the ones that those import.

Code is compared as it parses, so that comments and layout don't matter. Installed libraries (and
this one) are left out: their versions stand in the keys.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

_INSTALLED = ("site-packages", "dist-packages")
# What a module's file held when its load was first seen: an edit changes nothing before a reload.
# By the load's spec, which is kept so that no other gets its id.
_loaded: dict[int, tuple[Any, tuple[str, tuple[str, ...]]]] = {}


def file_of(place: Any) -> str | None:
    """The user's own file behind a module or the name of a file; None of anything else.

    Args:
        place: a module, or a file's name as code objects carry it.
    """
    name: str | None = getattr(place, "__file__", None) if isinstance(place, ModuleType) else place
    if not name or name.startswith("<") or is_installed(name) or not os.path.isfile(name):
        return None
    return os.path.realpath(name)


@functools.cache
def is_installed(name: str) -> bool:
    """Whether a file belongs to Python, an installed library or this one."""
    path = Path(os.path.realpath(name))
    return any(part in _INSTALLED for part in path.parts) or any(
        path.is_relative_to(root) for root in _roots()
    )


def digests(files: Iterable[str]) -> list[str]:
    """Digests of own files and of all that they import from among the user's own, sorted.

    A file's place on the disk doesn't count. Of a module that is loaded, the file counts as it was
    when the load was first seen here. The running script is no part of it: what of it matters is
    looked into by name.

    Args:
        files: from `file_of`.
    """
    script = file_of(sys.modules.get("__main__"))
    seen: dict[str, str] = {}
    waiting = [file for file in files if file != script]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen[file], imports = _examined(file)
        waiting += [own for own in imports if own != script]
    return sorted(f"{os.path.basename(file)} {found}" for file, found in seen.items())


def _examined(file: str) -> tuple[str, tuple[str, ...]]:
    spec = _spec_of(file)
    if spec is None:
        return _of_file(file)
    if id(spec) not in _loaded:
        _loaded[id(spec)] = spec, _of_file(file)
    return _loaded[id(spec)][1]


def _spec_of(file: str) -> Any:
    """Of the module that was loaded from a file; a new one with each load."""
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
        if name and name.endswith(os.path.basename(file)) and os.path.realpath(name) == file:
            return module.__spec__
    return None


def _of_file(file: str) -> tuple[str, tuple[str, ...]]:
    """A file's digest and the own files that it imports."""
    source = Path(file).read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # edited since it was loaded
        return hashlib.sha256(source).hexdigest(), ()
    found = {own for name in _imports(tree) for own in _resolved(name, Path(file).parent)}
    found |= set(_packages(Path(file).parent))  # they run first
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(found - {file}))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a file imports; relative ones start with their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            joint = "" if base.endswith(".") or not base else "."
            yield from (f"{base}{joint}{alias.name}" for alias in node.names if alias.name != "*")


def _resolved(name: str, folder: Path) -> Iterator[str]:
    """The own files that an import in a file of a folder may run."""
    plain = name.lstrip(".")
    parts = plain.split(".") if plain else []
    if name.startswith("."):
        starts = [str([folder, *folder.parents][len(name) - len(plain) - 1])]
    elif _is_of_library(parts[0]):
        return
    else:
        starts = [str(folder), str(_top(folder)), *(entry or os.curdir for entry in sys.path)]
    for start in starts:
        for count in range(1, len(parts) + 1):
            path = os.path.join(start, *parts[:count])
            yield from filter(None, map(file_of, (f"{path}.py", f"{path}{os.sep}__init__.py")))


def _is_of_library(name: str) -> bool:
    """Whether a module of this name, once imported, belongs to Python, a library or this one."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    is_known = name in sys.stdlib_module_names or name == __name__.partition(".")[0]
    return is_known or bool(loaded and is_installed(loaded))


def _packages(folder: Path) -> Iterator[str]:
    """The `__init__.py` of the packages that a folder is in."""
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        yield from filter(None, [file_of(str(folder / "__init__.py"))])
        folder = folder.parent


def _top(folder: Path) -> Path:
    """The folder that holds the outermost package which a folder is in."""
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    return folder


@functools.lru_cache(maxsize=1)
def _roots() -> tuple[Path, ...]:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    import torch

    ours = Path(__file__).parents[1]
    named = [
        *(sysconfig.get_paths()[kind] for kind in kinds), *site.getsitepackages(),
        site.getusersitepackages(), *map(str, torch.__path__), str(ours),
    ]  # fmt: skip
    return tuple(Path(os.path.realpath(name)) for name in named)
