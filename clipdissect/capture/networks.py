"""Both networks, ready to turn batches of images into activations and embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clipdissect.capture.hooks import Recorder, Reduce, recording
from clipdissect.capture.output_layout import Reading, summarise
from clipdissect.capture.settings import Settings
from clipdissect.encoder import Encoder
from clipdissect.encoder.batches import floating
from clipdissect.errors import DissectError
from clipdissect.targets import Target

log = logging.getLogger(__name__)

EMBEDS = "image embeddings"  # stands among the layers' names, which have no spaces
Outputs = dict[str, Tensor]


class ModelRunner:
    """The target with its hooks, and the encoder; see `networks`.

    Args:
        target, encoder: the networks.
        recorder: what the hooks fill.
        settings: device and precision.
    """

    def __init__(
        self, target: Target, encoder: Encoder | None, recorder: Recorder, settings: Settings
    ) -> None:
        self.encoder, self.recorder, self.settings = encoder, recorder, settings
        self.model = torch.compile(target.model) if settings.compile else target.model
        # A half or double network wants its own type; of one without weights any will do.
        self.dtype = floating(target.model, torch.empty(0, dtype=torch.float32)).dtype
        self.most: int | None = None  # images that fit the device at once, once that is known

    def __call__(
        self, wanted: Collection[str], for_target: Tensor | None, for_encoder: Tensor | None
    ) -> Outputs:
        """The wanted arrays, `[images, ...]`, on the device.

        Args:
            wanted: layers and perhaps `EMBEDS`.
            for_target: preprocessed images, where a layer is wanted.
            for_encoder: preprocessed images, where embeddings are.

        Raises:
            DissectError: a layer's output can't be used.
        """
        layers = [name for name in wanted if name != EMBEDS]
        found: Outputs = {}
        if layers and for_target is not None:
            found |= self._in_pieces(lambda images: self._activations(images, layers), for_target)
        if EMBEDS in wanted and for_encoder is not None:
            found |= self._in_pieces(self._embeds, for_encoder)
        return found

    def _in_pieces(self, run: Callable[[Tensor], Outputs], images: Tensor) -> Outputs:
        """Run on as many images at a time as fit the device, fewer after running out of memory."""
        while True:
            pieces = torch.split(images, self.most or len(images))
            try:
                found = [run(_place(piece, self.settings.torch_device)) for piece in pieces]
                return {name: torch.cat([f[name] for f in found]) for name in found[0]}
            except torch.OutOfMemoryError:
                largest = len(pieces[0])
                if largest == 1:
                    raise
                self.recorder.forget()
                self.most = largest // 2
            torch.cuda.empty_cache()
            log.info("out of memory: going on with %d images at a time", self.most)

    def _activations(self, images: Tensor, layers: Sequence[str]) -> Outputs:
        with self._autocast():
            run_network(self.model, images.to(self.dtype))
        taken = self.recorder.take(layers)
        for layer in layers:
            _check_rows(layer, taken[layer], len(images))
        return {layer: taken[layer] for layer in layers}

    def _embeds(self, images: Tensor) -> Outputs:
        assert self.encoder is not None  # whoever wants embeddings gives one
        with self._autocast():
            embeds = self.encoder.embed_images(images).float()
        _check_rows(EMBEDS, embeds, len(images))
        return {EMBEDS: embeds}

    def _autocast(self) -> Any:
        kind = torch.device(self.settings.torch_device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.settings.mode == "bf16")


def run_network(model: Any, images: Tensor) -> None:
    """Run a network for what its hooks see.

    Args:
        model: the network.
        images: `[images, channels, h, w]`.

    Raises:
        DissectError: the network raises; most often the preprocessing doesn't fit it.
    """
    try:
        with _parts_run_eagerly(model):
            model(images)
    except (DissectError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code
        reason = " ".join(str(error).split())[:300]
        raise DissectError(
            f"the target failed on a batch {tuple(images.shape)} with {type(error).__name__}: "
            f"{reason}. Does the preprocessing give what the network wants (size, channels), does "
            f"its forward take a batch of images alone (wrap one that takes a dict or more in a "
            f"module of yours), and was capture.compile left out?"
        ) from error


@contextmanager
def _parts_run_eagerly(model: Any) -> Iterator[None]:
    """Switch off `torch.compile` of parts of a network: code that was compiled before passes hooks
    by, and the cache key says whether the whole network is compiled (`capture.compile`)."""
    set_stance: Any = getattr(torch.compiler, "set_stance", None)  # torch 2.6
    is_whole = type(model).__name__ == "OptimizedModule"
    if is_whole or set_stance is None or not any(map(_is_compiled, model.modules())):
        yield
        return
    with set_stance("force_eager"):
        yield


def _is_compiled(module: nn.Module) -> bool:
    is_called_so = getattr(module, "_compiled_call_impl", None) is not None
    return is_called_so or type(module).__name__ == "OptimizedModule"


@contextmanager
def networks(
    target: Target, readings: Mapping[str, Reading], encoder: Encoder | None, settings: Settings,
    reduce: Reduce = summarise,
) -> Iterator[ModelRunner]:  # fmt: skip
    """The networks on the device in evaluation mode; the target as before afterwards.

    Args:
        target: its layers get hooks.
        readings: how the outputs of all layers that will be wanted are read.
        encoder: moves itself to the device; None where no embeddings will be wanted.
        settings: device and precision.
        reduce: what to keep of a layer's output.
    """
    with (
        on_device(target.model, settings.torch_device),
        recording(target.model, readings, reduce) as recorder,
    ):
        yield ModelRunner(target, encoder, recorder, settings)


@contextmanager
def on_device(model: nn.Module, device: str) -> Iterator[None]:
    """The network in evaluation mode on the device; both as before afterwards."""
    before = next((p.device for p in model.parameters()), torch.device("cpu"))
    with evaluating(model):
        try:
            model.to(device)
            yield
        finally:
            model.to(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The network in evaluation mode within the block; each module's mode as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()  # not chained: a train() of the user's may return nothing
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _place(images: Tensor, device: str) -> Tensor:
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)


def _check_rows(layer: str, values: Tensor, images: int) -> None:
    if len(values) != images:
        raise DissectError(
            f"layer {layer} returned {len(values)} rows for {images} images; its "
            f"first dimension must be the images"
        )
