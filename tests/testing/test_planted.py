"""Methods name what networks detect by construction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from dense import levels_of_grey, write_dense
from torch import nn

from clipdissect import concepts, method, probe, similarity, testing
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.masks.formulas import Formula
from clipdissect.method import Job
from clipdissect.probe.scenes import NAMES, PALETTE, SHAPES
from clipdissect.store import Store
from clipdissect.targets import Target

SETTINGS = Settings(device="cpu", workers=0)
SIZE, IMAGES = 112, 100


class ColoursAlone(testing.Filters):
    """Doesn't look for shapes, which takes time."""

    def _painted(self, colours: torch.Tensor) -> torch.Tensor:
        images, channels, height, width = colours.shape
        return colours.new_zeros(images, channels, len(SHAPES), height, width)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small convolutions: threads that wait for one another cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> probe.Probe:
    root = str(tmp_path_factory.mktemp("scenes"))
    found: probe.Probe = probe.build(
        "synthetic_broden", images=IMAGES, size=SIZE, root=root, photographs=False, stamps="none"
    )
    return found


def describe(planted: testing.Planted, images: probe.Probe, name: str, **options: Any) -> Any:
    store = Store(Path(str(images.path(0))).parents[2] / "store")  # shared by the tests
    job = Job(target=planted.target, probe=images, settings=SETTINGS, store=store, **options)
    table = method.build(name).describe(job).descriptions
    truth = [text for layer in planted.target.layers for text in planted.truth[layer]]
    return table.assign(truth=truth)


def of_one_concept(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["layer"] != "formulas"]


def test_colours_are_their_own_units() -> None:
    pictures = torch.tensor([PALETTE[name] for name in NAMES]).float()[:, :, None, None] / 255
    values = ColoursAlone()(pictures.expand(-1, -1, 8, 8))[:, : len(NAMES)]
    assert torch.allclose(values.diagonal(), torch.ones(len(NAMES)), atol=1e-4)
    assert (values - torch.eye(len(NAMES))).max() < 1e-3


def test_shapes_are_told_apart() -> None:
    planted = testing.planted_filters(112)
    from clipdissect.probe.scenes import points

    pictures = []
    for shape in SHAPES.values():
        inside = torch.from_numpy(shape(*points(112, 50, 60, 0.22 * 112, 45.0)))
        picture = torch.tensor(PALETTE["grey"]).float()[:, None, None].repeat(1, 112, 112)
        picture[:, inside] = torch.tensor(PALETTE["red"]).float()[:, None]
        pictures.append(picture / 255)
    values = planted.target.model(torch.stack(pictures))[:, len(NAMES) : len(NAMES) + len(SHAPES)]
    assert values.argmax(1).tolist() == list(range(len(SHAPES)))
    assert (values.diagonal() > 0.1).all()


def test_network_dissection_names_planted_filters(images: probe.Probe) -> None:
    table = describe(testing.planted_filters(SIZE), images, "network_dissection")
    single = of_one_concept(table)
    right = single["description"] == single["truth"]
    assert right.all(), single[~right][["truth", "description", "similarity"]]
    assert (single["similarity"] > single["similarity_2"]).all()


def test_compositional_names_them_and_finds_formulas(images: probe.Probe) -> None:
    table = describe(testing.planted_filters(SIZE), images, "compositional")
    single = of_one_concept(table)
    assert list(single["label_1"]) == list(single["truth"])
    for _, row in single.iterrows():
        assert row["truth"] in row["description"].replace("AND NOT ", "NOT:")
    both = table[table["truth"].str.contains("AND")]
    found = [
        all(part in row["description"] for part in row["truth"].split(" AND "))
        for _, row in both.iterrows()
    ]
    assert sum(found) >= len(found) - 1


def test_clip_dissect_names_them_with_an_encoder_that_knows(images: probe.Probe) -> None:
    assert images.masks is not None
    options: dict[str, Any] = {
        "encoder": testing.LabelEncoder(images),
        "similarity": similarity.build("soft_wpmi", top_k=10),
        "concepts": concepts.resolve(list(images.masks.texts)),
    }
    planted = testing.planted_filters(SIZE)
    # Whole images say little of small shapes.
    quick = replace(planted.target, model=ColoursAlone(SIZE).eval(), layers=("colours",))
    colours = describe(replace(planted, target=quick), images, "clip_dissect", **options)
    assert (colours["description"] == colours["truth"]).mean() > 0.8


def test_the_encoder_knows_its_own_images_alone(images: probe.Probe) -> None:
    encoder = testing.LabelEncoder(images)
    embeds = encoder.embed_images(torch.stack([encoder.preprocess(images.read(i)) for i in (3, 5)]))
    assert torch.allclose(embeds.norm(dim=1), torch.ones(2))
    assert images.masks is not None
    where = images.masks.read(5).concepts()
    shares = {images.masks.concepts[n].text: float(m.mean()) for n, m in where.items()}
    scores = encoder.embed_texts([*shares, "no such thing"]) @ embeds[1]
    assert scores[-1] == 0
    expected = torch.tensor(list(shares.values())).sqrt()
    assert torch.allclose(scores[:-1], expected / expected.norm(), atol=1e-6)
    with pytest.raises(DissectError, match="knows only the images of"):
        encoder.embed_images(torch.rand(1, 3, SIZE, SIZE))


def test_probes_detect_what_they_are_fitted_to(images: probe.Probe, tmp_path: Path) -> None:
    base = replace(testing.planted_filters(SIZE).target, model=ColoursAlone(SIZE).eval())
    texts = ["red-c", "blue-c", "yellow-c", "purple-c"]
    scenes = probe.build(
        "synthetic_broden",
        images=30,
        size=SIZE,
        root=str(tmp_path),
        seed=1,
        photographs=False,
        stamps="none",
    )
    planted = testing.planted_probes(base, "colours", scenes, texts, SETTINGS)
    assert planted.truth == {"probes": tuple(texts)}
    table = describe(planted, images, "network_dissection")
    assert list(table["description"]) == texts
    with pytest.raises(DissectError, match="no concept teal"):
        testing.planted_probes(base, "colours", scenes, ["teal"], SETTINGS)


def test_probes_are_the_closest_linear_maps(tmp_path: Path) -> None:
    write_dense(tmp_path, images=6, one_size=True)
    images = probe.build("broden", root=str(tmp_path))
    network = Target("pixels", nn.Sequential(nn.Conv2d(3, 3, 1)), levels_of_grey)
    planted = testing.planted_probes(network, "0", images, ["sky", "door"], SETTINGS, ridge=0.0)
    rows, shares = [], []
    with torch.no_grad():
        for i in range(6):
            pixels = network.model(levels_of_grey(images.read(i))[None])
            rows.append(pixels[0].permute(1, 2, 0).reshape(-1, 3))
            assert images.masks is not None
            where = images.masks.read(i).concepts()
            own = torch.zeros(64, 2)
            for number, mask in where.items():
                text = images.masks.concepts[number].text
                if text in ("sky", "door"):
                    column = ("sky", "door").index(text)
                    here = torch.from_numpy(mask).float().reshape(-1)
                    own[:, column] = torch.maximum(own[:, column], here)
            shares.append(own)
    x = torch.cat([torch.cat(rows), torch.ones(6 * 64, 1)], 1).double()
    expected = torch.linalg.lstsq(x, torch.cat(shares).double()).solution
    weights = planted.target.model.probes.weight[:, :, 0, 0].double()  # type: ignore[union-attr]
    assert torch.allclose(weights.T, expected[:3], rtol=1e-3, atol=1e-7)


def test_truth_of_formulas_is_worded_as_formulas_are() -> None:
    planted = testing.planted_filters(SIZE)
    assert "red-c OR blue-c" in planted.truth["formulas"]
    assert len(Formula((0, 1), (0, 1))) == 2
    widths = ColoursAlone()(torch.zeros(1, 3, SIZE, SIZE)).shape[1]
    assert widths == sum(map(len, planted.truth.values()))
