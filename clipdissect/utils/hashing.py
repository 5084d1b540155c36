"""Digests of tensors, code, transforms, files and lists, for cache keys."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipdissect.errors import DissectError
from clipdissect.utils import fingerprint

log = logging.getLogger(__name__)

TRIES = 20  # of a transform, while another thread draws random numbers
# Starts digests that never occur again; no text that is hashed holds it by chance.
_TRANSIENT = "clipdissect-transient-"

Transform = Callable[[Image.Image], Tensor]

# Sizes that exercise resizing up and down, both orientations and cropping.
_PROBE_SIZES = ((96, 64), (300, 451), (260, 260), (640, 333), (1500, 2100))


def hash_values(*parts: Any) -> str:
    """Return a hex digest of JSON-able values; transient if one of them is."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    mark = _TRANSIENT if _TRANSIENT in text else ""
    return mark + hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def hash_file(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def hash_model(model: nn.Module) -> str:
    """Return a digest of a network: tensors, module tree, attributes, hooks and code.

    An edit of the classes' code, of the functions and constants that it names, or of the user's
    source files invalidates the cache; names given in configs and the training mode don't count.
    With attributes that can't be hashed the digest is transient, and a warning names their types.
    """
    hasher = hashlib.blake2b(digest_size=20)
    visitor = fingerprint.Fingerprint(model)
    for name, module in model.named_modules(remove_duplicate=False):
        hasher.update(hash_values(name, visitor.of_module(module)).encode())
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name, tensor in tensors.items():
        elements = fingerprint.hash_elements(tensor)
        hasher.update(repr((name, str(tensor.dtype), tuple(tensor.shape), elements)).encode())
    # Packed weights of quantised layers, and additions by get_extra_state.
    extra = {k: v for k, v in model.state_dict().items() if k not in tensors}
    hasher.update(hash_values(visitor.of_value(extra), visitor.sources()).encode())
    if visitor.opaque:
        _warn_of_opaque(type(model).__name__, tuple(dict.fromkeys(visitor.opaque)))
        return transient_key()
    return hasher.hexdigest()


def transient_key() -> str:
    return f"{_TRANSIENT}{uuid4().hex}"


def is_transient(digest: str) -> bool:
    """Return whether a digest, or a part of it, is unique to this run, as are its arrays."""
    return digest.startswith(_TRANSIENT)


def transient_notes(digests: Mapping[str, str]) -> tuple[str, ...]:
    """Return notes on the networks, by name, whose features couldn't be cached."""
    return tuple(
        f"the features of {name} are valid for this run only and not cached: the network has "
        f"attributes that can't be hashed (the log names them)"
        for name, digest in digests.items()
        if is_transient(digest)
    )


@functools.cache  # warns once
def _warn_of_opaque(model: str, kinds: tuple[str, ...]) -> None:
    log.warning(
        "the network %s has attributes that can't be hashed (%s): its features aren't cached, "
        "since a change of these couldn't be detected",
        model,
        ", ".join(kinds),
    )


def hash_transform(transform: Transform) -> str:
    """Return a digest of an image transform's output on five synthetic images.

    Names aren't dependable: lambdas print as addresses, and different `Compose` objects alike.

    Raises:
        DissectError: the transform is random, or doesn't return a tensor `[channels, h, w]`.
    """
    if not callable(transform):
        raise DissectError(f"preprocess must be a function of a PIL image; got {transform!r}")
    with _one_thread():
        return _hash_outputs(transform)


@contextmanager
def _one_thread() -> Iterator[None]:
    # Steps on so few pixels take a millisecond in one thread; several threads wait for each other,
    # 50 ms and more on busy cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hash_outputs(transform: Transform) -> str:
    hasher = hashlib.blake2b(digest_size=20)
    for size in _PROBE_SIZES:
        first, second = transform(_pattern(*size)), transform(_pattern(*size))
        if not isinstance(first, Tensor) or first.ndim != 3:
            got = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise DissectError(
                f"preprocess must turn a PIL image into a tensor [channels, height, width]; "
                f"it returned {got}. End it with torchvision.transforms.ToTensor()"
            )
        if not torch.equal(first, second) or (size == _PROBE_SIZES[0] and _is_random(transform)):
            raise DissectError(
                "preprocess gives different results for the same image (a random crop or "
                "flip?). Use the network's evaluation transform"
            )
        elements = fingerprint.hash_elements(first)
        hasher.update(repr((str(first.dtype), tuple(first.shape), elements)).encode())
    return hasher.hexdigest()


class _RandomnessDetector(TorchDispatchMode):  # type: ignore[no-untyped-call]
    drawn: bool = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.drawn = self.drawn or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _is_random(transform: Transform) -> bool:
    """Return whether a transform draws random numbers, even if its output repeats."""
    # A flip may repeat by chance, but it always draws. Other threads may draw too:
    # torch's draws are attributed by thread, others only if they occur at every try.
    for _ in range(TRIES):
        before = _random_states()
        detector = _RandomnessDetector()  # type: ignore[no-untyped-call]
        with detector:
            transform(_pattern(*_PROBE_SIZES[0]))
        if detector.drawn or _random_states() == before:
            return detector.drawn
    return True


def _random_states() -> tuple[Any, str]:
    of_numpy = repr(np.random.get_state())  # noqa: NPY002 - the one that transforms draw from
    return random.getstate(), of_numpy


def _pattern(width: int, height: int) -> Image.Image:
    """Return a synthetic image that the caller may change."""
    return Image.fromarray(_pixels(width, height).copy(), "RGB")


@functools.cache  # computing them takes longer than most transforms
def _pixels(width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    x, y = np.arange(width, dtype=np.uint32), np.arange(height, dtype=np.uint32)[:, None]
    waves = [x * 3 + y, x * y // 7, (x // 5 + y // 3) * 17]
    return np.stack([(wave % 256).astype(np.uint8) for wave in waves], axis=-1)
