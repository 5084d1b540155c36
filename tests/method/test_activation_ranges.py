"""Descriptions of activation ranges, held to the same thing done slowly in exact fractions."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from dense import LABELS, SIZES, _between, iou_of, maps_of, read_plainly, target, write_dense
from test_compositional import Plain
from test_network_dissection import describe
from tiny_saes import random_sae
from torch import Tensor, nn

from clipdissect import method, probe, targets, testing
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.masks import ranges as ranges_of_masks
from clipdissect.method import Job
from clipdissect.report import load
from clipdissect.report.run import unit_of
from clipdissect.targets import Target

COUNT, UNITS = 3, 4
COLUMNS = [
    *("layer", "unit", "meaning", "share", "images", "lower", "upper"),
    *("description", "similarity", "formula", "label_1"),
    *("detection_accuracy", "activation_coverage", "samples_coverage", "null_similarity"),
]
Masks = list[np.ndarray]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dense(tmp_path / "set")
    return tmp_path / "set"


def meanings(root: Path, *layers: str, ranges: int = COUNT, **options: Any) -> pd.DataFrame:
    found: pd.DataFrame = describe(root, *layers, ranges=ranges, **options).meanings
    return found


def best_ranges(values: list[float], count: int) -> list[tuple[float, float, float]]:
    """Return lower, upper and share of the best of all partitions, the highest first."""
    ordered = sorted(values)
    sums = list(itertools.accumulate(ordered, initial=0.0))
    squares = list(itertools.accumulate((v * v for v in ordered), initial=0.0))

    def cost(start: int, stop: int) -> float:
        total = sums[stop] - sums[start]
        return squares[stop] - squares[start] - total * total / (stop - start)

    n = len(ordered)
    everything = itertools.combinations(range(1, n), count - 1)
    cuts = min(
        ((0, *inner, n) for inner in everything),
        key=lambda own: sum(cost(a, b) for a, b in itertools.pairwise(own)),
    )
    parts = reversed(list(itertools.pairwise(cuts)))
    return [(ordered[a], ordered[b - 1], (b - a) / n) for a, b in parts]


def interpolated(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = map(range, size)
    return np.array([[float(_between(grid, y, x, size)) for x in columns] for y in rows])


class PlainRanges:
    """Ranges and masks of every unit, pixel by pixel."""

    def __init__(self, maps: Masks, sizes: list[tuple[int, int]], relu: bool = False) -> None:
        maps = [m.clip(0) for m in maps] if relu else maps
        self.ranges, self.masks = [], []
        for unit in range(maps[0].shape[0]):
            values = [float(v) for m in maps for v in m[unit].flat]
            if min(values) >= 0:
                values = [v for v in values if v > 0]
            # Multiples of 1/256, which floats hold exactly.
            grids = [interpolated(m[unit], size) for m, size in zip(maps, sizes, strict=True)]
            for one in best_ranges(values, COUNT):
                self.ranges.append((unit, *one))
                self.masks.append([(one[0] <= grid) & (grid <= one[1]) for grid in grids])


def sizes_of(count: int) -> list[tuple[int, int]]:
    return [SIZES[i % 2] for i in range(count)]


def share(one: Masks, other: Masks, counted: Any = None) -> float:
    """Return the share of `one`'s pixels that are in `other`, too."""
    counted = counted or [True] * len(one)
    both = sum(int((a & b).sum()) for a, b, c in zip(one, other, counted, strict=True) if c)
    return float(Fraction(both, sum(int(a.sum()) for a, c in zip(one, counted, strict=True) if c)))


def check_measures(row: Any, mask: Masks, shown: Masks, counted: list[bool]) -> None:
    assert row["images"] == sum(bool(m.any()) for m in mask)
    assert row["detection_accuracy"] == share(shown, mask)
    assert row["activation_coverage"] == share(mask, shown, counted)
    both = [bool((a & b).any()) for a, b in zip(mask, shown, strict=True)]
    assert row["samples_coverage"] == sum(both) / sum(bool(m.any()) for m in shown)


@pytest.mark.parametrize("layer", ["pool", "relu"])
def test_every_number_is_the_plain_one(root: Path, layer: str) -> None:
    images, shown, annotated = read_plainly(root)
    maps = maps_of(root, images, units=UNITS)
    plain = PlainRanges(maps, sizes_of(len(images)), relu=layer == "relu")
    own = with_last(nn.ReLU(), UNITS) if layer == "relu" else target("pool", units=UNITS)
    table = meanings(root, own=own)
    assert list(table.columns) == COLUMNS
    assert len(table) == len(plain.ranges) == UNITS * COUNT
    rows = zip(table.iterrows(), plain.ranges, plain.masks, strict=True)
    for (number, row), (unit, lower, upper, part), mask in rows:
        assert (row["unit"], row["meaning"]) == (unit, 1 + number % COUNT)
        assert (row["lower"], row["upper"], row["share"]) == (lower, upper, part)
        scores = {
            (category, name): iou_of(mask, shown[category, name], annotated[category])
            for category, names in LABELS.items()
            for name in names
        }
        best = max(scores, key=lambda pair: scores[pair])
        if not scores[best]:
            assert row["description"] == row["formula"] == row["label_1"] == ""
            assert pd.isna(row["similarity"]) and pd.isna(row["detection_accuracy"])
            continue
        assert row["similarity"] == float(scores[best])
        assert row["description"] == best[1].removesuffix("-s")
        leaf = json.loads(row["formula"])
        assert (leaf["category"], leaf["label"]) == best
        assert row["label_1"] == best[1]
        check_measures(row, mask, shown[best], annotated[best[0]])
    if layer == "relu":
        assert (table["lower"] > 0).all()


def test_formulas_are_the_plain_searches(root: Path) -> None:
    plain = Plain(root)
    images, _, annotated = read_plainly(root)
    maps = maps_of(root, images, units=UNITS)
    plain.units = PlainRanges(maps, sizes_of(len(images))).masks  # type: ignore[assignment]
    own = target("pool", units=UNITS)
    table = meanings(root, own=own, name="compositional", length=2, beam=3)
    for number, row in table.iterrows():
        assert row["similarity"] == float(plain.beam(int(number), 2, 3)[0])  # type: ignore[call-overload]
        tree = json.loads(row["formula"])
        shown = evaluated(tree, plain)
        counted = [any(annotated[c][i] for c in categories(tree)) for i in range(len(images))]
        check_measures(row, plain.units[number], shown, counted)  # type: ignore[call-overload,index]
    one = meanings(root, own=own, name="compositional", length=1)
    pd.testing.assert_frame_equal(one, meanings(root, own=own))
    assert list(table["label_1"]) == list(one["label_1"])


def evaluated(tree: dict[str, Any], plain: Plain) -> Masks:
    if "op" not in tree:
        return plain.shown[tree["category"], tree["label"]]
    parts = [evaluated(part, plain) for part in tree["of"]]
    if tree["op"] == "NOT":
        return [~mask for mask in parts[0]]
    join = np.logical_and if tree["op"] == "AND" else np.logical_or
    return [join(a, b) for a, b in zip(*parts, strict=True)]


def categories(tree: dict[str, Any]) -> set[str]:
    if "op" not in tree:
        return {tree["category"]}
    return set().union(*(categories(part) for part in tree["of"]))


def with_last(module: nn.Module, units: int = 6) -> Target:
    """The small network, with one more module as its layer `last`."""
    own = target("pool", units=units)
    network = nn.Sequential()
    network.add_module("first", nn.Sequential(own.model.conv, own.model.pool))
    network.add_module("last", module)
    return replace(own, model=network, layers=("last",))


@pytest.mark.parametrize("name", ["network_dissection", "compositional"])
def test_descriptions_stay_as_they_are(root: Path, name: str) -> None:
    without, found = describe(root, "pool", name=name), describe(root, "pool", name=name, ranges=5)
    pd.testing.assert_frame_equal(found.descriptions, without.descriptions)
    assert without.meanings.empty and describe(root, "pool", name=name, ranges=0).meanings.empty
    assert found.meanings.groupby("unit")["meaning"].apply(list).tolist() == [[1, 2, 3, 4, 5]] * 6
    assert found.run["method"]["ranges"] == 5
    assert np.allclose(found.meanings.groupby("unit")["share"].sum(), 1)
    below, above = found.meanings["upper"].shift(-1), found.meanings["lower"]
    assert (below < above)[found.meanings["meaning"] < 5].all()


def test_vectors_are_in_one_range_per_image(root: Path) -> None:
    table = meanings(root, "head")
    assert table["unit"].nunique() == 6 * 16
    assert (table.groupby("unit")["images"].sum() == 12).all()
    assert np.allclose(table["share"], table["images"] / 12)


def test_saturated_units_are_in_their_highest_range(root: Path) -> None:
    own = with_last(nn.Hardtanh(0, 6))  # nearly all positions are at 0 or at 6
    found = describe(root, own=own, ranges=COUNT)
    saturated = found.descriptions["unit_flags"].map(lambda flags: "saturated" in flags)
    table = found.meanings[found.meanings["unit"].isin(saturated.to_numpy().nonzero()[0])]
    highest = table[table["meaning"] == 1]
    assert len(highest) == saturated.sum() > 0
    assert (highest["upper"] == 6).all() and (highest["images"] > 0).all()
    assert (table["lower"] > 0).all()


class SomeUnits(nn.Module):
    """Unit 1 is dead, unit 2 has two positive activations, unit 3 one."""

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps.clone()
        maps[:, 1] = 3
        maps[:, 2] = (maps[:, 2] > 0) + 2.0 * (maps[:, 2] > 40)
        maps[:, 3] = (maps[:, 3] > 0).float()
        return maps


def test_dead_units_have_no_range_and_others_no_more_than_they_have_activations(
    root: Path,
) -> None:
    table = meanings(root, own=with_last(SomeUnits()))
    assert table.groupby("unit").size().to_dict() == {0: 3, 2: 2, 3: 1, 4: 3, 5: 3}
    few = table[table["unit"].isin([2, 3])]
    assert few["lower"].tolist() == few["upper"].tolist() == [3, 1, 1]
    own = target("pool")
    with torch.no_grad():
        own.model.conv.weight[:] = 0
    assert meanings(root, own=own).empty


def test_latents_fire_in_their_ranges_alone(root: Path) -> None:
    own = target("pool")
    table = meanings(root, own=replace(own, saes={"pool": random_sae(6, 20, k=4)}))
    assert (table["lower"] > 0).all() and table["unit"].max() < 20
    assert (table["images"] > 0).any() and table["similarity"].max() > 0


def test_little_memory_takes_more_passes_and_gives_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, blocks = [], []
    run, together = ranges_of_masks.activation_maps, ranges_of_masks._together
    monkeypatch.setattr(ranges_of_masks, "activation_maps", lambda *a: passes.append(1) or run(*a))
    monkeypatch.setattr(ranges_of_masks, "_together", lambda *a: blocks.append(1) or together(*a))
    whole = meanings(root, "pool", name="compositional")
    assert (len(passes), len(blocks)) == (1, 1)
    # Half of it is for the maps of two units at 192 positions.
    some = meanings(root, "pool", name="compositional", memory=2 * 2 * 4 * 192 / 1e9)
    assert len(passes) == 1 + 3 and len(blocks) > 5
    pd.testing.assert_frame_equal(some, whole)


def test_batches_and_plain_loops_make_no_difference(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = meanings(root, "pool", name="compositional")
    pd.testing.assert_frame_equal(meanings(root, "pool", name="compositional", batch=1), whole)
    monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    monkeypatch.setattr(ranges_of_masks, "AT_ONCE", 100)  # bytes: an image at a time
    pd.testing.assert_frame_equal(meanings(root, "pool", name="compositional"), whole)


def test_unreadable_images_count_nowhere(root: Path) -> None:
    table = meanings(root, "pool", probe_options={"limit": 11})
    (root / "images" / "a" / "11.png").write_bytes(b"no image")
    pd.testing.assert_frame_equal(meanings(root, "pool"), table)


def test_null_of_each_range(root: Path) -> None:
    table = meanings(root, "pool")
    assert table["null_similarity"].between(0, 1).all()
    assert (table["null_similarity"] != table["similarity"]).any()
    assert list(meanings(root, "pool", null=False).columns) == COLUMNS[:-1]


@pytest.mark.parametrize("ranges", [1, -1, 21])
def test_mistakes(root: Path, ranges: int) -> None:
    with pytest.raises(DissectError, match=rf"method\.ranges is {ranges}; .* 2 to 20, or null"):
        meanings(root, "pool", ranges=ranges)


@pytest.mark.parametrize(
    ("name", "model", "layer", "units"),
    [("torchvision", "resnet18", "layer1", 64), ("timm", "vit_tiny_patch16_224", "blocks.0", 192)],
)
def test_real_networks(
    root: Path, tmp_path: Path, name: str, model: str, layer: str, units: int
) -> None:
    own = targets.build(name, model=model, weights="random", layers=[layer])
    found = describe(root, own=own, ranges=5, probe_options={"limit": 2})
    table = found.meanings
    assert table["unit"].nunique() == units and set(table["meaning"]) == {1, 2, 3, 4, 5}
    assert np.allclose(table.groupby("unit")["share"].sum(), 1)
    found.save(tmp_path / "saved")
    saved = pd.read_csv(tmp_path / "saved" / "meanings.csv")
    assert list(saved.columns) == COLUMNS and len(saved) == len(table)
    unit = unit_of(load(tmp_path / "saved"), f"{table['layer'].iloc[0]}/0")
    assert len(unit.meanings) == 5 and {image.meaning for image in unit.images} == {0}


class ColoursAlone(testing.Filters):
    """Doesn't look for shapes, which takes time."""

    def _paint(self, colours: Tensor) -> Tensor:
        images, channels, height, width = colours.shape
        return colours.new_zeros(images, channels, 6, height, width)


def test_the_highest_range_of_a_colours_unit_is_the_colour(tmp_path: Path) -> None:
    scenes = probe.build(
        "synthetic_broden",
        images=40,
        size=112,
        root=str(tmp_path),
        photographs=False,
        stamps="none",
    )
    planted = testing.planted_filters(112)
    own = replace(planted.target, model=ColoursAlone(112).eval(), layers=("colours",))
    job = Job(target=own, probe=scenes, settings=Settings(device="cpu", workers=0))
    table = method.build("network_dissection", ranges=5).describe(job).meanings
    highest = table[table["meaning"] == 1].set_index("unit")
    truth = pd.Series(planted.truth["colours"])[highest.index]
    assert (highest["description"] == truth).all()
    assert (highest["similarity"] > highest["null_similarity"]).all()
