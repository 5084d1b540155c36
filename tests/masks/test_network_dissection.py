"""Network Dissection, held to the same thing done slowly in exact fractions."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from dense import LABELS, SIZES, fired, iou_of, maps_of, read_plainly, target, write_dense
from PIL import Image
from torch import nn

from clipdissect import method, probe
from clipdissect.capture.maps import map_readings
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.evaluation import ClassLabels, Resampling, evaluate
from clipdissect.masks import ConceptMasks, concept_masks, crop, layers, regions, without_crop
from clipdissect.method import Job, masked
from clipdissect.results.flags import has_flag
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.targets.preprocess import image_transform

SHARE = 0.1


def describe(
    root: Path,
    *layers: str,
    name: str = "network_dissection",
    probe_options: Any = None,
    store: Store | None = None,
    batch: int = 5,
    own: Target | None = None,
    truth: Any = None,
    images: Any = None,
    null: bool = True,
    **options: Any,
) -> Any:
    images = images or probe.build("broden", root=str(root), **(probe_options or {}))
    job = Job(
        target=own or target(*layers),
        probe=images,
        store=store,
        images=3,
        settings=Settings(device="cpu", workers=0, batch_size=batch),
        truth=truth or {},
        null=null,
    )
    return method.build(name, **{"quantile": SHARE, **options}).describe(job)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dense(tmp_path / "set")
    return tmp_path / "set"


def sizes_of(root: Path, count: int) -> list[tuple[int, int]]:
    return [SIZES[i % 2] for i in range(count)]


def text(label: str) -> str:
    return label.removesuffix("-s")


def test_every_count_is_the_plain_ones(root: Path) -> None:
    images, shown, annotated = read_plainly(root)
    units = fired(maps_of(root, images), sizes_of(root, len(images)), str(SHARE))
    table = describe(root, "pool").descriptions
    assert list(table["unit"]) == list(range(6))
    for unit, own in enumerate(units):
        row = table.iloc[unit]
        best: dict[str, tuple[Fraction, str]] = {}
        for category, labels in LABELS.items():
            counted = annotated[category]
            scores = [iou_of(own, shown[category, n], counted) for n in labels]
            value = max(scores)
            label = labels[scores.index(value)]
            best[category] = value, label
            assert row[f"{category}-iou"] == float(value)  # of the same whole numbers
            assert row[f"{category}-label"] == (label if value else "")
            masks = shown[category, label]
            assert row[f"{category}-truth"] == sum(int(m.sum()) for m in masks)
            here = [m for m, c in zip(own, counted, strict=True) if c]
            assert row[f"{category}-activation"] == sum(int(m.sum()) for m in here)
            both = sum(int((a & b).sum()) for a, b in zip(own, masks, strict=True))
            assert row[f"{category}-intersect"] == both
        score = max(value for value, _ in best.values())
        category = next(c for c in LABELS if best[c][0] == score)
        assert (row["category"], row["label"]) == (category, best[category][1])
        assert row["similarity"] == row["score"] == float(score)
        assert row["description"] == text(best[category][1])
        assert row["detector"] == (score > Fraction("0.04"))


def test_runners_up_are_in_order(root: Path) -> None:
    table = describe(root, "pool").descriptions
    scores = table[["similarity", *(f"similarity_{n}" for n in range(2, 6))]].to_numpy()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.allclose(table["margin"], scores[:, 0] - scores[:, 1])


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_batches_make_no_difference(root: Path, batch: int) -> None:
    one = describe(root, "pool", "conv", batch=batch)
    other = describe(root, "pool", "conv", batch=7)
    pd.testing.assert_frame_equal(one.descriptions, other.descriptions)
    pd.testing.assert_frame_equal(one.top_images, other.top_images)


def test_plain_loops_give_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = describe(root, "pool").descriptions
    monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    pd.testing.assert_frame_equal(describe(root, "pool").descriptions, compiled)


def test_a_vector_fires_on_whole_images(tmp_path: Path) -> None:
    write_dense(tmp_path, images=20, one_size=True)
    images, shown, annotated = read_plainly(tmp_path)
    maps = [m.reshape(-1, 1, 1) for m in maps_of(tmp_path, images)]
    units = fired(maps, [SIZES[0]] * 20, str(SHARE))
    table = describe(tmp_path, "head").descriptions
    assert len(table) == 6 * 16
    assert sum(int(m.sum()) for m in units[0]) == 2 * 64  # a tenth of 20 images, whole
    for unit in range(0, 96, 13):
        scores = {
            (c, n): iou_of(units[unit], shown[c, n], annotated[c])
            for c, labels in LABELS.items()
            for n in labels
        }
        assert table["similarity"][unit] == float(max(scores.values()))


def test_the_store_serves_it_again_and_serves_the_other_method(root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = describe(root, "pool", "conv", store=store)
    assert first.run["computed"] == [
        "levels of pool",
        "levels of conv",
        "masks of pool",
        "masks of conv",
    ]
    again = describe(root, "pool", "conv", store=store)
    other = describe(root, "conv", name="compositional", store=store)
    assert again.run["computed"] == other.run["computed"] == []
    pd.testing.assert_frame_equal(first.descriptions, again.descriptions)
    assert describe(root, "pool", store=store, quantile=0.2).run["computed"]


def test_little_memory_takes_more_passes_and_gives_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = describe(root, "head").descriptions
    monkeypatch.setattr(layers, "GROUP", 40)
    result = describe(root, "head", memory=40 * 2.5 * 16 * SHARE * 1152 / 8 / 1e9 * 2.5)
    assert result.run["computed"] == ["levels of head", "masks of head", "masks of head"]
    pd.testing.assert_frame_equal(result.descriptions, whole)


def test_a_unit_that_never_varies_is_dead(root: Path) -> None:
    own = target("pool")
    with torch.no_grad():
        own.model.conv.weight[2] = 0
    table = describe(root, own=own).descriptions
    assert list(table["unit_flags"][[1, 2]]) == [(), ("dead",)]
    assert table["description"][2] == "" and pd.isna(table["similarity"][2])
    assert not table["detector"][2]


def test_unreadable_images_count_nowhere(root: Path, tmp_path: Path) -> None:
    table = describe(root, "pool", probe_options={"limit": 11})
    (root / "images" / "a" / "11.png").write_bytes(b"no image")
    found = describe(root, "pool")
    pd.testing.assert_frame_equal(found.descriptions, table.descriptions)
    assert list(found.run["probe"]["skipped"]) == ["a/11.png"]
    assert found.run["probe"]["used"] == 11
    with pytest.raises(DissectError, match=r"can.t read a/11\.png"):
        describe(root, "pool", probe_options={"on_error": "raise"})


@pytest.mark.parametrize("name", ["network_dissection", "compositional"])
def test_an_image_that_fails_in_passing_is_missing_in_this_run_alone(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    whole = describe(root, "pool", name=name)
    some = describe(root, "pool", name=name, probe_options={"limit": 11})
    images, store = probe.build("broden", root=str(root)), Store(tmp_path / "store")
    file = root / "images" / "a" / "11.png"
    file.rename(tmp_path / "away.png")
    for _ in range(2):
        caplog.clear()
        found = describe(root, "pool", name=name, images=images, store=store)
        pd.testing.assert_frame_equal(found.descriptions, some.descriptions)
        pd.testing.assert_frame_equal(found.top_images, some.top_images)
        assert list(found.run["probe"]["skipped"]) == ["a/11.png"]
        assert "1 of 12 images can't be read and are left out, such as a/11.png" in caplog.text
    (tmp_path / "away.png").rename(file)
    again = describe(root, "pool", name=name, images=images, store=store)
    pd.testing.assert_frame_equal(again.descriptions, whole.descriptions)
    assert again.run["computed"] == ["levels of pool", "masks of pool"]


def test_an_image_that_was_there_for_earlier_levels_is_named(root: Path, tmp_path: Path) -> None:
    images, store = probe.build("broden", root=str(root)), Store(tmp_path / "store")
    describe(root, "pool", images=images, store=store)
    (root / "images" / "a" / "11.png").rename(tmp_path / "away.png")
    with pytest.raises(DissectError, match=r"a/11\.png can't be read now .* when layer pool was"):
        describe(root, "pool", "conv", images=images, store=store)
    for folder in (store.root / key[:2] / key for key in _keys_of(store, "unit masks of pool")):
        shutil.rmtree(folder)
    with pytest.raises(DissectError, match=r"a/11\.png can't be read now .* when layer pool was"):
        describe(root, "pool", images=images, store=store)
    (tmp_path / "away.png").rename(root / "images" / "a" / "11.png")
    both = describe(root, "pool", "conv", images=images, store=store)
    pd.testing.assert_frame_equal(both.descriptions, describe(root, "pool", "conv").descriptions)


def _keys_of(store: Store, what: str) -> list[str]:
    abouts = {
        path.parent.name: json.loads(path.read_text())["what"]
        for path in store.root.rglob("about.json")
    }
    return [key for key, own in abouts.items() if own == what]


def test_some_categories_alone(root: Path) -> None:
    whole, some = describe(root, "pool"), describe(root, "pool", categories=["part"])
    assert set(some.descriptions["category"]) == {"part"}
    assert list(some.descriptions["score"]) == list(whole.descriptions["part-iou"])
    assert not any("color" in str(column) for column in some.descriptions)


def test_top_images_have_the_largest_peaks(root: Path) -> None:
    images, _, _ = read_plainly(root)
    peaks = [m.max((1, 2)) for m in maps_of(root, images)]
    table = describe(root, "pool").top_images
    for unit in range(6):
        order = sorted(range(len(images)), key=lambda i: (-peaks[i][unit], i))[:3]
        assert list(table[table["unit"] == unit]["image"]) == [images[i] for i in order]


def test_ranks_of_the_right_labels(root: Path) -> None:
    truth = {"pool": ["coast", "door", "nothing", "sky", "red-c", "leg"]}
    table = describe(root, "pool", truth=truth).descriptions
    shown = {f"description_{n}" if n > 1 else "description" for n in range(1, 6)}
    for unit, right in enumerate(truth["pool"]):
        listed = table.loc[unit, sorted(shown)].tolist()
        if right == "nothing":
            assert pd.isna(table["truth_rank"][unit])
        elif right in listed:
            assert table["truth_rank"][unit] == 1 + listed.index(right)
    with pytest.raises(DissectError, match="6 units, but 1 right"):
        describe(root, "pool", truth={"pool": ["x"]})


@pytest.mark.parametrize("name", ["network_dissection", "compositional"])
def test_dead_units_have_no_rank(root: Path, name: str) -> None:
    own = target("pool")
    network = nn.Sequential()
    network.add_module("first", nn.Sequential(own.model.conv, own.model.pool))
    network.add_module("some", _SomeUnits())
    some = replace(own, model=network, layers=("some",))
    table = describe(root, name=name, own=some, truth={"some": ["sky"] * 6}).descriptions
    assert table["truth_rank"].isna().tolist() == [False] * 2 + [True] * 4
    assert (table["description"] == "").tolist() == [False] * 2 + [True] * 4


class _SomeUnits(nn.Module):
    """All units but two are dead."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([maps[:, :2], torch.zeros_like(maps[:, 2:])], dim=1)


@pytest.mark.parametrize("name", ["network_dissection", "compositional"])
def test_the_vocabulary_is_the_masks(root: Path, name: str) -> None:
    found = describe(root, "pool", name=name)
    labels = {text(label) for own in LABELS.values() for label in own}
    assert found.vocabulary is not None
    assert {label.removesuffix("-c") for label in found.vocabulary.texts} == {
        label.removesuffix("-c") for label in labels
    }
    assert found.run["concepts"]["texts"] == len(found.vocabulary)
    # Not all of it is a label that was given, but it all could have been.
    truth, texts = ClassLabels("t", ("door",) * 6), found.vocabulary.texts
    final = evaluate(found.descriptions, truth, texts, {}, None, Resampling(100)).metrics
    assert final["final_layer"]["concepts"] == len(found.vocabulary)
    assert final["controls"]["best_constant"]["top1"] == 1.0


def test_equal_ious_share_the_middle_rank() -> None:
    # Texts and IoUs: a 0.5 (twice: 0.1), b 0, c 0, d 0.25; of equal ones, ranks 3 and 4 are shared.
    texts = ["a", "b", "c", "d", "a"]
    scores = np.array([[0.1, 0.0, 0.0, 0.25, 0.5]] * 6)
    found = masked.ranks_among(scores, texts, ["a", "b", "c", "d", "x", "a"])
    assert found[:4] + found[5:] == [1.0, 3.5, 3.5, 2.0, 1.0]
    assert np.isnan(found[4])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"view": "half"}, r"method\.view is 'half'"),
        ({"quantile": 0}, r"method\.quantile"),
        ({"detector": 2}, r"method\.detector"),
        ({"memory": 0}, r"method\.memory"),
        ({"categories": ["colour"]}, r"method\.categories.*Did you mean color"),
    ],
)
def test_mistakes(root: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        describe(root, "pool", **options)


def test_it_needs_masks_and_finite_maps(root: Path) -> None:
    images = probe.build("folder", root=str(root / "images"))
    how = method.build("network_dissection")
    with pytest.raises(DissectError, match=r"has no pixel masks.*synthetic_broden"):
        how.describe(Job(target=target("pool"), probe=images))
    own = target("pool")
    with torch.no_grad():
        own.model.conv.weight[4] = torch.inf
    with pytest.raises(DissectError, match=r"layer pool, unit 4.*a/00\.png.*finite"):
        describe(root, own=own)


class TestView:
    """The whole image reaches the network."""

    picture = Image.fromarray(
        np.add.outer(np.arange(40), np.arange(64)).astype(np.uint8)[..., None].repeat(3, 2)
    )

    def test_a_crop_is_taken_out(self) -> None:
        whole, notes = without_crop(image_transform(16))
        assert notes == ()
        seen = whole(self.picture)
        assert seen.shape == (3, 16, 16)
        cropped = image_transform(16)(self.picture)
        assert seen[0].min() < cropped[0].min() and seen[0].max() > cropped[0].max()

    def test_torchvisions_presets_too(self) -> None:
        from torchvision.transforms._presets import ImageClassification

        whole, notes = without_crop(ImageClassification(crop_size=16, resize_size=24))
        seen = whole(self.picture)
        assert notes == () and seen.shape == (3, 16, 16)
        by_hand = image_transform(16, resize=[16, 16])(self.picture)
        assert (seen - by_hand).abs().max() < 0.05

    def test_what_does_not_crop_stays_and_what_is_unknown_is_noted(self) -> None:
        from torchvision import transforms

        plain = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])
        assert without_crop(plain) == (plain, ())
        own = lambda image: image  # noqa: E731
        assert without_crop(own) == (own, (crop.UNKNOWN,))

    def test_the_targets_own_view_is_noted(self, root: Path) -> None:
        own = Target("crop", nn.Conv2d(3, 2, 1), image_transform(4), ("",))
        how = method.build("network_dissection", view="target")
        assert how._with_view(own) == (own, (crop.CROPPED,))
        how = method.build("network_dissection")
        seen, notes = how._with_view(own)
        assert notes == () and seen.preprocess is not own.preprocess


def test_what_the_published_files_have(root: Path) -> None:
    table = describe(root, "pool").descriptions
    ours = ["layer", "unit", "description", "similarity"]
    assert list(table.columns[:4]) == ours
    theirs = [c for c in table if re.fullmatch(r"category|label|score|(\w+)-(\w+)", str(c))]
    per_category = ("label", "truth", "activation", "intersect", "iou")
    assert theirs == [
        "category",
        "label",
        "score",
        *(f"{category}-{name}" for category in LABELS for name in per_category),
    ]


class Capped(nn.Module):
    """A network whose `cap` is a ReLU6, and its input scaled so that many positions reach it."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain, self.cap = plain, nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cap(40 * self.plain(x))


def test_saturated_units_get_labels_and_regions(root: Path) -> None:
    own = target("pool")
    own = replace(own, model=Capped(own.model.conv), layers=("cap",))
    result = describe(root, own=own)
    table = result.descriptions
    saturated, dead = has_flag(table, "saturated"), has_flag(table, "dead")
    assert saturated.sum() > 2 and dead.sum() == 1  # one is at its cap everywhere
    assert ((table["description"] != "") == ~dead).all()
    assert set(table["threshold"][saturated]) == {6.0}
    images = probe.build("broden", root=str(root))
    settings = Settings(device="cpu", workers=0)
    top = result.top_images[result.top_images["rank"] == 1]
    assert result.target is not None
    found = regions.find_regions(result.target, images, settings, top, 99, None)["cap"]
    for thresholds in (found.thresholds, result.thresholds["cap"]):  # its own, and the method's
        maps, above = replace(found, thresholds=thresholds).as_firing()
        assert ((maps.max((1, 2, 3)) > above) == ~dead).all()


def test_detectors_fire_in_more_than_one_image(root: Path) -> None:
    table = describe(root, "pool", detector=0.0).descriptions
    most = int(table["firing_images"].max())
    assert (table["firing_images"] >= 1).all() and table["detector"].all()
    few = describe(root, "pool", detector=0.0, least_images=most + 1).descriptions
    assert not few["detector"].any()
    pd.testing.assert_series_equal(few["similarity"], table["similarity"])
    with pytest.raises(DissectError, match=r"method\.least_images is 0"):
        describe(root, "pool", least_images=0)


def test_the_null_is_with_the_masks_of_other_images(root: Path) -> None:
    table = describe(root, "pool").descriptions
    none = describe(root, "pool", null=False).descriptions
    pd.testing.assert_frame_equal(table.drop(columns="null_similarity"), none)
    assert table["null_similarity"].between(0, 1).all()
    assert (table["null_similarity"] != table["similarity"]).any()


def test_shuffled_masks_are_whole_images_of_one_size(root: Path) -> None:
    images = probe.build("broden", root=str(root))
    assert images.masks is not None
    own = concept_masks(images.masks, Store(root / "store"))
    other = own.shuffled(range(len(own.annotated)), 0)
    assert (other.pixels == own.pixels).all()
    assert sorted(other.annotated) == sorted(own.annotated)
    assert not np.array_equal(other.entries.rows, own.entries.rows)
    starts = own.layout.starts

    def of_image(masks: ConceptMasks, image: int) -> tuple[Any, ...]:
        rows = masks.entries.rows[starts[image] : starts[image + 1] + 1]
        part = slice(rows[0], rows[-1])
        return (
            SIZES[image % 2],
            masks.annotated[image],
            tuple(rows - rows[0]),
            tuple(masks.entries.concept[part]),
            tuple(masks.entries.bits[part]),
        )

    count = len(own.annotated)
    assert {of_image(own, i) for i in range(count)} == {of_image(other, i) for i in range(count)}


def test_a_layer_is_tried_out_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def counted(target: Target, layers: Any, settings: Settings) -> Any:
        tried.extend(layers)
        return map_readings(target, layers, settings)

    monkeypatch.setattr(layers, "map_readings", counted)
    describe(root, "pool", "conv")  # passes for randomness, levels and masks
    assert sorted(tried) == ["conv", "pool"]
