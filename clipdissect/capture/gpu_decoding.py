"""Decode and resize batches of images on the device that runs the networks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from clipdissect.capture.decoding import (
    Batch,
    BatchRequest,
    DecodeError,
    Transforms,
    shapes_differ,
)
from clipdissect.capture.device_copies import DeviceCopies
from clipdissect.errors import DissectError
from clipdissect.images.decode import EncodedJpeg, Picture, UnreadableImage, decode_jpegs
from clipdissect.probe import Probe
from clipdissect.utils.timing import Timers

THREADS = 16  # that read files
READ_AHEAD = 2  # batches

_Read = Picture | UnreadableImage


def check_decodes_on(device: str) -> None:
    """Raise a DissectError unless the device has a decoder of JPEGs."""
    if torch.device(device).type != "cuda":
        raise DissectError(
            f"probe.decode=gpu needs a CUDA device, but the networks run on {device}: set "
            f"capture.device=cuda, or probe.decode=fast"
        )


def decode_on_device(
    probe: Probe,
    transforms: Transforms,
    requests: Sequence[BatchRequest],
    copies: DeviceCopies,
    timers: Timers,
) -> Iterator[Batch]:
    """Yield the requested batches; threads of this process read the files."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="read") as pool:
        waiting: deque[list[Future[_Read]]] = deque()
        upcoming = iter(requests)
        for request in requests:
            while len(waiting) <= READ_AHEAD and (later := next(upcoming, None)):
                waiting.append([pool.submit(_read, probe, index) for index in later.images])
            with timers.stage("decode"):
                pictures = [read.result() for read in waiting.popleft()]
                batch = _batch(request, pictures, transforms, copies.device)
            yield batch
            with timers.stage("forward"):
                copies.wait()


def _read(probe: Probe, index: int) -> _Read:
    try:
        return probe.read(index)
    except UnreadableImage as error:
        return error


def decoded(pictures: Sequence[_Read], device: torch.device) -> list[_Read]:
    """Decode the JPEGs among pictures to tensors on the device, and move other tensors there."""
    jpegs = [picture for picture in pictures if isinstance(picture, EncodedJpeg)]
    of_jpegs = iter(decode_jpegs(jpegs, device))
    return [
        next(of_jpegs)
        if isinstance(picture, EncodedJpeg)
        else picture.to(device)
        if isinstance(picture, Tensor)
        else picture
        for picture in pictures
    ]


def _batch(
    request: BatchRequest, pictures: Sequence[_Read], transforms: Transforms, device: torch.device
) -> Batch:
    images, skipped, pixels = [], [], []
    for index, picture in zip(request.images, decoded(pictures, device), strict=True):
        if isinstance(picture, UnreadableImage):
            skipped.append(DecodeError(index, picture.reason, picture.transient))
            continue
        images.append(index)
        pixels.append(transforms.pixels(picture, request.transforms))
    stacked = {
        number: _stack([of_image[number].to(device) for of_image in pixels])
        for number in (pixels[0] if pixels else ())
    }
    inputs = transforms.inputs(stacked, request.transforms)
    return Batch(torch.tensor(images, dtype=torch.int64), inputs, skipped)


def _stack(images: Sequence[Tensor]) -> Tensor:
    if len({image.shape for image in images}) > 1:
        raise shapes_differ(images)
    return torch.stack(list(images))
