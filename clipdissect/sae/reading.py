"""Find the files of a sparse autoencoder, and read configs and tensors with checks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError, MissingResource
from clipdissect.models import checkpoints
from clipdissect.sae.base import Sae
from clipdissect.sae.modules import Gated, LinearEncoder, LinearSae
from clipdissect.utils.dependencies import depends_on

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of weights
MAX_DEPTH = 3  # of folders in a folder, to name those with files


@dataclass(frozen=True)
class Files:
    """The folder of a sparse autoencoder.

    Args:
        named: the weights file in it, if the path was one.
    """

    folder: Path
    named: Path | None = None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def weights(self, name: str, looks: str) -> Path:
        """Return the weights file; raise MissingResource, or a DissectError if there are several.

        Args:
            looks: the files of this format, in words.
        """
        if self.named is not None:
            return self.named
        if (self.folder / name).is_file():
            return self.folder / name
        self.refuse_several(name)
        raise MissingResource(name, [str(self.folder.absolute())], f"set sae.path: {looks}")

    def only_weights(self, looks: str) -> Path:
        """Return the only weights file, whatever its name; raise as `weights` does."""
        found = self.candidates()
        if len(found) > 1:
            raise DissectError(
                f"{self.folder} has several weights files: set sae.path to one of "
                f"{', '.join(path.name for path in found)}"
            )
        if found:
            return found[0]
        what = f"a weights file ({', '.join(SUFFIXES)})"
        raise MissingResource(what, [str(self.folder.absolute())], f"set sae.path: {looks}")

    def candidates(self) -> list[Path]:
        """Return the files that may be weights."""
        if self.named is not None:
            return [self.named]
        return sorted(p for p in self.folder.iterdir() if p.suffix in SUFFIXES and p.is_file())

    def refuse_several(self, *names: str) -> None:
        """Raise a DissectError if folders inside have files of one of these names."""
        patterns = ["*/" * depth + name for name in names for depth in range(1, MAX_DEPTH + 1)]
        paths = [path for pattern in patterns for path in self.folder.glob(pattern)]
        inside = sorted({str(path.parent.relative_to(self.folder)) for path in paths})
        if inside:
            shown = ", ".join(inside[:10]) + (", ..." if len(inside) > 10 else "")
            raise DissectError(
                f"{self.folder} itself is no sparse autoencoder, but these folders in it are: "
                f"{shown}. Set sae.path to one of them"
            )

    def has(self, name: str) -> bool:
        """Return whether the folder has a file, which isn't another than the named one."""
        if self.named is not None and Path(name).suffix in SUFFIXES:
            return self.named.name == name
        return (self.folder / name).is_file()

    def config(self, name: str) -> Config:
        """Return a JSON file; raise MissingResource or a DissectError."""
        path = self.folder / name
        depends_on(path)
        if not path.is_file():
            raise MissingResource(
                name, [str(path.absolute())], "copy it into the folder of the weights"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DissectError(f"{path} is not valid JSON: {error}") from error
        return Config(values, str(path))


def locate(path: str) -> Files:
    """Return the folder of a path to it or to a file in it; raise MissingResource."""
    given = Path(path).expanduser()
    if given.is_dir():
        return Files(given)
    if given.is_file():
        return Files(given.parent, None if given.suffix == ".json" else given)
    looked = [str(given.absolute())]
    raise MissingResource("the sparse autoencoder", looked, "set sae.path to its folder or file")


class Config:
    """The values of a JSON object with checks of their types.

    Args:
        source: the file, for errors.

    Raises:
        DissectError: not an object; from the methods, a value of a wrong type.
    """

    def __init__(self, values: Any, source: str) -> None:
        if not isinstance(values, dict):
            raise DissectError(f"{source} must be a JSON object; it is a {type(values).__name__}")
        self.values, self.source = values, source

    def part(self, key: str) -> Config:
        """Return the object under a key; empty if it is absent."""
        return Config(self.values.get(key) or {}, f"{key} of {self.source}")

    def whole(self, key: str) -> int | None:
        value: int | None = self._typed(key, int, "a whole number")
        return value

    def text(self, key: str) -> str | None:
        value: str | None = self._typed(key, str, "text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value: bool | None = self._typed(key, bool, "true or false")
        return default if value is None else value

    def _typed(self, key: str, kind: type, words: str) -> Any:
        value = self.values.get(key)
        is_wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        if value is not None and is_wrong:
            raise DissectError(f"{self.source}: {key} must be {words}; it is {value!r:.100}")
        return value


class Tensors:
    """A state dict whose tensors are taken by name, with sizes that must agree.

    Args:
        kind: what the tensors are of, for errors.
    """

    def __init__(self, tensors: dict[str, Tensor], file: Path, kind: str) -> None:
        self.tensors, self.file, self.kind = tensors, file, kind
        self.sizes: dict[str, tuple[int, str]] = {}  # name of a size to the value and its source
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, *sizes: str) -> Float[Tensor, "..."]:
        """Return a tensor in float32 with one named size per dimension.

        Raises:
            DissectError: it is missing, has another number of dimensions or other sizes than
                those taken before, isn't of real numbers, or has values that aren't finite.
        """
        tensor = self._get(name)
        if tensor.ndim != len(sizes):
            expected = f"[{', '.join(sizes)}]" if sizes else "a single number"
            raise DissectError(
                f"{self.file}: {name} has shape {list(tensor.shape)}; it must be {expected}"
            )
        for size, length in zip(sizes, tensor.shape, strict=True):
            self.agree(size, length, f"{name} {list(tensor.shape)}")
        if not tensor.is_floating_point():
            raise DissectError(f"{self.file}: {name} is of {tensor.dtype}, not of real numbers")
        tensor = tensor.detach().to(torch.float32)
        if not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise DissectError(f"{self.file}: {count} values of {name} are NaN or infinite")
        return tensor.contiguous()

    def whole(self, name: str) -> int:
        """Return a tensor of one whole number."""
        tensor = self._get(name)
        if tensor.numel() != 1 or tensor.is_floating_point():
            raise DissectError(f"{self.file}: {name} must be a whole number; it is {tensor}")
        return int(tensor)

    def agree(self, size: str, value: int | None, source: str) -> None:
        """Note the value of a size; raise a DissectError if it is another than noted before."""
        if value is None:
            return
        known, where = self.sizes.setdefault(size, (value, source))
        if known != value:
            raise DissectError(
                f"{self.file}: {known} {size} by {where}, but {value} by {source}: the files "
                f"don't belong together"
            )

    def decoder(
        self, outputs: str = "inputs"
    ) -> tuple[Float[Tensor, "latents outputs"], Float[Tensor, " outputs"]]:
        """Return `W_dec` and `b_dec`; of transcoders, their size isn't that of the inputs."""
        return self.take("W_dec", "latents", outputs), self.take("b_dec", outputs)

    def finish(self, *unused: str) -> None:
        """Raise a DissectError if there are tensors that weren't taken, but for some."""
        rest = sorted(set(self.tensors) - self._taken - set(unused))
        if rest:
            raise DissectError(
                f"{self.file} has tensors that a {self.kind} doesn't use: {_shown(rest)}"
            )

    def _get(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise DissectError(
                f"{self.file} has no tensor {name}, which a {self.kind} needs; it has "
                f"{_shown(sorted(self.tensors)) or 'none'}"
            )
        self._taken.add(name)
        return self.tensors[name]


def _shown(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def read_tensors(file: Path, kind: str) -> Tensors:
    """Read a weights file without running code; raise as `checkpoints.read` does."""
    return Tensors(checkpoints.read(file), file, kind)


def gated(tensors: Tensors, gate: str = "b_gate", magnitude: str = "b_mag") -> Gated:
    """Return the gated activation of the tensors with these names."""
    gate_bias, magnitude_bias = (tensors.take(name, "latents") for name in (gate, magnitude))
    return Gated(gate_bias, tensors.take("r_mag", "latents").exp(), magnitude_bias)


def check_k(k: int | None, tensors: Tensors, source: str) -> int:
    """Return k; raise a DissectError unless it is 1 to the number of latents."""
    latents = tensors.sizes["latents"][0]
    if k is None:
        raise DissectError(f"{source} has no k, which a {tensors.kind} needs")
    if not 1 <= k <= latents:
        raise DissectError(f"k is {k} by {source}; it must be 1 to the {latents} latents")
    return k


def as_sae(
    files: Files,
    file_format: str,
    module: LinearEncoder,
    layer: str | None,
    *,
    hook: str | None = None,
    summary: str = "max",
    facts: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Sae:
    """Return the `Sae` of a module; facts that are None are left out."""
    inputs, latents = module.weight.shape
    return Sae(
        files.name,
        module.eval(),
        layer,
        file_format,
        hook,
        inputs,
        latents,
        module.decoder if isinstance(module, LinearSae) else None,
        summary,
        {key: value for key, value in (facts or {}).items() if value is not None},
        tuple(notes),
    )
