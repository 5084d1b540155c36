"""The target and the encoder as one function from batches of images to activations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from clipdissect.capture.hooks import Recorder, recording
from clipdissect.capture.latents import SUMMARIES, Reduction
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.settings import Settings
from clipdissect.capture.weights import converted, network_of_images
from clipdissect.encoder import Encoder
from clipdissect.encoder.batches import floating
from clipdissect.errors import DissectError, one_line
from clipdissect.images.transforms import split
from clipdissect.targets import Target
from clipdissect.utils.fingerprint import is_compile_wrapper
from clipdissect.utils.memory import kept_memory

log = logging.getLogger(__name__)

EMBEDS = "image embeddings"  # stands among the layers' names, which have no spaces
Outputs = dict[str, Tensor]


class ModelRunner:
    """The target with its hooks, and the encoder; see `networks`."""

    def __init__(
        self, target: Target, encoder: Encoder | None, recorder: Recorder, settings: Settings
    ) -> None:
        self.target, self.encoder = target, encoder
        self.recorder, self.settings = recorder, settings
        self.model = torch.compile(target.model) if settings.compile else target.model
        self.runs_eagerly = has_compiled_parts(self.model)
        self.embed: Callable[[Tensor], Tensor] | None = None
        if encoder is not None:
            embed = encoder.embed_images
            self.embed = torch.compile(embed) if settings.compile else embed
        # A half or double network needs its own type; one without weights takes any.
        self.dtype = floating(target.model, torch.empty(0, dtype=torch.float32)).dtype
        # Of the target, then of the encoder: pixels must be finished by the split that made them.
        self.transforms = [split(network.preprocess) for network in (target, encoder) if network]
        self.max_images: int | None = None  # that fit the device at once; None: unknown

    def __call__(
        self, names: Collection[str], for_target: Tensor | None, for_encoder: Tensor | None
    ) -> Outputs:
        """Compute arrays `[images, ...]` on the device for layers and perhaps `EMBEDS`.

        Images are 8-bit pixels, or finished inputs.
        """
        layers = [name for name in names if name != EMBEDS]
        outputs: Outputs = {}
        if layers and for_target is not None:
            outputs |= self._run(lambda images: self._activations(images, layers), for_target)
        if EMBEDS in names and for_encoder is not None:
            outputs |= self._run(self._embeds, for_encoder)
        return outputs

    def _run(self, network: Callable[[Tensor], Outputs], images: Tensor) -> Outputs:
        """Run a network; if memory runs out, on half as many images at a time."""
        device = self.settings.torch_device
        while True:
            chunks = torch.split(images, self.max_images or len(images))
            try:
                outputs = [network(_to_device(chunk, device)) for chunk in chunks]
                if len(outputs) == 1:
                    return outputs[0]
                return {name: torch.cat([out[name] for out in outputs]) for name in outputs[0]}
            except torch.OutOfMemoryError:
                if len(chunks[0]) == 1:
                    raise
                self.recorder.forget()
                self.max_images = len(chunks[0]) // 2
            torch.cuda.empty_cache()
            log.info("out of memory: continuing with %d images at a time", self.max_images)

    def _activations(self, images: Tensor, layers: Sequence[str]) -> Outputs:
        inputs = self.transforms[0].finish(images).to(self.dtype)
        with self._autocast():
            run_network(self.model, inputs, self.runs_eagerly)
        batch = self.recorder.take(layers)
        for layer in layers:
            _check_rows(layer, batch[layer], len(images))
        return {layer: batch[layer] for layer in layers}

    def _embeds(self, images: Tensor) -> Outputs:
        assert self.embed is not None  # nobody asks for embeddings without an encoder
        inputs = self.transforms[1].finish(images)
        with self._autocast(), self.recorder.paused():  # target and encoder may be one network
            embeds = self.embed(inputs).float()
        _check_rows(EMBEDS, embeds, len(images))
        return {EMBEDS: embeds}

    def _autocast(self) -> Any:
        kind = torch.device(self.settings.torch_device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.settings.mode == "bf16")


def run_network(model: Any, images: Tensor, eagerly: bool) -> None:
    """Run a network on images `[images, channels, h, w]`, for its hooks.

    Args:
        eagerly: whether to ignore `torch.compile`; see `has_compiled_parts`.
    """
    try:
        with _eager() if eagerly else nullcontext():
            model(images)
    except (DissectError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code
        reason = one_line(error)
        raise DissectError(
            f"the target failed on a batch {tuple(images.shape)} with {type(error).__name__}: "
            f"{reason}. Does the preprocessing give the size and channels that the network expects,"
            f" does its forward take only a batch of images (wrap one that takes a dict or more "
            f"arguments in a module), and is capture.compile off?"
        ) from error


def _eager() -> Any:
    set_stance: Any = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    return set_stance("force_eager") if set_stance else nullcontext()


def has_compiled_parts(model: Any) -> bool:
    """Return whether a network has compiled parts, which would skip hooks.

    One that is compiled as a whole stays compiled, as its cache key says.
    """
    return not is_compile_wrapper(model) and any(
        is_compile_wrapper(module) or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


@contextmanager
def networks(
    target: Target,
    readings: Mapping[str, Reading],
    encoder: Encoder | None,
    settings: Settings,
    reduction: Reduction = SUMMARIES,
) -> Iterator[ModelRunner]:
    """Hold the networks on the device in evaluation mode; afterwards restore the target."""
    saes = {layer: sae for layer, sae in target.saes.items() if layer in readings}
    with (
        on_device(target.model, settings.torch_device),
        converted(target.model, settings),
        _converted(encoder, settings),
        ExitStack() as stack,
        _fresh_compiler(settings),
        recording(target.model, readings, reduction.of_layers(saes)) as recorder,
    ):
        for sae in saes.values():
            stack.enter_context(on_device(sae.module, settings.torch_device))
        yield ModelRunner(target, encoder, recorder, settings)


@contextmanager
def _fresh_compiler(settings: Settings) -> Iterator[None]:
    """Discard compiled code before and after the block where networks are compiled in it.

    Code compiled for one network serves another of its class, whatever hooks they have.
    """
    if not settings.compile:
        yield
        return
    torch.compiler.reset()
    try:
        yield
    finally:
        torch.compiler.reset()


@contextmanager
def _converted(encoder: Encoder | None, settings: Settings) -> Iterator[None]:
    network = network_of_images(encoder, settings) if encoder else None
    if network is None:
        yield
        return
    network.to(settings.torch_device)  # where it stays; otherwise `converted` would restore it
    with converted(network, settings):
        yield


@contextmanager
def on_device(model: nn.Module, device: str) -> Iterator[None]:
    """Hold the network on the device in evaluation mode; afterwards restore both."""
    before = next((p.device for p in model.parameters()), torch.device("cpu"))
    with kept_memory(device), evaluating(model):
        try:
            model.to(device)
            yield
        finally:
            model.to(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold the network in evaluation mode; afterwards restore each module's mode."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()  # not chained: a user's train() may return nothing
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _to_device(images: Tensor, device: str) -> Tensor:
    # Convolutions of torch run faster on channels-last images, on CPUs and GPUs.
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)


def _check_rows(layer: str, values: Tensor, images: int) -> None:
    if len(values) != images:
        raise DissectError(
            f"layer {layer} returned {len(values)} rows for {images} images; its first dimension "
            f"must be the images"
        )
