"""CoSy's scores against a double loop and scipy; activations of each text's own images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu
from tiny import COLOURS, ColourNet, preprocess
from torch import Tensor

from clipdissect import text_images
from clipdissect.capture.capture import capture
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.probe import Probe, build
from clipdissect.scores.base import Pairs
from clipdissect.scores.cosy import (
    TextImageUnion,
    capture_text_images,
    cosy_scores,
    notes_on_absent,
)
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.text_images.folder import folder


def pairs(*both: tuple[int, int]) -> Pairs:
    units, texts = zip(*both, strict=True)
    return Pairs(np.array(units), np.array(texts))


def slow(control: list[float], images: list[float]) -> tuple[float, float, float]:
    wins = sum((x < y) + (x == y) / 2 for x in control for y in images)
    std = float(np.std(control, ddof=1))
    mad = (np.mean(images) - np.mean(control)) / std if std else 0.0
    test = mannwhitneyu(control, images, method="asymptotic", alternative="two-sided")
    return wins / len(control) / len(images), float(mad), float(test.pvalue)


def test_scores_by_hand() -> None:
    control = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 6.0], [3.0, 6.0]])
    images = [torch.tensor([[1.0, 6.0], [5.0, 6.0]])]
    scores = cosy_scores(images, control, pairs((0, 0), (1, 0)))
    # Unit 0: 1 exceeds one control image and equals one, 5 exceeds all: 1.5 + 4 of 8.
    np.testing.assert_allclose(scores["cosy_auc"], [0.6875, 0.75])
    # Means 3 and 1.5, and 6 and 5.5; standard deviations sqrt(5 / 3) and sqrt(1 / 3).
    np.testing.assert_allclose(scores["cosy_mad"], [1.161895, 0.8660254], rtol=1e-6)
    # z = (5.5 - 4 - 0.5) / sqrt(8 / 12 * (7 - 6 / 30)), one pair of ties, and
    # z = (6 - 4 - 0.5) / sqrt(8 / 12 * (7 - 66 / 30)), two fives and four sixes.
    np.testing.assert_allclose(scores["cosy_p"], [0.63859, 0.40174], atol=1e-5)


@pytest.mark.parametrize("levels", [3, 12, 10_000])  # nearly all, some and hardly any ties
def test_scores_are_those_of_a_double_loop_and_scipy(levels: int) -> None:
    random = np.random.default_rng(levels)
    control = torch.from_numpy(random.integers(0, levels, (41, 6)).astype(np.float32))
    sizes = (1, 7, 30, 2)
    images = [
        torch.from_numpy(random.integers(1, levels + 1, (n, 6)).astype(np.float32)) for n in sizes
    ]
    chosen = [(4, 2), (0, 1), (5, 0), (4, 1), (2, 1), (0, 3), (4, 2)]
    scores = cosy_scores(images, control, pairs(*chosen))
    expected = [
        slow(control[:, unit].tolist(), images[text][:, unit].tolist()) for unit, text in chosen
    ]
    found = np.stack([scores[name] for name in ("cosy_auc", "cosy_mad", "cosy_p")], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_constant_units_and_texts_without_images() -> None:
    control = torch.tensor([[0.1, 0.1, 0.0]]).repeat(10, 1)
    images: list[Tensor | None] = [None, torch.tensor([[0.1, 0.2, 0.0]]).repeat(3, 1)]
    scores = cosy_scores(images, control, pairs((0, 1), (1, 1), (2, 0)))
    np.testing.assert_array_equal(scores["cosy_auc"], [0.5, 1.0, np.nan])
    np.testing.assert_array_equal(scores["cosy_mad"], [0.0, 0.0, np.nan])
    assert scores["cosy_p"][0] == 1
    assert scores["cosy_p"][1] < 0.01
    assert np.isnan(scores["cosy_p"][2])


def test_one_control_image_is_too_few() -> None:
    with pytest.raises(DissectError, match="at least 2 control images; there are 1"):
        cosy_scores([torch.ones(2, 1)], torch.ones(1, 1), pairs((0, 0)))


@dataclass
class Sets:
    """A source of the test's own."""

    probes: dict[str, Probe]
    name: str = "sets"
    digest: str = "sets"
    notes: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def images_of(self, text: str) -> Probe | None:
        self.asked.append(text)
        return self.probes.get(text)


@pytest.fixture
def target() -> Target:
    return Target("colours", ColourNet().eval(), preprocess(), ("relu",))


def write(folder: Path, colours: list[tuple[int, int, int]]) -> None:
    folder.mkdir(parents=True)
    for number, colour in enumerate(colours):
        Image.new("RGB", (9, 9), colour).save(folder / f"{number:02d}.png")


def reds(count: int, least: int) -> list[tuple[int, int, int]]:
    return [(least + 9 * n, 0, 0) for n in range(count)]


@pytest.mark.parametrize("batch", [1, 4, 5, 100])
def test_each_image_has_its_own_row(tmp_path: Path, target: Target, batch: int) -> None:
    write(tmp_path / "sets" / "red", reds(7, 100))
    write(tmp_path / "sets" / "dark_red", reds(3, 20))
    write(tmp_path / "sets" / "pale red", reds(1, 200))
    texts = ["red", "nothing", "dark red", "pale red", "red"]
    settings = Settings(device="cpu", batch_size=batch, workers=0, shard=6)
    source = folder(str(tmp_path / "sets"))
    (found,) = capture_text_images(
        target, ["relu"], source, texts, settings, Store(tmp_path / "store")
    ).values()
    assert found[1] is None
    expected = {0: reds(7, 100), 2: reds(3, 20), 3: reds(1, 200), 4: reds(7, 100)}
    for text, colours in expected.items():
        values = found[text]
        assert values is not None
        np.testing.assert_allclose(values[:, 0], [r / 255 for r, _, _ in colours], atol=1e-6)
    assert notes_on_absent(source, texts, found) == (
        "CoSy is undefined for 1 of 4 texts, of which text_images=folder has no images: nothing",
    )


def test_images_of_several_texts_are_seen_once(tmp_path: Path, target: Target) -> None:
    write(tmp_path / "all", [*reds(4, 50), *COLOURS.values()])
    whole = build("folder", root=tmp_path / "all")
    source = Sets({"a": whole.subset([0, 1, 2]), "b": whole.subset([2, 0, 9]), "c": whole})
    settings = Settings(device="cpu", batch_size=3, workers=0)
    found = capture_text_images(
        target, ["relu", "head"], source, ["a", "b", "c"], settings, Store(tmp_path / "store")
    )
    assert source.asked == ["a", "b", "c"]
    a, b, c = found["head"]
    assert a is not None and b is not None and c is not None
    assert (len(a), len(b), len(c)) == (3, 3, 10)
    assert torch.equal(a, c[[0, 1, 2]])
    assert torch.equal(b, c[[2, 0, 9]])
    union = TextImageUnion.of(source, ["a", "b", "c"])
    assert len(union.probe) == 10
    assert union.numbers == ((0, 1, 2), (2, 0, 3), (0, 1, 2, 4, 5, 6, 7, 8, 9, 3))


def test_units_score_best_on_drawings_of_their_colour(tmp_path: Path, target: Target) -> None:
    plain = {"size": 32, "photographs": False, "stamps": "none"}
    source = text_images.build("rendered", images=8, **plain)
    settings, store = Settings(device="cpu", workers=0), Store(tmp_path / "store")
    texts = ["red", "green", "blue"]
    activations = capture_text_images(target, ["relu"], source, texts, settings, store)["relu"]
    scenes = build("synthetic_broden", images=20, **plain)
    control = capture(target, ["relu"], None, scenes, store, settings).activations["relu"]
    units, numbers = np.divmod(np.arange(9), 3)
    scores = cosy_scores(activations, control, Pairs(units, numbers))
    auc, mad = (scores[name].reshape(3, 3) for name in ("cosy_auc", "cosy_mad"))
    assert auc.argmax(1).tolist() == mad.argmax(1).tolist() == [0, 1, 2]
    assert auc.diagonal().min() > 0.8
    assert scores["cosy_p"].reshape(3, 3).diagonal().max() < 0.01


def test_unreadable_images_have_no_row(tmp_path: Path, target: Target) -> None:
    write(tmp_path / "sets" / "red", reds(4, 100))
    write(tmp_path / "sets" / "dark", reds(2, 10))
    (tmp_path / "sets" / "red" / "01.png").write_bytes(b"not an image")
    write(tmp_path / "sets" / "broken", reds(1, 10))
    (tmp_path / "sets" / "broken" / "00.png").write_bytes(b"not an image")
    settings = Settings(device="cpu", batch_size=2, workers=0)
    source = folder(str(tmp_path / "sets"))
    (found,) = capture_text_images(
        target, ["relu"], source, ["red", "broken", "dark"], settings, Store(tmp_path / "store")
    ).values()
    red, broken, dark = found
    assert broken is None
    assert red is not None and dark is not None
    np.testing.assert_allclose(red[:, 0] * 255, [100, 118, 127], atol=1e-3)
    np.testing.assert_allclose(dark[:, 0] * 255, [10, 19], atol=1e-3)


def test_wrong_jobs_say_what_to_do(tmp_path: Path, target: Target) -> None:
    write(tmp_path / "sets" / "red", reds(2, 100))
    source, store = folder(str(tmp_path / "sets")), Store(tmp_path / "store")
    settings = Settings(device="cpu", workers=0)
    with pytest.raises(DissectError, match=r"none of the 2 texts, such as 'zebra': name its"):
        capture_text_images(target, ["relu"], source, ["zebra", "cat"], settings, store)
    with pytest.raises(DissectError, match=r"layer relu.*set capture\.keep=full"):
        top = Settings(device="cpu", workers=0, keep="top_k")
        capture_text_images(target, ["relu"], source, ["red"], top, store)
