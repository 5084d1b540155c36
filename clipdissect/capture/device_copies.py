"""Copies of batches to the device that runs the networks, without waiting for it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

cuda: Any = torch.cuda  # has untyped functions

AHEAD = 2  # batches that may wait for a GPU when the next one is put together


class DeviceCopies:
    """Copies to a device; on CUDA they overlap with the computation queued before."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.is_cuda = self.device.type == "cuda"
        self.ahead = AHEAD if self.is_cuda else 0
        self._stream = cuda.Stream(self.device) if self.is_cuda else None
        self._queued: deque[torch.cuda.Event] = deque()

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        """Return a new tensor on the device; the parts must stay as they are until `wait`."""
        if self._stream is None:
            return torch.cat(list(parts)).to(self.device)
        rows = sum(len(part) for part in parts)
        current = cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            shape = (rows, *parts[0].shape[1:])
            whole = torch.empty(shape, dtype=parts[0].dtype, device=self.device)
            for part, target in zip(
                parts, torch.split(whole, [len(p) for p in parts]), strict=True
            ):
                target.copy_(part, non_blocking=True)
        current.wait_stream(self._stream)
        whole.record_stream(current)  # its memory is reused only after what `current` does with it
        return whole

    def wait(self) -> None:
        """Wait until all but the last `ahead` batches that were queued so far are computed."""
        if not self.is_cuda:
            return
        # Not a busy wait: the decoding processes need the cores.
        event = cuda.Event(blocking=True)
        event.record(cuda.current_stream(self.device))
        self._queued.append(event)
        while len(self._queued) > self.ahead:
            self._queued.popleft().synchronize()

    @contextmanager
    def pinned(self, arrays: Iterable[Tensor]) -> Iterator[None]:
        """Hold arrays as pinned memory on CUDA, from which copies don't wait."""
        pinned = [array for array in arrays if self.is_cuda and self._pin(array)]
        try:
            yield
        finally:
            if self.is_cuda:
                cuda.synchronize(self.device)  # copies may still read the arrays
            for array in pinned:
                cuda.cudart().cudaHostUnregister(array.data_ptr())

    def _pin(self, array: Tensor) -> bool:
        # Pinned in place: torch's own pinned memory can't be shared between processes.
        if int(cuda.cudart().cudaHostRegister(array.data_ptr(), array.nbytes, 0)) == 0:
            return True
        log.info("memory for images can't be pinned: copies to the GPU are slower")
        try:
            torch.zeros(1, device=self.device)  # CUDA reports the error once more, and forgets it
        except RuntimeError:
            log.debug("the error of pinning", exc_info=True)
        return False
