"""Digests of what results depend on: tensors, code, transforms, files and lists.

The store's keys are made of these, so that changed weights, images or settings always miss.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clipdissect.errors import DissectError

Transform = Callable[[Image.Image], Tensor]

# Sizes that exercise resizing up and down, both orientations and cropping.
_PROBE_SIZES = ((96, 64), (300, 451), (260, 260), (640, 333))


def of(*parts: Any) -> str:
    """Hexadecimal digest of JSON-able values, in order."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def of_model(model: nn.Module) -> str:
    """Digest of a network: its tensors' bytes, its module tree, plain attributes and code.

    Names given to a model outside of it (in a config, on disk) don't count. The bytecode of the
    modules' classes does, so that an edited `forward` isn't served old numbers; functions that it
    calls don't.
    """
    hasher = hashlib.blake2b(digest_size=20)
    for name, module in model.named_modules():
        kind: Any = type(module)
        hasher.update(repr((name, _code(kind), sorted(_attributes(module)))).encode())
    for name, tensor in _tensors(model):
        hasher.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        hasher.update(_bytes(tensor))
    return hasher.hexdigest()


def of_transform(transform: Transform) -> str:
    """Digest of what an image transform does, taken from its output on four made-up images.

    A transform has no dependable name: a lambda prints as an address and two `Compose` objects
    may print alike. Its output on images of several sizes changes with every resize, crop,
    interpolation and normalisation.

    Raises:
        DissectError: the transform is random, or doesn't return a tensor `[channels, h, w]`.
    """
    hasher = hashlib.blake2b(digest_size=20)
    for size in _PROBE_SIZES:
        image = _pattern(*size)
        first, second = transform(image), transform(image)
        if not isinstance(first, Tensor) or first.ndim != 3:
            what = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise DissectError(
                f"preprocess must turn a PIL image into a tensor [channels, height, width]; "
                f"it returned {what}. End it with torchvision.transforms.ToTensor()"
            )
        if not torch.equal(first, second):
            raise DissectError(
                "preprocess gives another result each time for the same image (a random crop or "
                "flip?). Use the network's evaluation transform"
            )
        hasher.update(repr((str(first.dtype), tuple(first.shape))).encode())
        hasher.update(_bytes(first))
    return hasher.hexdigest()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _attributes(module: nn.Module) -> Iterator[tuple[str, str]]:
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training":
            continue
        if inspect.isroutine(value):
            yield name, f"{value.__module__}.{value.__qualname__}"
        elif _is_plain(value):
            yield name, repr(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


@functools.cache
def _code(kind: Any) -> str:
    """Digest of a module class's own and inherited methods, up to `nn.Module`.

    Bytecode, since source can't be found for classes made in a notebook.
    """
    found = []
    for ancestor in kind.__mro__:
        if ancestor is nn.Module:
            break
        for name, value in sorted(vars(ancestor).items()):
            function = getattr(value, "fget", getattr(value, "__func__", value))
            code = getattr(
                inspect.unwrap(function) if callable(function) else None, "__code__", None
            )
            if code is not None:
                found.append((name, _instructions(code)))
    return of(kind.__module__, kind.__qualname__, found)


def _instructions(code: CodeType) -> list[Any]:
    constants = [
        _instructions(c) if isinstance(c, CodeType)
        else sorted(map(repr, c)) if isinstance(c, frozenset)  # whose own order isn't fixed
        else repr(c)
        for c in code.co_consts
    ]  # fmt: skip
    return [code.co_code.hex(), constants, code.co_names]


def _pattern(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [x * 3 + y, x * y // 7, (x // 5 + y // 3) * 17]
    return Image.fromarray(np.stack([w % 256 for w in waves], axis=-1).astype(np.uint8), "RGB")
