"""Captures that are killed, shared, repeated: the same bytes, and nothing computed twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import ColourEncoder, ColourNet, preprocess, write_colours

from clipdissect import probe
from clipdissect.capture import determinism
from clipdissect.capture.activations import TopKActivations
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.store import Store
from clipdissect.targets import Target

LAYERS = ("conv", "head")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@dataclass(frozen=True)
class SlowReader:
    """Counts what it reads in a file, and takes its time."""

    read: Callable[[int], Image.Image]
    log: Path
    pause: float = 0.0

    def __call__(self, index: int) -> Image.Image:
        with self.log.open("a") as log:
            log.write(f"{index}\n")
        time.sleep(self.pause)
        return self.read(index)


@pytest.fixture(autouse=True)
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests count what a pass reads; the trial before it has its own in test_determinism."""
    monkeypatch.setattr(determinism, "nondeterministic", lambda *_: {})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images")
    return tmp_path / "images"


def run(
    images: Path,
    store: Path | None,
    pause: float = 0.0,
    keep: str = "full",
    log: Path | None = None,
    **settings: Any,
) -> CapturedFeatures:
    found = probe.build("folder", root=str(images))
    reader = SlowReader(found.read, log or images.parent / "log", pause)
    slow = probe.Probe(found.name, found.images, reader, found.digest)
    torch.manual_seed(0)
    target = Target("net", ColourNet(), preprocess(), LAYERS)
    chosen = Settings(
        **{"device": "cpu", "workers": 0, "shard": 3, "batch_size": 2, "keep": keep, **settings}
    )
    place = None if store is None else Store(store)
    return capture(target, LAYERS, ColourEncoder(), slow, place, chosen)


def started(*arguments: Any) -> multiprocessing.process.BaseProcess:
    """A capture in a process of its own; one thread, since a fork can't use its parent's."""

    def work() -> None:
        torch.set_num_threads(1)
        run(*arguments)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def contents(store: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and p.suffix != ".lock"
    }


@pytest.mark.parametrize("keep", ["full", "top_k"])
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(
    images: Path, tmp_path: Path, keep: str, seed: int
) -> None:
    run(images, tmp_path / "straight", keep=keep)
    log = tmp_path / "log"
    chance = random.Random(seed)
    for _ in range(2):  # killed twice, the second time while going on
        log.unlink()
        process = started(images, tmp_path / "killed", 0.01, keep)
        while process.is_alive() and not log.exists():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    log.unlink()
    again = run(images, tmp_path / "killed", keep=keep)
    assert len(again.images) == 24
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


@pytest.mark.parametrize("keep", ["full", "top_k"])
def test_only_shards_that_are_missing_are_read_again(
    images: Path, tmp_path: Path, keep: str
) -> None:
    process = started(images, tmp_path / "store", 0.02, keep)
    log = tmp_path / "log"
    while not log.exists() or len(log.read_text().split()) < 12:
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    log.unlink()
    run(images, tmp_path / "store", keep=keep)
    read = [int(i) for i in log.read_text().split()]
    assert read[-1] == 23
    assert 3 <= len(read) <= 18
    assert read == list(range(24 - len(read), 24))


def test_a_damaged_shard_alone_is_computed_again(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(images, tmp_path / "store")
    before = contents(tmp_path / "store")
    for broken in (tmp_path / "store").rglob("rows-0000000006-*"):
        raw = bytearray(broken.read_bytes())
        raw[-2] ^= 4
        broken.write_bytes(raw)
    (tmp_path / "log").unlink()
    again = run(images, tmp_path / "store")
    assert (tmp_path / "log").read_text().split() == ["6", "7", "8"]
    assert "rows-0000000006" in caplog.text
    assert again.activations["head"].equal(first.activations["head"])
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize("keep", ["full", "top_k"])
def test_four_processes_read_every_image_once(images: Path, tmp_path: Path, keep: str) -> None:
    processes = [started(images, tmp_path / "store", 0.005, keep) for _ in range(4)]
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 4
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(24))
    run(images, tmp_path / "alone", keep=keep)
    assert contents(tmp_path / "store") == contents(tmp_path / "alone")


def test_a_holder_that_died_blocks_nobody(images: Path, tmp_path: Path) -> None:
    process = started(images, tmp_path / "store", 60)
    while not (tmp_path / "log").exists():
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert len(run(images, tmp_path / "store").images) == 24


@pytest.mark.parametrize("shard", [1, 5, 24, 100])
def test_shards_change_nothing(images: Path, tmp_path: Path, shard: int) -> None:
    one = run(images, None, shard=24, batch_size=1)
    many = run(images, tmp_path / "store", shard=shard, batch_size=1)
    for layer in LAYERS:
        assert one.activations[layer].equal(many.activations[layer])
    assert one.image_embeds.equal(many.image_embeds)


def test_another_shard_size_goes_on_all_the_same(images: Path, tmp_path: Path) -> None:
    for keep in ("full", "top_k"):
        process = started(images, tmp_path / "store", 0.02, keep)
        time.sleep(0.3)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        other = run(images, tmp_path / "store", keep=keep, shard=5)
        assert other.image_embeds.equal(run(images, None).image_embeds)


def test_top_images_equal_those_of_all_activations(images: Path, tmp_path: Path) -> None:
    (images / "green1.png").write_bytes(b"no image")
    full = run(images, tmp_path / "store")
    top = run(images, tmp_path / "other", keep="top_k")
    assert top.images == full.images
    for layer in LAYERS:
        kept = top.activations[layer]
        assert isinstance(kept, TopKActivations)
        expected = TopKActivations.of(full.activations[layer], torch.arange(23), 100)
        assert kept.top.values.equal(expected.top.values)
        assert kept.top.indices.equal(expected.top.indices)
        assert kept.count.equal(expected.count)


def test_passing_trouble_costs_its_shard_alone(images: Path, tmp_path: Path) -> None:
    for keep in ("full", "top_k"):
        found = probe.build("folder", root=str(images))
        (images / "red0.png").rename(tmp_path / "away.png")
        target = Target("net", ColourNet(), preprocess(), LAYERS)
        settings = Settings(device="cpu", workers=0, shard=3, batch_size=2, keep=keep)
        kept = Store(tmp_path / keep)
        first = capture(target, LAYERS, ColourEncoder(), found, kept, settings)
        assert list(first.skipped) == ["red0.png"]
        (tmp_path / "away.png").rename(images / "red0.png")
        encoder = ColourEncoder()
        again = capture(target, LAYERS, encoder, found, kept, settings)
        assert not again.skipped
        assert encoder.images_seen == 3
        whole = run(images, None, keep=keep)
        assert again.image_embeds.equal(whole.image_embeds)
        if keep == "top_k":
            one, other = again.activations["head"], whole.activations["head"]
            assert isinstance(one, TopKActivations)
            assert isinstance(other, TopKActivations)
            assert one.top.indices.equal(other.top.indices)
        assert capture(target, LAYERS, encoder, found, kept, settings).computed == ()


def test_out_of_memory_halves_the_batch(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Small(ColourNet):
        most = 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return out

    found = probe.build("folder", root=str(images))
    target = Target("net", Small(), preprocess(), LAYERS)
    settings = Settings(device="cpu", workers=0, batch_size=8)
    caplog.set_level("INFO")
    halved = capture(target, LAYERS, ColourEncoder(), found, None, settings)
    assert "continuing with 2 images at a time" in caplog.text
    expected = run(images, None)
    assert torch.allclose(halved.activations["head"], expected.activations["head"], atol=1e-6)
    Small.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        capture(target, LAYERS, ColourEncoder(), found, None, settings)


def test_disk_that_fills_up_keeps_whole_shards(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Path.write_bytes
    left = [7]

    def filling(self: Path, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return written(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", filling)
        with pytest.raises(DissectError, match="the store can't be written"):
            run(images, tmp_path / "store")
    (tmp_path / "log").unlink()
    run(images, tmp_path / "store")
    assert min(map(int, (tmp_path / "log").read_text().split())) == 6  # 2 shards of 3 arrays stayed
    run(images, tmp_path / "straight")
    assert contents(tmp_path / "store") == contents(tmp_path / "straight")
