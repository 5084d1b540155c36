"""Settings for running the networks over the probe."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch

from clipdissect.capture.pooling import Summary
from clipdissect.errors import DissectError
from clipdissect.utils.memory import can_keep_memory
from clipdissect.utils.type_checks import check_choice, check_fields, checked_fields

BF16_WEIGHTS = "bf16_weights"
PRECISIONS = ("auto", "fp32", "bf16", BF16_WEIGHTS)
KEEPS = ("auto", "full", "top_k")
CUDA_BATCH = 256  # halved until it fits
SHARD, CUDA_SHARD = 1024, 4096  # seconds of work; three wait on the device at most


@checked_fields
@dataclass(frozen=True)
class Settings:
    """How to run the networks, and which activations to store.

    Args:
        device: `auto` (CUDA, then the CPU), or a torch device or its name.
        precision: `fp32`, `bf16` (autocast), `bf16_weights` (weights and activations in bfloat16,
            faster on CUDA), or `auto`: bf16 on CUDA, fp32 elsewhere.
        batch_size: halved if CUDA runs out of memory; None chooses.
        workers: decoding processes; None chooses.
        summary: a `Summary` or its kind.
        keep: `full` activations, or `top_k`: top images per unit, `O(units x k)` memory and disk;
            `auto`: `top_k` of a sparse autoencoder's latents, `full` of other layers.
        shard: images per shard of the store; an interrupted capture resumes after the last one.
            None: 1024, on CUDA 4096.
        compile: run both networks through `torch.compile`.
    """

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    summary: Summary = field(default_factory=Summary)
    keep: str = "auto"
    shard: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        self._convert()
        check_fields(self, "")
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("keep", self.keep, KEEPS)
        for name, least in (("batch_size", 1), ("workers", 0), ("shard", 1)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise DissectError(f"{name} must be at least {least}; got {number}")
        try:
            torch.empty(0, device=self.torch_device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise DissectError(f"device '{self.device}' can't be used here: {reason}") from error

    def _convert(self) -> None:
        values: dict[str, Any] = vars(self)
        if isinstance(values["device"], torch.device):
            object.__setattr__(self, "device", str(self.device))
        if isinstance(values["summary"], str):
            object.__setattr__(self, "summary", Summary(values["summary"]))

    @property
    def torch_device(self) -> str:
        """The device, with `auto` resolved."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def scoring_device(self) -> str:
        """The device that scores: the networks' where it is CUDA, else the CPU."""
        # Scores need float64, which other devices lack.
        return self.torch_device if self._device_kind == "cuda" else "cpu"

    @property
    def _device_kind(self) -> str:
        return torch.device(self.torch_device).type

    @property
    def is_cuda(self) -> bool:
        return self._device_kind == "cuda"

    @property
    def images_a_batch(self) -> int:
        """The batch size, with None resolved."""
        if self.batch_size is not None:
            return self.batch_size
        if self._device_kind != "cpu":
            return CUDA_BATCH
        return batch_on_cpu(can_keep_memory())

    @property
    def images_a_shard(self) -> int:
        """The shard's size, with None resolved."""
        if self.shard is not None:
            return self.shard
        return CUDA_SHARD if self._device_kind == "cuda" else SHARD

    def keeps_top_k(self, has_latents: bool) -> bool:
        """Return whether to store a layer's top images only."""
        return has_latents if self.keep == "auto" else self.keep == "top_k"

    @property
    def mode(self) -> str:
        """The precision with `auto` resolved: `fp32`, `tf32`, `bf16` or `bf16_weights`."""
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if self.is_cuda else "fp32"
        if self.is_cuda and precision == "fp32" and torch.backends.cudnn.allow_tf32:
            precision = "tf32"
        return precision

    @property
    def text_precision(self) -> str:
        """The precision of text embeddings: `bf16` (autocast) on CUDA unless `fp32` is set."""
        is_half = self.is_cuda and self.mode.startswith("bf16")
        return "bf16" if is_half else "fp32"

    @property
    def numeric(self) -> str:
        """Precision, kind of device and compiler, as part of cache keys."""
        return f"{self.mode}-{self._device_kind}" + ("-compiled" if self.compile else "")


def batch_on_cpu(memory_is_kept: bool) -> int:
    """Return the default batch size on a CPU."""
    # Small where the C library requests every activation above 32 MB from the system anew: page
    # faults then take more time than the networks. Of the machine's cores, not the process's
    # threads, so that processes that share a job make the same batches.
    per_core = 8 if memory_is_kept else 2
    return min(32, max(4, per_core * (os.cpu_count() or 1)))
