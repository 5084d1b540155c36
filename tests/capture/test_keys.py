"""What is kept under which key: the same texts once, pixels by their decoder, nothing for ever that
can't come again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess, write_colours

from clipdissect import probe
from clipdissect.api import dissect
from clipdissect.capture.capture import READINGS
from clipdissect.capture.settings import Settings
from clipdissect.encoder.conse import ConSE
from clipdissect.evaluation.vectors import vectors
from clipdissect.images import decode as images
from clipdissect.probe import options
from clipdissect.similarity import build
from clipdissect.store import Store, inventory
from clipdissect.targets import Target
from clipdissect.utils import hashing


@dataclass
class Words:
    """A sentence encoder that counts."""

    name: str = "words"
    digest: str = "words 1"
    context_length: int = 9
    seen: list[str] = field(default_factory=list)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [1] * len(texts)

    def embed(self, texts: Sequence[str], device: str = "cpu") -> torch.Tensor:
        self.seen += texts
        return torch.nn.functional.one_hot(torch.arange(len(texts)) % 3, 3).float()


def test_the_same_words_are_embedded_once(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    store, words = Store(tmp_path / "store"), Words()
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    encoder = ConSE("conse", net, preprocess(4), ("x", "y", "z"), words, top=2)
    concepts = ["red", "green", "blue"]
    dissect(
        Target("net", ColourNet(), preprocess(), ("conv",)),
        probe=str(tmp_path / "images"),
        concepts=concepts,
        encoder=encoder,
        store=store,
        similarity=build("soft_wpmi", top_k=4),
        settings=Settings(device="cpu", workers=0),
        images=3,
    )
    assert [text for text in words.seen if text in concepts] == concepts
    vectors(words, [concepts], store)  # as metrics do
    assert [text for text in words.seen if text in concepts] == concepts
    texts = [item for item in inventory(store) if item.about["what"] == "text embeddings"]
    assert len(texts) == 1


@pytest.mark.parametrize("decode", ["pil", "fast"])
def test_another_decoder_is_another_probe(
    tmp_path: Path, decode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")

    def key() -> str:
        return probe.build("folder", root=str(tmp_path), decode=decode).digest

    before = key()
    assert key() == before
    monkeypatch.setattr(options, "decoder_version", lambda chosen: f"another {chosen}")
    assert key() != before


def test_arrays_of_pixels_depend_on_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = options.ProbeOptions().identities(["a"], are_files=False)
    monkeypatch.setattr(options, "decoder_version", lambda chosen: f"another {chosen}")
    assert options.ProbeOptions().identities(["a"], are_files=False) == plain == ("a",)
    assert options.ProbeOptions(decode="fast").identities(["a"], are_files=False) != plain


def test_decoders_are_named_with_their_versions() -> None:
    import PIL

    assert PIL.__version__ in images.decoder_version("pil")
    assert "torchvision" not in images.decoder_version("pil")
    assert "torchvision" in images.decoder_version("fast")


def test_two_threads_at_once(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    store = Store(tmp_path / "store")

    def run(number: int) -> list[str]:
        net = ColourNet()
        with torch.no_grad():
            net.head.weight += number
        torch.rand(1000)  # as other work in a thread does
        found = dissect(
            Target("net", net, preprocess(), ("conv", "head")),
            probe=str(tmp_path / "images"),
            concepts=list(COLOURS),
            encoder=ColourEncoder(),
            store=store,
            images=3,
            similarity=build("soft_wpmi", top_k=4),
            settings=Settings(device="cpu", workers=0),
        )
        return found.descriptions["similarity"].tolist()

    alone = [run(number) for number in range(4)]
    for item in inventory(store):
        shutil.rmtree(store.series(item.key).folder)
    with ThreadPoolExecutor(4) as pool:
        assert str(list(pool.map(run, range(4)))) == str(alone)  # dead units have NaN


def opaque() -> ColourNet:
    net = ColourNet()
    net.buffer = memoryview(np.zeros(1))  # type: ignore[assignment]
    return net


@pytest.mark.parametrize("keep", ["full", "top_k"])
def test_features_under_keys_that_never_come_again_are_not_kept(
    tmp_path: Path, keep: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_colours(tmp_path / "images")
    store, encoder = Store(tmp_path / "store"), ColourEncoder()

    def run(net: ColourNet) -> dict[str, object]:
        found = dissect(
            Target("net", net, preprocess(), ("conv", "head")),
            probe=str(tmp_path / "images"),
            concepts=list(COLOURS),
            encoder=encoder,
            store=store,
            images=3,
            similarity=build("soft_wpmi", top_k=4),
            settings=Settings(device="cpu", workers=0, batch_size=4, keep=keep, shard=7),
        )
        return {"run": found.run, "told": found.descriptions["description"].tolist()}

    hashing._warn_of_opaque.cache_clear()  # it warns once in a process
    known, first, second = run(ColourNet()), run(opaque()), run(opaque())
    assert first["told"] == second["told"] == known["told"]
    assert encoder.images_seen == 24 + 10  # its embeddings are kept as ever; 10 are a trial
    kept = inventory(store)
    assert sorted(item.about["what"] for item in kept) == [
        "conv",
        "head",
        READINGS,
        "image embeddings",
        "text embeddings",
    ]
    assert not any(hashing.is_transient(item.key) for item in kept)
    assert any("can't be hashed" in note for note in first["run"]["notes"])  # type: ignore[index]
    assert not any("can't be hashed" in note for note in known["run"]["notes"])  # type: ignore[index]
    assert "memoryview" in caplog.text
