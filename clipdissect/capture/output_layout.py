"""The layout of a layer's output: axes of images and units, prefix tokens, patch grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.capture.pooling import Summary
from clipdissect.errors import DissectError

# Part of cache keys: increment it when a rule below changes how some network's output is read.
READING_VERSION = 1

Shape = tuple[int, ...]
Size = tuple[int, int]  # height, width

MAX_PREFIX_TOKENS = 32  # class tokens, registers and prompts before the patches
_POOLED = ("avg", "avgmax", "max", "map")  # values of timm's `global_pool` that skip class tokens


@dataclass(frozen=True)
class Reading:
    """The axes of a layer's output, and how its positions are pooled."""

    layer: str = "layer"
    kind: str = "none"  # `mean`, `max`, `cls` or `count` over positions; `none` for vectors
    ndim: int = 2
    images: int = 0  # axis
    units: int = 1  # axis, once the images' axis is moved to the front
    prefix: int = 0  # tokens before the patches: class tokens, registers
    grid: Size | None = None  # rows and columns of the positions

    @property
    def facts(self) -> dict[str, Any]:
        """The fields without the name, JSON-able, as part of cache keys."""
        facts = asdict(self) | {"grid": list(self.grid) if self.grid else None}
        del facts["layer"]
        return facts

    @classmethod
    def of_facts(cls, layer: str, facts: Mapping[str, Any]) -> Reading:
        """Rebuild a layer's reading from its `facts`."""
        grid = facts["grid"]
        return cls(layer, **{**facts, "grid": tuple(grid) if grid else None})

    def units_of(self, shape: Shape) -> int:
        return _without(shape, self.images)[self.units - 1]

    def describe(self) -> str:
        """Describe the rule, such as `mean over 7 x 7 positions`."""
        if self.kind == "none":
            return "vector"
        size = f"{self.grid[0]} x {self.grid[1]} " if self.grid else ""
        if self.ndim == 4:
            return f"{self.kind} over {size}positions" + ", channels last" * (self.units == 3)
        if self.grid == (1, 1):
            return "one token"
        positions = f"{size}{'patches' if self.grid else 'positions'}"
        prefix = f"{self.prefix} prefix token{'s' * (self.prefix > 1)}"
        if self.kind == "cls":
            return f"class token of {f'{prefix} and ' * (self.prefix > 0)}{positions}"
        return f"{self.kind} over {positions}{f', without {prefix}' * (self.prefix > 0)}"


def summarise(output: Tensor, reading: Reading) -> Float[Tensor, "images units"]:
    """Pool a layer's output to activations `[images, units]`, float32."""
    values, positions = _pooled_positions(output, reading)
    if not positions:
        return _copied(values)
    if reading.kind == "max":
        return values.amax(positions).float()
    return values.mean(positions, dtype=torch.float32)


def as_tokens(output: Tensor, reading: Reading) -> Float[Tensor, "images positions units"]:
    """Return an output, float32, at the positions that are pooled; vectors have one."""
    values, positions = _pooled_positions(output, reading)
    units_last = values.movedim(reading.units, -1) if positions else values
    return units_last.reshape(len(values), -1, units_last.shape[-1]).float()


def _pooled_positions(output: Tensor, reading: Reading) -> tuple[Tensor, list[int]]:
    """Return the output, images first, without prefix tokens, and the axes that are pooled."""
    values = _images_first(output, reading)
    if reading.kind == "none":
        return values, []
    positions = [axis for axis in range(1, values.ndim) if axis != reading.units]
    if reading.kind == "cls":
        return values.select(positions[0], 0), []
    if reading.prefix:
        patches = values.shape[positions[0]] - reading.prefix
        values = values.narrow(positions[0], reading.prefix, patches)
    return values, positions


def as_maps(output: Tensor, reading: Reading) -> Float[Tensor, "images units h w"]:
    """Return an output as float32 maps (vectors: 1 x 1) without prefix tokens."""
    values = _copied(_images_first(output, reading).movedim(reading.units, 1))
    if values.ndim == 2:
        return values[:, :, None, None]
    if reading.grid is None:
        raise DissectError(
            f"layer {reading.layer} returns a tensor of shape {tuple(output.shape)}, which has no "
            f"map: its positions form no grid of the input's proportions"
        )
    if values.ndim == 4:
        return values
    return values[:, :, reading.prefix :].reshape(*values.shape[:2], *reading.grid)


def _images_first(output: Tensor, reading: Reading) -> Tensor:
    if output.ndim != reading.ndim:
        raise DissectError(
            f"layer {reading.layer} returned a tensor of shape {tuple(output.shape)}, but "
            f"{reading.ndim} dimensions in the trial: its output must not depend on the images"
        )
    return output.detach().movedim(reading.images, 0)


def _copied(values: Tensor) -> Tensor:
    # Later modules of the network may overwrite their inputs.
    return values.to(torch.float32, copy=True)


@dataclass(frozen=True)
class Declared:
    """The tokens that the modules around a layer declare; None: not declared."""

    registers: int = 0  # prefix tokens other than class tokens
    class_token: bool | None = None
    pooled: bool = False  # whether the network's output comes from the patches
    prefix: int | None = None  # all prefix tokens


def declared(model: nn.Module, layer: str) -> Declared:
    """Read timm's attributes or a transformers `config` of the innermost enclosing module."""
    names = layer.split(".")
    around = [model.get_submodule(".".join(names[:n])) for n in range(len(names), -1, -1)]
    configs = [config for m in around if (config := getattr(m, "config", None)) is not None]

    def first(kind: type, *names: str) -> Any:
        values = (getattr(part, name, None) for part in [*around, *configs] for name in names)
        return next((value for value in values if type(value) is kind), None)

    token = first(bool, "has_class_token")
    if token is None:
        holders = [module for module in around if hasattr(module, "cls_token")]
        token = holders[0].cls_token is not None if holders else None
    pooled = first(str, "global_pool") in _POOLED or first(bool, "use_mean_pooling") is True
    registers = first(int, "num_reg_tokens", "num_register_tokens") or 0
    return Declared(registers, token, pooled, first(int, "num_prefix_tokens"))


@dataclass(frozen=True)
class Evidence:
    """The shapes that a trial shows."""

    size: Size  # of the network's input
    grids: frozenset[Size]  # of the maps of convolutions and pools
    layouts: Mapping[Shape, frozenset[str]]  # `first`, `last`: units' axes in outputs of a shape
    grown: Mapping[str, Shape]  # by layer, on an input of twice the size


@dataclass(frozen=True)
class Output:
    """A layer's output in a trial; `known_axis` is that of the units (`first`, `last`)."""

    layer: str
    shape: Shape
    images: int = 0
    known_axis: str | None = None

    @property
    def inside(self) -> Shape:
        """The shape without the images' axis."""
        return _without(self.shape, self.images)


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def read(output: Output, summary: Summary, evidence: Evidence, says: Declared) -> Reading:
    """Infer how a layer's output is read from a trial and the network's declarations.

    Raises:
        DissectError: not 2 to 4 dimensions, `cls` without a class token, or ambiguous axes.
    """
    dimensions = len(output.shape)
    if dimensions == 2:
        return Reading(output.layer, images=output.images)
    if dimensions == 3:
        return _read_tokens(output, summary.kind, evidence, says)
    if dimensions == 4:
        return _read_map(output, summary, evidence)
    raise DissectError(
        f"layer {output.layer} returns a tensor of shape {output.shape}; only vectors, tokens and "
        f"maps (2 to 4 dimensions) can be summarised"
    )


def _read_tokens(output: Output, kind: str, evidence: Evidence, says: Declared) -> Reading:
    first = _units_first(output, evidence, says)
    count = output.inside[1 if first else 0]
    split = patches_of(count, evidence, says)
    prefix, grid = split or (0, None)
    # Where the patches aren't known, only the network can declare a class token.
    has_class = prefix > says.registers and says.class_token is not False
    has_class = count == 1 or has_class or (split is None and says.class_token is True)
    if kind == "auto":
        kind = "cls" if has_class and not says.pooled and not first else "mean"
    if kind == "cls" and not has_class:
        tokens = f"{grid[0]} x {grid[1]} patches" if grid else f"{count} tokens"
        raise DissectError(
            f"layer {output.layer} returns {tokens} and no class token: use summary mean or max"
        )
    if count == 1:
        kind = "mean"  # all summaries of one position are the same
    return Reading(output.layer, kind, 3, output.images, 1 if first else 2, prefix, grid)


def _units_first(output: Output, evidence: Evidence, says: Declared) -> bool:
    """Return whether the output is `[units, positions]`, as Conv1d's."""
    if output.known_axis is not None:
        return output.known_axis == "first"
    known = evidence.layouts.get(output.shape, frozenset())
    if len(known) == 1:
        return "first" in known
    fits = [patches_of(n, evidence, says, guess=False) for n in output.inside]
    return fits[0] is None and fits[1] is not None and fits[1][0] == 0


def patches_of(
    count: int, evidence: Evidence, says: Declared, guess: bool = True
) -> tuple[int, Size] | None:
    """Return the number of prefix tokens and the patch grid; None if no grid fits.

    Grids are those of convolutions and their halves, quarters, ... (merged patches); without any,
    `guess` allows a grid of the input's proportions.
    """
    if count == 1:
        return 0, (1, 1)
    limits = dict.fromkeys(_halved(evidence.grids), max(1, says.prefix or 0))
    limits |= dict.fromkeys(evidence.grids, MAX_PREFIX_TOKENS)
    splits = [
        (count - h * w, (h, w))
        for (h, w), limit in limits.items()
        if h * w > 1 and 0 <= count - h * w <= limit
    ]
    if splits:
        return min(splits)
    if not guess or evidence.grids:
        return None
    height, width = evidence.size
    for prefix in (0, says.prefix or 1):
        patches = count - prefix
        rows = isqrt(patches * height // width)
        for h in (rows, rows + 1):
            if h > 1 and patches % h == 0 and is_scaled((h, patches // h), evidence.size):
                return prefix, (h, patches // h)
    return None


def _read_map(output: Output, summary: Summary, evidence: Evidence) -> Reading:
    if summary.kind == "cls":
        raise DissectError(
            f"layer {output.layer} returns maps {output.shape}, which have no class token: use "
            f"summary mean or max for it"
        )
    first = _layout(output, summary.layout, evidence) == "first"
    size: Size = output.inside[1:] if first else output.inside[:2]  # type: ignore[assignment]
    grid = size if is_grid(size, evidence) or output.known_axis == "first" else None
    kind = "max" if summary.kind == "max" else "mean"
    return Reading(output.layer, kind, 4, output.images, 1 if first else 3, 0, grid)


def _layout(output: Output, asked: str, evidence: Evidence) -> str:
    """Return the axis of a map's units: as asked, by type, or from the trial's evidence."""
    if asked != "auto":
        return asked.removeprefix("channels_")
    if output.known_axis is not None:
        return output.known_axis
    sizes = {"first": output.inside[1:], "last": output.inside[:2]}
    fits = [name for name, size in sizes.items() if is_grid(size, evidence)]  # type: ignore[arg-type]
    if len(fits) == 1:
        return fits[0]
    grown = evidence.grown.get(output.layer)
    if grown is not None and len(grown) == 4:
        changed = [a != b for a, b in zip(output.shape, grown, strict=True)]
        del changed[output.images]
        if changed in ([False, True, True], [True, True, False]):
            return "last" if changed[0] else "first"
    known = evidence.layouts.get(output.shape, frozenset())
    if len(known) == 1:
        return next(iter(known))
    raise DissectError(
        f"layer {output.layer} returns maps {output.shape}, and which axis holds the units is "
        f"ambiguous: set the layout (capture.layout, or Summary(layout=...)) to channels_first or "
        f"channels_last"
    )


def is_grid(size: Size, evidence: Evidence) -> bool:
    """Return whether positions of this size may be a map, given the trial's evidence."""
    if not is_scaled(size, evidence.size):
        return False
    # Maps differ by powers of two; attention between tokens is square too, but of other sizes.
    doubled = {(h << n, w << n) for h, w in evidence.grids for n in range(1, 6)}
    grids = evidence.grids | _halved(evidence.grids) | doubled
    return not grids or size == (1, 1) or size in grids


def is_scaled(size: Size, of: Size) -> bool:
    """Return whether a map has the input's proportions, each side rounded by under 1."""
    near = abs(size[0] * of[1] - size[1] * of[0]) < max(of)
    return near and (of[0] == of[1]) <= (size[0] == size[1])


def _halved(grids: Iterable[Size]) -> frozenset[Size]:
    """Return the grids halved up to five times, rounded up and down."""
    up = {(-(-h >> n), -(-w >> n)) for h, w in grids for n in range(1, 6)}
    down = {(h >> n, w >> n) for h, w in grids for n in range(1, 6)}
    return frozenset(size for size in up | down if min(size) > 0)
