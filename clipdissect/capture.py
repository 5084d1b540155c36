"""One pass over the probe: activations of the target's layers and embeddings of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipdissect import digest
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError
from clipdissect.hooks import find_layers, recording
from clipdissect.loader import Skipped, batches, default_workers
from clipdissect.probe import Probe
from clipdissect.store import Entry, Store
from clipdissect.summary import Summary
from clipdissect.target import Target

# Raise one of these when the code that computes the numbers changes their values.
ACTIVATIONS_VERSION = 1
EMBEDS_VERSION = 1

EMBEDS = "image embeddings"  # stands among the layers' names, which have no spaces
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """How to run the networks.

    Args:
        device: `auto` (CUDA, then the CPU), or a torch device.
        precision: `fp32`, `bf16` (autocast), or `auto`: bf16 on CUDA, fp32 elsewhere.
        batch_size: images a batch.
        workers: decoding processes; None chooses.
        summary: how activations are summed up.

    Raises:
        DissectError: an unknown value, or a device that isn't there.
    """

    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 32
    workers: int | None = None
    summary: Summary = field(default_factory=Summary)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise DissectError(
                f"precision is '{self.precision}'; it can be {', '.join(PRECISIONS)}"
            )
        if self.batch_size < 1 or (self.workers is not None and self.workers < 0):
            raise DissectError(
                f"batch_size must be at least 1 and workers at least 0; got "
                f"{self.batch_size} and {self.workers}"
            )
        try:
            torch.empty(0, device=self.torch_device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise DissectError(f"device '{self.device}' can't be used here: {reason}") from error

    @property
    def torch_device(self) -> str:
        """The device meant by `auto`."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def numeric(self) -> str:
        """Precision and kind of device, as they stand in the store's keys."""
        kind = torch.device(self.torch_device).type
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if kind == "cuda" else "fp32"
        if kind == "cuda" and precision == "fp32" and torch.backends.cudnn.allow_tf32:
            precision = "tf32"
        return f"{precision}-{kind}"


@dataclass(frozen=True)
class Captured:
    """What a probe looks like to the target and to the encoder.

    Args:
        images: names of the readable images, in order.
        activations: layer to `q [images, units]`, float32.
        image_embeds: `I [images, dims]`, float32, unit rows.
        skipped: names of unreadable images, with the reason.
        computed: which arrays were computed now (the others came from the store).
        digests: of the target, the encoder and the images.
    """

    images: tuple[str, ...]
    activations: dict[str, Float[Tensor, "images units"]]
    image_embeds: Float[Tensor, "images dims"]
    skipped: dict[str, str]
    computed: tuple[str, ...]
    digests: dict[str, str]


def capture(
    target: Target, layers: Sequence[str], encoder: Encoder, probe: Probe, store: Store | None,
    settings: Settings,
) -> Captured:  # fmt: skip
    """Activations and image embeddings, from the store where it has them.

    Each image is decoded once for both networks, and only networks with something missing run.

    Raises:
        DissectError: unknown layer, unusable output, non-finite activations (names layer, unit and
            image), no readable image.
    """
    check_layers(target.model, layers)
    keys, digests = _keys(target, layers, encoder, probe, settings)
    entries = {name: store.get(key) if store else None for name, key in keys.items()}
    missing = [name for name, entry in entries.items() if entry is None]
    if missing:
        fresh = _run(
            target, [n for n in missing if n != EMBEDS], encoder, EMBEDS in missing, probe, settings
        )
        for name, entry in fresh.items():
            entries[name] = entry
            if store and not any(passing for *_, passing in entry.about["skipped"]):
                store.put(keys[name], entry)
    return _assemble(probe, {n: e for n, e in entries.items() if e}, tuple(missing), digests)


def check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    """Raise a DissectError unless there are layers, each exists, and none is named twice."""
    if not layers:
        children = ", ".join(name for name, _ in model.named_children())
        raise DissectError(
            f"no layers to dissect: set target.layers (layers=[...]), for example to some of "
            f"{children}; `clipdissect layers` lists all"
        )
    if len(set(layers)) < len(layers):
        raise DissectError(f"a layer is listed twice: {', '.join(layers)}")
    find_layers(model, layers)


def forward(model: nn.Module, images: Tensor) -> None:
    """Run the network for what its hooks see.

    Args:
        model: the network.
        images: `[images, channels, h, w]`.

    Raises:
        DissectError: the network raises; most often the preprocessing doesn't fit it.
    """
    try:
        model(images)
    except DissectError:
        raise
    except Exception as error:  # the user's own code
        reason = " ".join(str(error).split())[:300]
        raise DissectError(
            f"the target failed on a batch {tuple(images.shape)} with {type(error).__name__}: "
            f"{reason}. Does the preprocessing give what the network wants (size, channels)?"
        ) from error


def _keys(
    target: Target, layers: Sequence[str], encoder: Encoder, probe: Probe, settings: Settings
) -> tuple[dict[str, str], dict[str, str]]:
    digests = {
        "target": digest.of_model(target.model),
        "target preprocess": digest.of_transform(target.preprocess),
        "encoder images": encoder.image_digest,
        "encoder preprocess": digest.of_transform(encoder.preprocess),
        "images": probe.digest,
    }
    common = (probe.digest, settings.numeric, torch.__version__)
    summary = (settings.summary.kind, settings.summary.layout)
    of_target = (digests["target"], digests["target preprocess"])
    of_encoder = (digests["encoder images"], digests["encoder preprocess"])
    keys = {
        layer: digest.of("activations", ACTIVATIONS_VERSION, of_target, layer, summary, common)
        for layer in layers
    }
    keys[EMBEDS] = digest.of("image embeds", EMBEDS_VERSION, of_encoder, common)
    return keys, digests


# Not inference mode: moving a network to a device in it would spoil its parameters for training.
@torch.no_grad()
def _run(
    target: Target, layers: list[str], encoder: Encoder, embed: bool, probe: Probe,
    settings: Settings,
) -> dict[str, Entry]:  # fmt: skip
    names = [*layers, *([EMBEDS] if embed else [])]
    rows = _Rows(len(probe))
    transforms = [target.preprocess] * bool(layers) + [encoder.preprocess] * embed
    workers = default_workers() if settings.workers is None else settings.workers
    device = settings.torch_device
    # A half or double network wants its own type; of a network without weights any will do.
    floating = (p.dtype for p in target.model.parameters() if p.is_floating_point())
    dtype = next(floating, torch.float32)
    with (
        _ready(target.model, device),
        recording(target.model, layers, settings.summary) as recorder,
    ):
        for batch in batches(probe, transforms, settings.batch_size, workers):
            rows.skipped += batch.skipped
            inputs = [_place(images, device) for images in batch.inputs]
            with _autocast(settings):
                if layers and inputs:
                    recorder.input_size = (inputs[0].shape[-2], inputs[0].shape[-1])
                    forward(target.model, inputs[0].to(dtype))
                    for layer, values in recorder.take(layers).items():
                        _check(layer, values, batch.indices, probe, len(inputs[0]))
                        rows.put(layer, batch.indices, values)
                if embed and inputs:
                    embeds = encoder.embed_images(inputs[-1])
                    _check(EMBEDS, embeds, batch.indices, probe, len(inputs[-1]))
                    rows.put(EMBEDS, batch.indices, embeds)
    if len(rows.skipped) == len(probe):
        raise DissectError(
            f"none of the {len(probe)} images of probe {probe.name} can be read; "
            f"the first: {rows.skipped[0].reason}"
        )
    skipped = [(s.index, s.reason, s.passing) for s in rows.skipped]
    about = {"probe": probe.name, "images": len(probe), "skipped": skipped}
    return {n: Entry({"values": rows.arrays[n]}, {"what": n, **about}) for n in names}


class _Rows:
    """Arrays that are filled image by image; rows of skipped images stay zero."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.arrays: dict[str, Tensor] = {}
        self.skipped: list[Skipped] = []

    def put(self, name: str, indices: Tensor, values: Tensor) -> None:
        if name not in self.arrays:
            self.arrays[name] = torch.zeros(self.images, values.shape[1])
        self.arrays[name][indices] = values.float().cpu()


@contextmanager
def _ready(model: nn.Module, device: str) -> Iterator[None]:
    """The network in evaluation mode on the device; both as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    before = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        model.eval().to(device)
        yield
    finally:
        model.to(before)
        for module, training in modes.items():
            module.training = training


def _place(images: Tensor, device: str) -> Tensor:
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)


def _autocast(settings: Settings) -> Any:
    precision, kind = settings.numeric.split("-")
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")


def _check(layer: str, values: Tensor, indices: Tensor, probe: Probe, images: int) -> None:
    if len(values) != images:
        raise DissectError(
            f"layer {layer} returned {len(values)} rows for {images} images; its "
            f"first dimension must be the images"
        )
    if torch.isfinite(values).all():
        return
    row, unit = (~torch.isfinite(values)).nonzero()[0].tolist()
    image = probe.images[int(indices[row])]
    raise DissectError(
        f"layer {layer}, unit {unit}: the activation on image {image} is "
        f"{values[row, unit].item()}, not a finite number"
    )


def _assemble(
    probe: Probe, entries: dict[str, Entry], computed: tuple[str, ...], digests: dict[str, str]
) -> Captured:
    skipped = {i: why for e in entries.values() for i, why, _ in e.about["skipped"]}
    if skipped and probe.on_error == "raise":
        first = min(skipped)
        raise DissectError(f"can't read {probe.images[first]}: {skipped[first]}")
    keep = torch.tensor([i for i in range(len(probe)) if i not in skipped])
    arrays = {n: e.arrays["values"] for n, e in entries.items()}
    if skipped:
        arrays = {n: a[keep] for n, a in arrays.items()}
    embeds = arrays.pop(EMBEDS)
    return Captured(
        images=tuple(probe.images[i] for i in keep.tolist()),
        activations=arrays,
        image_embeds=embeds,
        computed=computed,
        digests=digests,
        skipped={probe.images[i]: why for i, why in sorted(skipped.items())},
    )
