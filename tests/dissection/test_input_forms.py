"""The examples of docs/python.md, each line as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from sets import picture
from tiny_encoders import register
from torch import nn

import clipdissect
from clipdissect import concepts, encoder, probe, similarity, targets
from clipdissect.dissection import resolve_settings, resolve_store, with_saes

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SETUP, EXAMPLES = BLOCKS[0], [line for block in BLOCKS[1:] for line in block.splitlines()]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The names that the page sets up, in a folder with the files that it mentions."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("page")
        patch.chdir(folder)
        for kind, blue in (("cat", 20), ("dog", 90)):
            for number in range(3):
                picture(folder / "photos" / kind / f"{number}.png", (10, 30 * number, blue))
        (folder / "words.txt").write_text("cat\ndog\n")
        register(patch, "ViT-B-32")  # a small network
        found: dict[str, Any] = {}
        exec(SETUP, found)  # the page's own
        found["resnet"] = found["models"].resnet18()
        yield found


def _layers(layers: Any, names: dict[str, Any]) -> Any:
    chosen = targets.resolve(names["resnet"], layers, names["evaluation"]).layers
    assert chosen
    assert set(chosen) <= {name for name, _ in names["resnet"].named_modules()}
    return chosen


def _preprocess(preprocess: Any, names: dict[str, Any]) -> None:
    found = targets.resolve(names["resnet"], ["fc"], preprocess)
    assert found.preprocess(names["Image"].new("RGB", (40, 30))).ndim == 3
    assert found.notes == ()


def _probe(given: Any, names: dict[str, Any]) -> None:
    found = probe.resolve(given)
    assert 2 <= len(found) <= 6
    assert found.read(0).size[0] > 0


def _similarity(given: Any, names: dict[str, Any]) -> None:
    scores = similarity.resolve(given)(torch.rand(30, 4), torch.rand(30, 3))
    assert scores.shape == (3, 4)
    assert float(scores.std()) > 0


CHECKS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "model": lambda given, names: targets.resolve(given, nn.Conv2d, names["evaluation"]),
    "layers": _layers,
    "preprocess": _preprocess,
    "probe": _probe,
    "concepts": lambda given, names: concepts.resolve(given).texts[1],
    "encoder": lambda given, names: encoder.resolve(given).embed_texts(["cat"], "cpu"),
    "similarity": _similarity,
    "sae": lambda given, names: with_saes(targets.resolve(names["clip"], ["visual"]), given),
    "settings": lambda given, names: resolve_settings(given, None),
    "store": lambda given, names: resolve_store(given),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_form_of_an_input(example: str, names: dict[str, Any]) -> None:
    argument = example.partition(" = ")[0]
    exec(example, names)  # the page's own
    CHECKS[argument](names[argument], names)


def test_every_input_has_examples() -> None:
    assert {example.partition(" = ")[0] for example in EXAMPLES} == set(CHECKS)


def test_forms_together(names: dict[str, Any], tmp_path: Path) -> None:
    result = clipdissect.dissect(
        names["clip"],  # also the encoder
        lambda name, _: name == "visual.conv1",
        probe=names["DataLoader"](names["ImageFolder"]("photos"), shuffle=True),
        concepts=["cat", "dog", "wheel"],
        encoder=names["clip"],
        similarity=lambda P, q: q.T @ P,
        images=2,
        store=tmp_path,
        settings=clipdissect.Settings(device="cpu", workers=0, batch_size=2),
    )
    assert set(result.descriptions["layer"]) == {"visual.conv1"}
    assert set(result.top_images["image"]) <= {
        f"{k}/{n}.png" for k in ("cat", "dog") for n in "012"
    }
    assert result.run["similarity"]["function"].endswith("test_forms_together.<locals>.<lambda>")
    clip, data = names["clip"], names["ImageFolder"]("photos")
    inputs = torch.stack([names["clip_preprocess"](image) for image, _ in data])
    with torch.no_grad():
        activations = clip.visual.conv1(inputs).mean((2, 3))
    first = result.top_images[result.top_images["rank"] == 1]
    assert first["activation"].tolist() == pytest.approx(activations.amax(0).tolist(), abs=1e-5)
    notes = " ".join(result.run["notes"])
    assert "preprocess wasn't given; used the preprocess_cfg that open_clip set" in notes
    assert "the encoder open_clip/CLIP was given as a loaded network" in notes
    assert "of which only the name is recorded" in notes
