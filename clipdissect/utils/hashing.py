"""Digests of what results depend on: tensors, code, transforms, files and lists.

The store's keys are made of these, so that changed weights, images or settings always miss.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
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
_PASSING = "passing-"  # starts digests that never come again

Transform = Callable[[Image.Image], Tensor]

# Sizes that exercise resizing up and down, both orientations and cropping.
_PROBE_SIZES = ((96, 64), (300, 451), (260, 260), (640, 333), (1500, 2100))

CHUNK = 1 << 20


def hash_values(*parts: Any) -> str:
    """Hexadecimal digest of JSON-able values, in order; see also `is_transient`."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    mark = _PASSING if _PASSING in text else ""
    return mark + hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def hash_model(model: nn.Module) -> str:
    """Digest of a network: its tensors' bytes, its module tree, attributes, hooks and code.

    Names given to a model outside of it (in a config, on disk) don't count, nor does the training
    mode. The code of the modules' classes does, with the functions and constants that it names and
    the user's own source files behind it, so that an edit isn't served old numbers.

    Where something in the network can't be looked into, the digest never comes again (see
    `is_transient`), and a warning says what it is.
    """
    hasher = hashlib.blake2b(digest_size=20)
    look = fingerprint.Fingerprint(model)
    for name, module in model.named_modules(remove_duplicate=False):
        hasher.update(hash_values(name, look.of_module(module)).encode())
    tensors = dict(_tensors(model))
    for name, tensor in tensors.items():
        hasher.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        hasher.update(fingerprint.bytes_of(tensor))
    # Packed weights of quantised layers, and what modules add with get_extra_state.
    extra = {k: v for k, v in model.state_dict().items() if k not in tensors}
    hasher.update(hash_values(look.of_value(extra), look.sources()).encode())
    if look.opaque:
        _warn_of_opaque(type(model).__name__, tuple(dict.fromkeys(look.opaque)))
        return f"{_PASSING}{uuid4().hex}"
    return hasher.hexdigest()


def is_transient(digest: str) -> bool:
    """Whether a digest, or one that was made from it, never comes again.

    What is kept under it is of use to this run alone.
    """
    return digest.startswith(_PASSING)


def transient_notes(digests: Mapping[str, str]) -> tuple[str, ...]:
    """Notes on the networks whose features couldn't be kept; see `is_transient`.

    Args:
        digests: name to digest.
    """
    return tuple(
        f"the features of {name} are of this run alone and not in the store: the network holds "
        f"what can't be looked into (the log names it)"
        for name, found in digests.items()
        if is_transient(found)
    )


@functools.cache  # once for each
def _warn_of_opaque(model: str, kinds: tuple[str, ...]) -> None:
    log.warning(
        "the network %s holds what can't be looked into (%s): its features aren't kept, since "
        "nothing could tell whether they are still right",
        model, ", ".join(kinds),
    )  # fmt: skip


def hash_transform(transform: Transform) -> str:
    """Digest of what an image transform does, taken from its output on five made-up images.

    A transform has no dependable name: a lambda prints as an address and two `Compose` objects
    may print alike. Its output on images of several sizes, up to 1500 x 2100, changes with every
    resize, crop, interpolation and normalisation.

    Raises:
        DissectError: the transform is random, or doesn't return a tensor `[channels, h, w]`.
    """
    hasher = hashlib.blake2b(digest_size=20)
    if not callable(transform):
        raise DissectError(f"preprocess must be a function of a PIL image; got {transform!r}")
    for size in _PROBE_SIZES:
        first, second = transform(_pattern(*size)), transform(_pattern(*size))
        if not isinstance(first, Tensor) or first.ndim != 3:
            what = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise DissectError(
                f"preprocess must turn a PIL image into a tensor [channels, height, width]; "
                f"it returned {what}. End it with torchvision.transforms.ToTensor()"
            )
        if not torch.equal(first, second) or (size == _PROBE_SIZES[0] and _draws(transform)):
            raise DissectError(
                "preprocess gives another result each time for the same image (a random crop or "
                "flip?). Use the network's evaluation transform"
            )
        hasher.update(repr((str(first.dtype), tuple(first.shape))).encode())
        hasher.update(fingerprint.bytes_of(first))
    return hasher.hexdigest()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices whether this thread draws random numbers from torch."""

    seen: bool = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _draws(transform: Transform) -> bool:
    """Whether a transform draws random numbers: a flip may come out the same twice, but it can't
    help drawing.

    Other threads may draw, too: torch's draws are told apart by thread, the others by their coming
    at every try, on a picture that takes no time.
    """
    for _ in range(TRIES):
        before = _random_states()
        torch_draws = _Draws()  # type: ignore[no-untyped-call]
        with torch_draws:
            transform(_pattern(*_PROBE_SIZES[0]))
        if torch_draws.seen or _random_states() == before:
            return torch_draws.seen
    return True


def _random_states() -> tuple[Any, str]:
    of_numpy = repr(np.random.get_state())  # noqa: NPY002 - the one that transforms draw from
    return random.getstate(), of_numpy


def _pattern(width: int, height: int) -> Image.Image:
    """A made-up image, the caller's to change."""
    return Image.fromarray(_pixels(width, height).copy(), "RGB")


@functools.cache  # they take longer to make than most transforms take
def _pixels(width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    x, y = np.arange(width, dtype=np.uint32), np.arange(height, dtype=np.uint32)[:, None]
    waves = [x * 3 + y, x * y // 7, (x // 5 + y // 3) * 17]
    return np.stack([(wave % 256).astype(np.uint8) for wave in waves], axis=-1)


def sums(path: Path) -> dict[str, str]:
    """SHA-256 and MD5 of a file, hexadecimal."""
    hashers = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            for hasher in hashers.values():
                hasher.update(chunk)
    return {kind: hasher.hexdigest() for kind, hasher in hashers.items()}


def matches(found: Mapping[str, str], digest: str) -> bool:
    """Whether a file's `sums` agree with a digest (`sha256:...`, `md5:...`, or the beginning)."""
    kind, _, value = digest.partition(":")
    return found[kind].startswith(value)
