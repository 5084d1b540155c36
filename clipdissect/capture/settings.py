"""How the networks are run over the probe."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch

from clipdissect.capture.pooling import Summary
from clipdissect.errors import DissectError
from clipdissect.utils.memory import memory_is_kept
from clipdissect.utils.type_checks import check_fields

PRECISIONS = ("auto", "fp32", "bf16")
KEEPS = ("full", "top_k")
CUDA_BATCH = 256  # halved until it fits


@dataclass(frozen=True)
class Settings:
    """How to run the networks and what to keep.

    Args:
        device: `auto` (CUDA, then the CPU), or a torch device or its name.
        precision: `fp32`, `bf16` (autocast), or `auto`: bf16 on CUDA, fp32 elsewhere.
        batch_size: images a batch; None chooses. Halved where CUDA's memory runs out.
        workers: decoding processes; None chooses.
        summary: how activations are summed up; a text is the kind of a `Summary`.
        keep: `full` activations, or `top_k`: only every unit's top images, which takes
            `O(units x k)` memory and disk at any number of images.
        shard: images a shard of the store, after which an interrupted pass goes on.
        compile: run the target through `torch.compile`.

    Raises:
        DissectError: an unknown value or type, or a device that isn't there.
    """

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    summary: Summary = field(default_factory=Summary)
    keep: str = "full"
    shard: int = 1024
    compile: bool = False

    def __post_init__(self) -> None:
        self._take_plain_forms()
        check_fields(self, "")
        for name, value, valid in (
            ("precision", self.precision, PRECISIONS),
            ("keep", self.keep, KEEPS),
        ):
            if value not in valid:
                raise DissectError(f"{name} is '{value}'; it can be {', '.join(valid)}")
        least = {"batch_size": (self.batch_size, 1), "workers": (self.workers, 0),
                 "shard": (self.shard, 1)}  # fmt: skip
        for name, (number, smallest) in least.items():
            if number is not None and number < smallest:
                raise DissectError(f"{name} must be at least {smallest}; got {number}")
        try:
            torch.empty(0, device=self.torch_device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise DissectError(f"device '{self.device}' can't be used here: {reason}") from error

    def _take_plain_forms(self) -> None:
        given: dict[str, Any] = vars(self)
        if isinstance(given["device"], torch.device):
            object.__setattr__(self, "device", str(self.device))
        if isinstance(given["summary"], str):
            object.__setattr__(self, "summary", Summary(given["summary"]))

    @property
    def torch_device(self) -> str:
        """The device meant by `auto`."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def images_a_batch(self) -> int:
        """The batch size meant by None."""
        if self.batch_size is not None:
            return self.batch_size
        if torch.device(self.torch_device).type != "cpu":
            return CUDA_BATCH
        # Small where the C library asks the system anew for every activation of more than 32 MB:
        # page faults then take more time than the networks. Of the machine's cores, not the
        # process's threads, so that processes that share a job make the same batches.
        each = 8 if memory_is_kept() else 2
        return min(32, max(4, each * (os.cpu_count() or 1)))

    @property
    def mode(self) -> str:
        """`fp32`, `tf32` or `bf16`: what `auto` means on the device."""
        kind = torch.device(self.torch_device).type
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if kind == "cuda" else "fp32"
        if kind == "cuda" and precision == "fp32" and torch.backends.cudnn.allow_tf32:
            precision = "tf32"
        return precision

    @property
    def numeric(self) -> str:
        """Precision, kind of device and compiler, as they stand in the store's keys."""
        kind = torch.device(self.torch_device).type
        return f"{self.mode}-{kind}" + ("-compiled" if self.compile else "")
