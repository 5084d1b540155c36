"""Memory that decoding processes share: nothing is overwritten, lost or left behind."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import models, transforms

from clipdissect import probe
from clipdissect.capture import decoding
from clipdissect.capture.dataloader import batches
from clipdissect.capture.decoding import (
    Batch,
    BatchRequest,
    Transforms,
    batch_requests,
    decode_in_slots,
)
from clipdissect.capture.device_copies import DeviceCopies
from clipdissect.capture.gpu_decoding import decode_on_device
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.images.decode import UnreadableImage
from clipdissect.images.transforms import split
from clipdissect.probe import Probe
from clipdissect.utils.timing import Timers

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems start processes anew")

TO_TENSOR = transforms.ToTensor()
DOUBLED = transforms.Compose([transforms.Resize((8, 8), 0), transforms.ToTensor()])


@dataclass(frozen=True)
class Numbered:
    """Images of one colour that spells their number; every seventh is unreadable."""

    slow_ms: float = 0.0

    def __call__(self, index: int) -> Image.Image:
        if self.slow_ms:
            time.sleep(random.random() * self.slow_ms / 1000)
        if index % 7 == 3:
            raise UnreadableImage("torn")
        return Image.new("RGB", (4, 4), (index % 256, index // 256, 7))


def numbered(count: int, slow_ms: float = 0.0) -> Probe:
    names = tuple(f"{n}.png" for n in range(count))
    return Probe("numbered", names, Numbered(slow_ms), "digest")


def check(batch: Batch, request: BatchRequest) -> None:
    readable = [i for i in request.images if i % 7 != 3]
    assert batch.indices.tolist() == readable
    assert [error.image for error in batch.skipped] == [i for i in request.images if i % 7 == 3]
    for pixels in batch.inputs.values():
        spelt = pixels[:, 0].long() + 256 * pixels[:, 1].long()
        assert torch.equal(spelt, torch.tensor(readable)[:, None, None].expand_as(spelt))


@dataclass
class LateCopies(DeviceCopies):
    """A device that copies a batch as late as it is allowed to: when `wait` asks for it."""

    ahead: int = 2
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    is_cuda: bool = False
    unqueued: list[tuple[Tensor, Sequence[Tensor]]] = field(default_factory=list)
    queued: list[list[tuple[Tensor, Sequence[Tensor]]]] = field(default_factory=list)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        whole = torch.full((sum(map(len, parts)), *parts[0].shape[1:]), 255, dtype=torch.uint8)
        self.unqueued.append((whole, list(parts)))
        return whole

    def wait(self) -> None:
        self.queued.append(self.unqueued)
        self.unqueued = []
        while len(self.queued) > self.ahead:
            for whole, parts in self.queued.pop(0):
                whole.copy_(torch.cat(list(parts)))


@linux
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("size", [1, 5, 11])
@pytest.mark.parametrize("ahead", [0, 2])
def test_no_slot_is_written_before_its_batch_was_copied(
    monkeypatch: pytest.MonkeyPatch, workers: int, size: int, ahead: int
) -> None:
    monkeypatch.setattr(decoding, "ITEM", 3)
    images, both = numbered(150, slow_ms=1), Transforms([split(TO_TENSOR), split(DOUBLED)])
    # Shards end with smaller batches, and some need one transform alone.
    requests = [
        request
        for start in range(0, 150, 50)
        for request in batch_requests(
            range(start, start + 50), size, ((0,), (0, 1), (1,))[start // 50]
        )
    ]
    copies = LateCopies(ahead)
    seen = []
    for batch in decode_in_slots(images, both, requests, workers, copies, Timers()):
        seen.append(batch)
        if len(seen) % 9 == 0:
            time.sleep(0.02)  # the processes fill all slots that they may
    copies.ahead = 0
    copies.wait()
    for batch, request in zip(seen, requests, strict=True):
        check(batch, request)
        assert set(batch.inputs) == (set(request.transforms) if len(batch.indices) else set())


@pytest.fixture
def clean() -> Iterator[None]:
    """Nothing of this process stays in shared memory, and no process lives on."""
    yield
    assert multiprocessing.active_children() == []
    if sys.platform == "linux":
        mine = f"torch_{os.getpid()}_"
        assert [name for name in os.listdir("/dev/shm") if name.startswith(mine)] == []


def workers(count: int) -> Settings:
    return Settings(device="cpu", workers=count)


@linux
@pytest.mark.usefixtures("clean")
def test_a_pass_may_stop_anywhere_and_the_next_one_works() -> None:
    requests = batch_requests(range(90), 8, (0,))
    for stop in (1, 4, len(requests)):
        with closing(batches(numbered(90), [split(TO_TENSOR)], requests, workers(3))) as stream:
            for request, batch in zip(requests[:stop], stream, strict=False):
                check(batch, request)


@linux
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("count", [0, 2])
def test_an_error_midway_is_raised_at_its_batch(count: int) -> None:
    def refuse(image: Image.Image) -> Tensor:
        if image.getpixel((0, 0))[0] == 41:  # type: ignore[index]
            raise DissectError("no 41")
        return TO_TENSOR(image)

    requests, seen = batch_requests(range(90), 8, (0,)), []
    with pytest.raises(DissectError, match="no 41"):
        for batch in batches(numbered(90), [split(refuse)], requests, workers(count)):
            seen.append(batch)
    assert len(seen) == 5  # batch 5 has images 40 to 47


@linux
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("count", [0, 2])
def test_images_of_two_sizes_are_named(count: int) -> None:
    def grow(image: Image.Image) -> Tensor:
        side = 5 if image.getpixel((0, 0))[0] == 20 else 4  # type: ignore[index]
        return TO_TENSOR(image.resize((side, side)))

    with pytest.raises(DissectError, match=r"different shapes, \(3, 4, 4\) and \(3, 5, 5\)"):
        requests = batch_requests(range(30), 8, (0,))
        list(batches(numbered(30), [split(grow)], requests, workers(count)))


@linux
@pytest.mark.usefixtures("clean")
def test_nothing_readable() -> None:
    names = tuple("abcd")
    torn = Probe("torn", names, lambda index: Numbered()(3), "digest")
    found = list(batches(torn, [split(TO_TENSOR)], batch_requests(range(4), 3, (0,)), workers(2)))
    assert [len(batch.skipped) for batch in found] == [3, 1]
    assert all(not batch.inputs and not len(batch.indices) for batch in found)


def test_transforms_of_one_geometry_share_their_pixels() -> None:
    resnet = models.ResNet18_Weights.IMAGENET1K_V1.transforms
    other = resnet(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    wider = resnet(crop_size=200)
    listed = [split(t) for t in (resnet(), other, wider, TO_TENSOR, resnet())]
    assert Transforms(listed).same == [0, 0, 2, 3, 0]
    # A network may overwrite its input, so that outputs of a whole transform aren't shared.
    assert Transforms([split(len), split(len)]).same == [0, 1]  # type: ignore[arg-type]
    request = BatchRequest(range(2), (0, 1, 2))
    (batch,) = decode_in_slots(
        numbered(2), Transforms(listed), [request], 0, DeviceCopies("cpu"), Timers()
    )
    assert batch.inputs[0] is batch.inputs[1]
    assert batch.inputs[0].dtype == torch.uint8
    assert batch.inputs[2].shape[-1] == 200


def photographs(folder: Path, shared: Path) -> None:
    files = sorted((shared / "data" / "images" / "imagenet_sample").rglob("*.jpg"))[::120]
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    grey = Image.open(files[0]).convert("L")
    grey.save(folder / "grey.jpg")
    Image.open(files[1]).convert("CMYK").save(folder / "inks.jpg")
    Image.open(files[2]).save(folder / "plain.png")
    turned = Image.open(files[3])
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    (folder / "torn.jpg").write_bytes(files[4].read_bytes()[:3000])


@pytest.mark.parametrize("orientation", ["ignore", "apply"])
def test_decoding_on_the_device_gives_the_pixels_of_fast_on_a_cpu(
    tmp_path: Path, shared: Path, orientation: str
) -> None:
    """The code of `decode=gpu`, whose decoder and resizing run here on the CPU."""
    photographs(tmp_path, shared)
    weights = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    unknown = transforms.Compose([transforms.Resize((40, 50), 0), transforms.ToTensor()])
    both = Transforms([split(weights), split(unknown)])
    gpu, fast = (
        probe.build("folder", root=str(tmp_path), decode=decode, orientation=orientation)
        for decode in ("gpu", "fast")
    )
    assert gpu.on_gpu and gpu.subset([1, 2]).on_gpu and not fast.on_gpu
    assert gpu.digest != fast.digest
    requests = batch_requests(range(len(gpu)), 4, (0, 1))
    copies = DeviceCopies("cpu")
    found = decode_on_device(gpu, both, requests, copies, Timers())
    expected = decode_in_slots(fast, both, requests, 0, copies, Timers())
    torn = 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.indices.tolist() == theirs.indices.tolist()
        assert ours.skipped == theirs.skipped
        torn += len(ours.skipped)
        for number in (0, 1):
            assert torch.equal(ours.inputs[number], theirs.inputs[number])
    assert torn == 1


def test_decoding_on_a_gpu_needs_one(tmp_path: Path, shared: Path) -> None:
    photographs(tmp_path, shared)
    images = probe.build("folder", root=str(tmp_path), decode="gpu")
    with pytest.raises(DissectError, match=r"decode=gpu needs a CUDA device.*decode=fast"):
        next(batches(images, [split(TO_TENSOR)], [BatchRequest(range(2), (0,))], workers(0)))
