"""The user's source files with a network's code, and the files that they import."""

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
# Digest and imports of a module's file when its load was first seen: an edit changes nothing before
# a reload. By the id of the load's spec, which is stored too, so that no other spec gets its id.
_loaded: dict[int, tuple[Any, tuple[str, tuple[str, ...]]]] = {}


def file_of(source: Any) -> str | None:
    """Return the user's file behind a module or code file name; None otherwise."""
    is_module = isinstance(source, ModuleType)
    name: str | None = getattr(source, "__file__", None) if is_module else source
    if not name or name.startswith("<") or is_installed(name) or not os.path.isfile(name):
        return None
    return os.path.realpath(name)


@functools.cache
def is_installed(name: str) -> bool:
    """Return whether a file belongs to Python, an installed library or this library."""
    path = Path(os.path.realpath(name))
    return any(part in _INSTALLED for part in path.parts) or any(
        path.is_relative_to(root) for root in _roots()
    )


def digests(files: Iterable[str]) -> list[str]:
    """Return sorted digests of the user's files and their imports, independent of folders."""
    # Fingerprints hash by name the parts of the running script that a network uses.
    script = file_of(sys.modules.get("__main__"))
    digest_of: dict[str, str] = {}
    queue = [file for file in files if file != script]
    while queue:
        file = queue.pop()
        if file not in digest_of:
            digest_of[file], imports = _of_loaded(file)
            queue += [imported for imported in imports if imported != script]
    return sorted(f"{os.path.basename(file)} {digest}" for file, digest in digest_of.items())


def _of_loaded(file: str) -> tuple[str, tuple[str, ...]]:
    spec = _spec_of(file)
    if spec is None:
        return _of_file(file)
    if id(spec) not in _loaded:
        _loaded[id(spec)] = spec, _of_file(file)
    return _loaded[id(spec)][1]


def _spec_of(file: str) -> Any:
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
        if name and name.endswith(os.path.basename(file)) and os.path.realpath(name) == file:
            return module.__spec__
    return None


def _of_file(file: str) -> tuple[str, tuple[str, ...]]:
    source = Path(file).read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # edited since it was loaded
        return hashlib.sha256(source).hexdigest(), ()
    folder = Path(file).parent
    files = {path for name in _imports(tree) for path in _resolve(name, folder)}
    packages, _ = _packages(folder)  # their __init__.py run first
    files |= set(filter(None, (file_of(str(package / "__init__.py")) for package in packages)))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(files - {file}))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield dotted names that a file imports; relative ones start with their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            dot = "" if base.endswith(".") or not base else "."
            yield from (f"{base}{dot}{alias.name}" for alias in node.names if alias.name != "*")


def _resolve(name: str, folder: Path) -> Iterator[str]:
    """Yield the user's files that an import in a file of a folder may run."""
    plain = name.lstrip(".")
    parts = plain.split(".") if plain else []
    if name.startswith("."):
        starts = [str([folder, *folder.parents][len(name) - len(plain) - 1])]
    elif _is_of_library(parts[0]):
        return
    else:
        _, top = _packages(folder)
        starts = [str(folder), str(top), *(entry or os.curdir for entry in sys.path)]
    for start in starts:
        for count in range(1, len(parts) + 1):
            path = os.path.join(start, *parts[:count])
            yield from filter(None, map(file_of, (f"{path}.py", f"{path}{os.sep}__init__.py")))


def _is_of_library(name: str) -> bool:
    """Return whether a module name belongs to Python, a library or this library."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    is_known = name in sys.stdlib_module_names or name == __name__.partition(".")[0]
    return is_known or bool(loaded and is_installed(loaded))


def _packages(folder: Path) -> tuple[list[Path], Path]:
    """Return the packages that contain a folder, and the folder of the outermost."""
    packages = []
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        packages.append(folder)
        folder = folder.parent
    return packages, folder


@functools.lru_cache(maxsize=1)
def _roots() -> tuple[Path, ...]:
    import torch

    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    python = [sysconfig.get_paths()[kind] for kind in kinds]
    packages = [*site.getsitepackages(), site.getusersitepackages(), *torch.__path__]
    this_library = str(Path(__file__).parents[1])
    return tuple(Path(os.path.realpath(name)) for name in [*python, *packages, this_library])
