"""Networks whose outputs aren't a function of the image: warned of, noted, and never stored."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from dense import target as dense_target
from dense import write_dense
from tiny import ColourEncoder, ColourNet, preprocess, write_colours
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect import method, probe
from clipdissect.api import dissect
from clipdissect.capture import determinism
from clipdissect.capture.capture import READINGS, capture
from clipdissect.capture.infer_layout import read_layers
from clipdissect.capture.networks import EMBEDS
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.method import Job
from clipdissect.similarity import build as similarity
from clipdissect.store import Store
from clipdissect.targets import Target


class Dropout(ColourNet):
    """As many networks are written: `F.dropout` is on unless told otherwise."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.dropout(self.relu(self.conv(images)).mean((2, 3)), 0.5))


class MonteCarlo(nn.Module):
    """Dropout that stays on by design, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(3, 8, 3), nn.Dropout(0.1), nn.Linear(8, 4)

    def train(self, mode: bool = True) -> MonteCarlo:
        super().train(mode)
        self.drop.train(True)
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.conv(images).mean((2, 3))))


class Augmented(ColourNet):
    """Flips its input now and then, with Python's own generator."""

    def forward(self, images: Tensor) -> Tensor:
        shifted = images.roll(random.randrange(8), -1) * random.uniform(0.5, 1)
        return super().forward(shifted)


class RareStochasticDepth(nn.Module):
    """Drops a whole batch's branch once in ten passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        branch = torchvision.ops.stochastic_depth(self.conv(images), 0.3, "batch")
        return self.head(branch.mean((2, 3)))


class OwnGenerator(ColourNet):
    """Draws from a generator that nobody sees."""

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=GENERATOR)
        return super().forward(images + 0.3 * noise)


class BatchStatistics(nn.Module):
    """A norm without running statistics mixes the images of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images)).mean((2, 3)))


GENERATOR = torch.Generator().manual_seed(3)
DRAWN, MIXED = determinism.DRAWN, determinism.MIXED
CASES = [
    (Dropout, {"head": DRAWN}),
    (MonteCarlo, {"head": DRAWN}),
    (Augmented, {"conv": DRAWN, "head": DRAWN}),
    (RareStochasticDepth, {"head": DRAWN}),
    (OwnGenerator, {"conv": DRAWN, "head": DRAWN}),
    (BatchStatistics, {"head": MIXED}),
    (ColourNet, {}),
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images")
    return tmp_path / "images"


def run(
    images: Path, model: nn.Module, store: Store | None, encoder: Any = None, **settings: Any
) -> Any:
    found = probe.build("folder", root=str(images))
    chosen = Settings(**{"device": "cpu", "workers": 0, **settings})
    target = Target("net", model, preprocess(), ("conv", "head"))
    return capture(target, target.layers, encoder, found, store, chosen)


def entries(root: Path) -> int:
    """Entries of features; how outputs are read is kept beside them."""
    kept = [json.loads(path.read_text())["what"] for path in root.rglob("about.json")]
    return sum(what != READINGS for what in kept)


@pytest.mark.parametrize("keep", ["full", "top_k"])
@pytest.mark.parametrize(
    ("kind", "expected"), CASES, ids=lambda case: getattr(case, "__name__", "")
)
def test_what_draws_is_computed_anew(
    images: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: type[nn.Module],
    expected: dict[str, str],
    keep: str,
) -> None:
    torch.manual_seed(0)
    random.seed(0)
    store, model = Store(tmp_path / "store"), kind()
    first = run(images, model, store, keep=keep)
    assert entries(store.root) == 2 - len(expected)
    again = run(images, model, store, keep=keep)
    assert set(again.computed) == set(expected)
    for note in first.notes:
        assert note in caplog.text
    for layer, why in expected.items():
        word = {DRAWN: "draws random numbers", MIXED: "other images of a batch"}[why]
        assert any(layer in note and word in note and "net" in note for note in first.notes)
    assert len(first.notes) == len(set(expected.values()))
    if keep == "full":
        assert first.activations["head"].shape == (24, 4)  # the run has its own features
    if kind is Dropout and keep == "full":
        assert not first.activations["head"].equal(again.activations["head"])


@dataclass
class NoisyEncoder(ColourEncoder):
    def embed_images(self, images: Tensor) -> Tensor:
        return F.normalize(F.dropout(super().embed_images(images), 0.5) + 0.1, dim=-1)


def test_an_encoder_that_draws(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    found = run(images, ColourNet(), store, NoisyEncoder())
    [note] = found.notes
    assert note.startswith("colours: the image embeddings differ")
    assert entries(store.root) == 2
    assert run(images, ColourNet(), store, NoisyEncoder()).computed == (EMBEDS,)
    assert found.image_embeds.shape == (24, 3)


def test_run_json_has_the_note_and_a_union_its_parts(images: Path, tmp_path: Path) -> None:
    one = probe.build("folder", root=str(images))
    write_colours(tmp_path / "more", shades=2)
    parts = [{"name": "folder", "root": str(tmp_path / name)} for name in ("images", "more")]
    for chosen in (one, probe.build("union", parts=parts)):
        store = tmp_path / f"store{len(chosen)}"
        result = dissect(
            Target("net", Dropout(), preprocess(), ("head",)),
            probe=chosen,
            concepts=["red", "green", "blue"],
            encoder=ColourEncoder(),
            store=store,
            similarity=similarity("soft_wpmi", top_k=4),
            settings=Settings("cpu", workers=0),
        )
        assert [note for note in result.run["notes"] if "draws random numbers" in note]
        kept = 1 + max(1, len(chosen.parts))  # embeddings of the texts and of each part's images
        assert entries(store) == kept


def test_generators_are_left_as_they_were(images: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = probe.build("folder", root=str(images))
    target = Target("net", MonteCarlo(), preprocess(), ("head",))
    torch.set_rng_state(before)
    known, settings = read_layers(target, ["head"], Summary()), Settings("cpu", workers=0)
    assert determinism.nondeterministic(target, None, found, ["head"], known, settings) == {
        "head": DRAWN
    }
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "swin_t", "efficientnet_b0"])
def test_real_networks_in_evaluation_mode_are_steady(images: Path, name: str) -> None:
    torch.manual_seed(0)
    options = {"vit_b_16": {"image_size": 32}}.get(name, {})
    model = torchvision.models.get_model(name, **options)
    last = [n for n, _ in model.named_children()][-1]
    target = Target(name, model, preprocess(32), (last,))
    found = probe.build("folder", root=str(images))
    known, settings = read_layers(target, [last], Summary()), Settings("cpu", workers=0)
    assert determinism.nondeterministic(target, None, found, [last], known, settings) == {}
    assert model.training  # as before


def test_rounding_isn_t_a_draw() -> None:
    values = torch.randn(8, 50) * torch.logspace(-6, 3, 50)
    for mode, epsilon in (("fp32", 2**-23), ("tf32", 2**-11), ("bf16", 2**-8)):
        noise = 1 + epsilon * (2 * torch.rand(values.shape) - 1)
        assert not determinism._differ(values, values * noise, determinism.SAME_BATCH[mode])
        dropped = F.dropout(values, 0.1)
        assert determinism._differ(values, dropped, determinism.SAME_BATCH[mode])


def test_levels_and_masks_of_what_draws(tmp_path: Path) -> None:
    write_dense(tmp_path / "set")
    images, store = probe.build("broden", root=str(tmp_path / "set")), Store(tmp_path / "store")

    def entries_after(own: Target) -> tuple[int, list[str]]:
        job = Job(
            target=own, probe=images, store=store, images=3, settings=Settings("cpu", workers=0)
        )
        run = method.build("network_dissection", quantile=0.1).describe(job).run
        return entries(store.root), run["notes"]

    steady = dense_target("pool")
    drawing = Target("drawing", nn.Sequential(steady.model, Drop()), steady.preprocess, ("1",))
    count, notes = entries_after(drawing)
    assert count == 1  # of the concepts, which do not depend on the network
    assert any("draws random numbers" in note for note in notes)
    count, notes = entries_after(steady)
    assert count > 2
    assert not any("draws random numbers" in note for note in notes)


class Drop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3)
