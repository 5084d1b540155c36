"""Facts about networks that are built by name, remembered in the user cache.

A run on stored features needs a network's digest, not the network.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from clipdissect.errors import DissectError
from clipdissect.utils import dependencies, hashing
from clipdissect.utils.dependencies import Dependencies, depends_on, depends_on_more
from clipdissect.utils.files import write_text
from clipdissect.utils.hashing import is_transient
from clipdissect.utils.paths import cache_dir

log = logging.getLogger(__name__)

VERSION = 1  # of the records; increment it when their content changes
FOLDER = "networks"
LIBRARY = Path(__file__).parents[1]
Facts = dict[str, Any]
T = TypeVar("T")

DISTRIBUTIONS = (
    "huggingface-hub",
    "numpy",
    "open_clip_torch",
    "pillow",
    "safetensors",
    "sentence-transformers",
    "timm",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)
# Folders of packages whose files count by size and time, so that an edit in place is noticed.
SOURCES = {
    "open_clip": ("", "model_configs"),
    "PIL": ("",),
    "sentence_transformers": ("",),
    "timm": ("", "data", "data/_info", "layers", "models"),
    "torch": ("", "nn", "nn/modules"),
    "torchvision": ("", "models", "transforms", "transforms/v2", "transforms/v2/functional"),
    "transformers": ("",),
}
# Where a function from elsewhere was put there by the program, as were other networks.
LIBRARIES = ("open_clip", "timm", "torchvision", "transformers")
REGISTRIES = (
    ("timm.models._registry", "_model_entrypoints"),
    ("torchvision.models._api", "BUILTIN_MODELS"),
)
# What these libraries' functions come from, by decorators and imports.
ORIGINS = (
    *LIBRARIES,
    *("ftfy", "httpx", "huggingface_hub", "numpy", "packaging", "PIL", "regex", "requests"),
    *("safetensors", "sklearn", "tokenizers", "torch", "tqdm", "typing_extensions", "yaml"),
)
# What decides where files are looked for.
VARIABLES = (
    "CLIPDISSECT_CACHE",
    "CLIPDISSECT_DATA",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HOME",
    "HUGGINGFACE_HUB_CACHE",
    "TIMM_USE_OLD_CACHE",
    "TORCH_HOME",
    "TRANSFORMERS_CACHE",
    "XDG_CACHE_HOME",
)


@dataclass
class Remembered(Generic[T]):
    """Something built by name, at the first use of `built`, with facts about it."""

    what: str
    key: str
    facts: Facts
    build: Callable[[], T]
    facts_of: Callable[[T], Facts]
    _built: T | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lasts(self) -> bool:
        """Whether no digest among the facts is transient."""
        return not any(isinstance(v, str) and is_transient(v) for v in self.facts.values())

    @property
    def built(self) -> T:
        """Return it, the same each time.

        Raises:
            DissectError: it isn't what the facts are about, which are forgotten.
        """
        with self._lock:
            if self._built is None:
                self._built = self._checked(self.build())
            return self._built

    def _checked(self, built: T) -> T:
        if _plain(self.facts_of(built)) != self.facts:
            _file(self.key).unlink(missing_ok=True)
            raise DissectError(
                f"{self.what} isn't the one that {_file(self.key)} is about, though its files and "
                f"the libraries look the same. That record is deleted now: run the job again"
            )
        return built


def remembered(
    kind: str,
    name: str,
    parameters: Mapping[str, Any],
    build: Callable[[], T],
    facts_of: Callable[[T], Facts],
    networks_of: Callable[[T], Iterable[nn.Module]] = lambda _: (),
) -> Remembered[T]:
    """Recall the facts about something built by name; where there are none, build it.

    Facts are recalled for the same parameters, files (see `dependencies.depends_on`), libraries,
    code and place, and never for digests that are transient.
    """
    what = f"{kind} {name}"
    try:
        key = hashing.hash_values("remembered", VERSION, kind, name, dict(parameters), _place())
    except TypeError:  # parameters that aren't plain
        key = ""
    facts = _recall(key) if key else None
    if facts is not None:
        return Remembered(what, key, facts, build, facts_of)
    with dependencies.noted() as files:
        built = build()
        facts = _plain(facts_of(built))
        _note_code(networks_of(built))
    found = Remembered(what, key, facts, build, facts_of, built)
    if key and found.lasts and files.are_unchanged and _is_original():
        _write(key, what, facts, files)
    return found


def _recall(key: str) -> Facts | None:
    if _environment() is None or not _is_original():
        return None
    try:
        record = json.loads(_file(key).read_text(encoding="utf-8"))
        body = record["body"]
        if record["checksum"] != hashing.hash_values(body):
            return None
        facts: Facts = body["facts"]
        is_valid = dependencies.are_unchanged(body["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if is_valid else None


def _write(key: str, what: str, facts: Facts, files: Dependencies) -> None:
    if _environment() is None:
        return
    body = {"what": what, "facts": facts, "files": files.identities}
    try:
        write_text(_file(key), json.dumps({"body": body, "checksum": hashing.hash_values(body)}))
    except OSError as error:
        log.info("the facts about %s can't be remembered: %s", what, error)


def _file(key: str) -> Path:
    return cache_dir() / FOLDER / f"{key}.json"


def _plain(facts: Facts) -> Facts:
    plain: Facts = json.loads(json.dumps(facts))
    return plain


# What else a network depends on


def _place() -> list[Any]:
    """Return what decides, besides parameters and files, what a name stands for."""
    variables = {name: os.environ.get(name) for name in VARIABLES}
    defaults = str(torch.get_default_dtype()), str(torch.get_default_device())
    folders = os.getcwd(), torch.hub.get_dir(), sys.path
    return [_environment(), variables, defaults, folders]


@functools.cache
def _environment() -> str | None:
    """Return a digest of libraries and of this library's code; None if they changed lately."""
    versions = {name: _version(name) for name in DISTRIBUTIONS}
    machine = sys.version, platform.machine(), torch.backends.cpu.get_cpu_capability()
    own = _listing(LIBRARY, recursive=True)
    packages = [
        _listing(Path(folder, below))
        for package, places in SOURCES.items()
        for folder in (_folder(package),)
        for below in places
    ]
    files = [*own, *(file for files in packages for file in files)]
    if any(modified > dependencies.settled_before_ns for _, _, modified in files):
        return None
    return hashing.hash_values(versions, machine, files)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _folder(package: str) -> str:
    spec = find_spec(package)
    return next(iter(spec.submodule_search_locations or ()), "") if spec else ""


def _listing(folder: Path, recursive: bool = False) -> list[tuple[str, int, int]]:
    """Return path, size and modification time of a folder's files."""
    if not folder.is_dir():
        return []
    files = []
    for parent, folders, names in os.walk(folder):
        # Compiled code is written while programs run.
        folders[:] = [name for name in folders if recursive and name != "__pycache__"]
        paths = [os.path.join(parent, name) for name in names]
        stats = map(os.stat, paths)
        files += [(p, s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)]
    return sorted(files)


def _note_code(networks: Iterable[nn.Module]) -> None:
    """Note the files of the networks' classes."""
    for kind in {type(module) for network in networks for module in network.modules()}:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if file is None:
            depends_on_more()
        else:
            depends_on(Path(file))


def _is_original() -> bool:
    """Return whether nothing that makes networks was replaced or added in this process.

    Looks at the functions and methods in the loaded modules of `LIBRARIES`, and at registries.
    """
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        is_looked_at = name.partition(".")[0] in LIBRARIES or name.startswith("torch.nn")
        functions = _functions(vars(module), seen) if is_looked_at else ()
        if not all(map(_is_of_libraries, functions)):
            return False
    factory = sys.modules.get("open_clip.factory")
    folder = _folder("open_clip") if factory else ""
    paths = getattr(factory, "_MODEL_CONFIG_PATHS", ())  # `add_model_config` extends it
    return all(Path(path).is_relative_to(folder) for path in paths) and not any(
        _is_foreign(entry)
        for name, registry in REGISTRIES
        for entry in getattr(sys.modules.get(name), registry, {}).values()
    )


def _functions(namespace: Mapping[str, Any], seen: set[int]) -> Iterator[FunctionType]:
    for value in list(namespace.values()):
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type) and id(value) not in seen:
            seen.add(id(value))
            if value.__module__.partition(".")[0] in (*LIBRARIES, "torch"):
                yield from _functions(vars(value), seen)


def _is_of_libraries(function: FunctionType) -> bool:
    file = function.__code__.co_filename
    if file.startswith("<"):  # generated, as of a dataclass or a namedtuple
        return (function.__module__ or "").partition(".")[0] != "__main__"
    return _is_known(file)


def _is_foreign(function: Any) -> bool:
    return isinstance(function, FunctionType) and not _is_of_libraries(function)


@functools.cache
def _is_known(file: str) -> bool:
    """Return whether a file belongs to Python or to a package in `ORIGINS`."""
    python = file.startswith(sysconfig.get_paths()["stdlib"]) and "-packages" not in file
    return python or file.startswith(_origins())


@functools.cache
def _origins() -> tuple[str, ...]:
    specs = [find_spec(package) for package in ORIGINS]
    origins = [spec.origin for spec in specs if spec and spec.origin]
    return tuple(origin.removesuffix("__init__.py") for origin in origins)
