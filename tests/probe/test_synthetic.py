"""synthetic_broden: what is painted is what the loader of Broden's layout reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipdissect import probe
from clipdissect.errors import DissectError
from clipdissect.probe import scenes as found_sources
from clipdissect.probe import synthetic
from clipdissect.probe.scenes import (
    NAMES,
    NOISE,
    PALETTE,
    SHADE,
    SHAPES,
    TEXTURES,
    Painter,
    Sources,
    find_sources,
    name_colours,
    points,
)

SIZE = 48


@pytest.fixture
def stamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Stamps of the test's own: cats and dogs are animals, food is food."""
    for folder in ("animals/cats", "animals/dogs/cartoon", "food"):
        (tmp_path / "stamps" / folder).mkdir(parents=True)
        for n in range(4):
            picture = Image.new("RGBA", (40 + n, 30), (0, 0, 0, 0))
            picture.paste((200, 40 * n, 90, 255), (5, 5, 30, 25))
            picture.save(tmp_path / "stamps" / folder / f"{n}.png")
    monkeypatch.setattr(found_sources, "find_stamps", lambda: tmp_path / "stamps")
    return find_sources(photographs=False, which_stamps="auto")


def build(images: int = 12, **options: object) -> probe.Probe:
    values = {"size": SIZE, "photographs": False, "stamps": "none", **options}
    return probe.build("synthetic_broden", images=images, **values)


def test_masks_read_back_are_the_painted_ones(stamped: Sources) -> None:
    found = build(20, stamps="auto")
    assert found.masks is not None
    assert found.masks.categories == ("color", "object", "shape", "texture", "scene")
    painter = Painter(SIZE, 0, stamped)
    kinds = {
        "color": ("color",),
        "shape": ("shape",),
        "texture": ("texture",),
        "object": ("special", "general"),
    }
    names = {
        "color": [f"{n}-c" for n in NAMES],
        "shape": list(SHAPES),
        "texture": list(TEXTURES),
        "object": list(stamped.objects),
    }
    assert stamped.objects == ("animals", "cats", "dogs", "food")
    met = set()
    for image in range(len(found)):
        scene = painter.draw(image)
        assert (np.asarray(found.read(image)) == scene.pixels).all()
        where = found.masks.read(image).concepts()
        for number, concept in enumerate(found.masks.concepts):
            mask = where.get(number, np.zeros((SIZE, SIZE), dtype=bool))
            if concept.category == "scene":
                assert mask.all() == (concept.text == scene.scene)
                continue
            own = 1 + names[concept.category].index(concept.label)
            painted = [getattr(scene, kind) == own for kind in kinds[concept.category]]
            assert (mask == np.any(painted, axis=0)).all()
            if mask.any():
                met.add(concept.category)
    assert met == set(kinds)  # each kind was there


def test_things_hide_one_another_and_have_one_label_each(stamped: Sources) -> None:
    painter = Painter(SIZE, 3, stamped)
    scenes = [painter.draw(n) for n in range(30)]
    for scene in scenes:
        assert not ((scene.shape > 0) & (scene.special > 0)).any()  # what is hidden has no label
        assert (scene.shape[scene.texture > 0] > 0).all()  # textures are of shapes
        assert ((scene.special > 0) == (scene.general > 0)).all()
        assert (scene.color > 0).all()
    assert sum(len(np.unique(scene.shape)) > 2 for scene in scenes) > 5  # several a scene


def test_the_tables_are_brodens() -> None:
    found = build(10)
    root = found.path(0).parents[1]  # type: ignore[union-attr]
    index = pd.read_csv(root / "index.csv")
    assert list(index.columns) == [
        "image",
        "split",
        "ih",
        "iw",
        "sh",
        "sw",
        "color",
        "shape",
        "texture",
        "scene",
    ]
    assert (index[["ih", "iw", "sh", "sw"]] == SIZE).all(axis=None)
    labels = pd.read_csv(root / "label.csv", keep_default_na=False)
    assert labels["number"].tolist() == list(range(len(labels)))
    categories = pd.read_csv(root / "category.csv")
    for _, row in categories.iterrows():
        own = pd.read_csv(root / f"c_{row['name']}.csv")
        assert own["number"].tolist() == list(range(row["first"], row["last"] + 1))
        assert own["code"].tolist() == list(range(1, row["count"] + 1))
    assert found.masks is not None
    shown = np.zeros(len(found.masks.concepts))
    pixels = np.zeros(len(found.masks.concepts))
    for image in range(10):
        for number, mask in found.masks.read(image).concepts().items():
            shown[number] += 1
            pixels[number] += mask.mean()
    assert labels["frequency"].tolist()[1:] == shown.tolist()
    assert labels["coverage"].to_numpy()[1:] == pytest.approx(pixels, abs=1e-6)
    assert found.labels is not None and set(found.labels) == {"plain"}


def test_a_seed_draws_the_same_anywhere_and_a_larger_set_goes_on(tmp_path: Path) -> None:
    one, other = build(6), build(6, root=str(tmp_path / "elsewhere"))
    assert one.digest == other.digest  # by content
    more = build(9)
    assert [np.asarray(more.read(i)).tobytes() for i in range(6)] == [
        np.asarray(one.read(i)).tobytes() for i in range(6)
    ]
    assert build(6, seed=1).digest != one.digest
    assert build(6, sample=3, sample_seed=2).images != build(6, sample=3, sample_seed=5).images


def test_it_is_written_once_and_whole(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(synthetic, "_write_scene", fails)
        with pytest.raises(DissectError, match="No space left"):
            build(4)
    base = own_cache / "synthetic_broden"
    assert [p for p in base.iterdir() if p.is_dir()] == []
    build(4)
    folder = next(p for p in base.iterdir() if p.is_dir())
    monkeypatch.setattr(synthetic, "_write_scene", fails)
    assert build(4).path(0).parents[1] == folder  # type: ignore[union-attr]


@pytest.mark.parametrize("shift", [-SHADE - NOISE, 0, SHADE + NOISE])
def test_painted_colours_are_called_by_their_names(shift: int) -> None:
    pixels = np.array([PALETTE[name] for name in NAMES]) + shift
    found = name_colours(pixels.clip(0, 255).astype(np.uint8)[None])
    assert [NAMES[n] for n in found[0]] == list(NAMES)


def test_shapes_and_textures_as_they_are_known() -> None:
    grid = points(200, 100, 100, 100)
    areas = {name: float(inside(*grid).mean()) * 4 for name, inside in SHAPES.items()}
    assert areas["circle"] == pytest.approx(np.pi * 0.81, rel=0.02)
    assert areas["square"] == pytest.approx(1.4**2, rel=0.02)
    assert areas["triangle"] == pytest.approx(1.5 * 3**0.5 / 2, rel=0.02)
    assert areas["ring"] == pytest.approx(np.pi * 0.64, rel=0.02)
    assert areas["cross"] == pytest.approx(2 * 2 * 0.5 - 0.25, rel=0.02)
    star = np.sin(np.pi / 5) * 0.42 * 5  # ten triangles between a tip and a dent
    assert areas["star"] == pytest.approx(star, rel=0.02)
    halves = {
        "striped": 0.5,
        "chequered": 0.5,
        "polka-dotted": np.pi * 0.09,
        "grid": 0.4375,
        "zigzagged": 0.5,
    }
    periods = points(200, 100, 100, 20)
    for name, share in halves.items():
        assert float(TEXTURES[name](*periods).mean()) == pytest.approx(share, abs=0.03), name


def test_photographs_are_backgrounds() -> None:
    pytest.importorskip("skimage", reason="needs the extra `offline`")
    found = build(8, photographs=True)
    assert found.labels is not None
    assert len(set(found.labels)) > 2 and "coffee" in {
        c.text
        for c in found.masks.concepts  # type: ignore[union-attr]
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": 0}, r"probe\.images is 0; it must be at least 1"),
        ({"size": 8}, r"probe\.size is 8; it must be 16 to 1024"),
        ({"seed": -1}, r"probe\.seed is -1; it must be at least 0"),
        ({"stamps": "all"}, r"probe\.stamps is 'all'"),
        ({"limit": 0}, r"probe\.limit"),
    ],
)
def test_mistakes(options: dict[str, object], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        build(**{"images": 3, **options})  # type: ignore[arg-type]


def test_the_library_offers_it() -> None:
    assert probe.OPTIONS["synthetic_broden"] is synthetic.synthetic_broden
    assert synthetic.SceneSettings and synthetic.write_once
