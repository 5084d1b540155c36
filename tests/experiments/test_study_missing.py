"""Missing concepts on tiny stand-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from study_runs import Study, class_folders, facts, no_images, tiny_target
from study_runs import study as study  # the fixture

from clipdissect import probe
from clipdissect.concepts import of_list
from clipdissect.datasets.wordnet import packaged
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.studies import build
from clipdissect.studies.missing_concepts import absence
from experiments import missing_concepts as runner

# Units red, green, blue, and one that never varies.
NAMES = (
    "Chihuahua",
    "tench, Tinca tinca",
    "Siamese cat, Siamese",
    "brambling, Fringilla montifringilla",
)
COLOURS = {
    NAMES[0]: (255, 0, 0),
    NAMES[1]: (0, 255, 0),
    NAMES[2]: (0, 0, 255),
    NAMES[3]: (255, 255, 0),
    "orange, one": (255, 120, 0),
}
FOLDERS = {
    "n02085620": (255, 0, 0),
    "n01440764": (0, 255, 0),
    "n02123597": (0, 0, 255),
    "n07747607": (255, 120, 0),
}


@pytest.fixture
def images(tmp_path: Path) -> Probe:
    """Two images a class: a dog, a fish, a cat and an orange, in their colours."""
    return class_folders(tmp_path / "images", FOLDERS)


def run(study: Study, images: Probe, *overrides: str) -> Path:
    return study(
        runner,
        tiny_target(NAMES),
        "study.groups=[dog.n.01]",
        "+profile.top_k=2",
        *overrides,
        colours=COLOURS,
        probe=images,
        concepts=of_list([*NAMES[:3], "orange, one"]),
    )


def test_group_is_taken_out_and_compared(study: Study, images: Probe) -> None:
    folder = run(study, images, "study.exclude_from_probe=true")
    found = facts(folder)["missing_concepts"]["dog.n.01"]
    assert (found["images"], found["left_out"], found["units"]) == (6, 2, 1)
    assert found["absence"] == "shown by the labels of all images"
    # Without red images the red unit is most active on orange ones, which are "orange, one".
    assert found["missing"]["top1"] == 0.0
    assert found["present"]["top1"] == 1.0
    minus = found["minus_present"]["top1"]
    assert (minus["value"], minus["low"], minus["units"]) == (-1.0, -1.0, 1)
    assert minus["high"] > 0  # one unit shows nothing
    assert found["missing"]["in_group_any_synonym"]["value"] == 0.0
    controls = found["controls"]
    assert controls["best_constant"]["top1"] == 1.0
    assert controls["best_constant"]["labels"]["in_group"] == "Chihuahua"
    inside = {name: one["in_group"]["value"] for name, one in controls.items()}
    assert inside == {"best_constant": 1.0, "random": 0.25, "random_in_group": 1.0}
    table = pd.read_csv(folder / "missing_concepts.csv", keep_default_na=False)
    assert list(table["description"]) == ["orange, one", "Chihuahua"]
    assert list(table["setting"]) == ["missing", "present"]
    for name in ("missing_concepts", "panels_dog.n.01"):
        for ending in ("png", "pdf"):
            assert (folder / f"{name}.{ending}").stat().st_size > 1000
    assert facts(folder, "run")["study"]["groups"] == ["dog.n.01"]


def test_group_whose_names_are_no_concepts(study: Study, images: Probe) -> None:
    folder = study(
        runner,
        tiny_target(NAMES),
        "study.groups=[dog.n.01]",
        "+profile.top_k=2",
        "study.exclude_from_probe=true",
        colours=COLOURS,
        probe=images,
        concepts=of_list([*NAMES[1:3], "orange, one"]),
    )
    found = facts(folder)["missing_concepts"]["dog.n.01"]
    controls = found["controls"]
    for one in (found["missing"], found["present"], *controls.values()):
        assert one["top1"] is None
        assert one["top1_reason"] == "no class name is among the concepts"
        assert one["in_group"]["value"] == 0.0
    assert controls["best_constant"]["labels"].keys() == {"mpnet_cos"}
    assert found["missing"]["mpnet_cos"] is not None
    assert "right" not in pd.read_csv(folder / "missing_concepts.csv")


def test_probe_that_shows_the_group_is_refused(study: Study, images: Probe) -> None:
    with pytest.raises(DissectError, match=r"2 images of probe images show dog.n.01"):
        run(study, images)


def test_unlabelled_probe_shows_nothing(study: Study, images: Probe) -> None:
    plain = probe.build("folder", root=str(images.path(0).parents[1]))  # type: ignore[union-attr]
    with pytest.raises(DissectError, match="needs a labelled probe"):
        run(study, plain, "study.exclude_from_probe=true")
    found = facts(run(study, plain, "study.panels=0"))["missing_concepts"]["dog.n.01"]
    assert found["absence"] == "not shown: 8 images have no label"
    assert "present" not in found


def test_papers_preset_runs(study: Study, images: Probe) -> None:
    cats = images.subset([0, 1, 4, 5])
    folder = study(
        runner,
        tiny_target(NAMES),
        "experiment=missing_concepts",
        "similarity.top_k=2",
        colours=COLOURS,
        probe=cats,
        concepts=of_list(NAMES),
    )
    found = facts(folder)["missing_concepts"]
    assert list(found) == ["dog.n.01", "bird.n.01"]
    assert found["bird.n.01"]["missing"]["top1"] == 0.0  # its unit is dead


def test_method_and_settings_are_checked(study: Study, images: Probe) -> None:
    with pytest.raises(DissectError, match="makes its own labels"):
        run(study, images, "method=published_milan", "method.path=x.csv")
    with pytest.raises(DissectError, match=r"study\.panels.*at least 0"):
        build("missing_concepts", groups=["dog.n.01"], panels=-1)
    with pytest.raises(DissectError, match="unknown synset"):
        run(study, images, "study.groups=[dogs]")
    with pytest.raises(DissectError, match=r"none of the 4 classes of tiny is a fungus\.n\.01"):
        run(study, images, "study.groups=[fungus.n.01]")


def test_labels_of_unknown_meaning_are_told() -> None:
    picture = Image.new("RGB", (2, 2))
    some = Probe.of("p", ["a", "b", "c"], lambda i: picture, "abc", labels=("wolf", "quux", None))
    found = absence(some, some.images, "dog.n.01", packaged())
    assert found.verdict == "not shown: 1 images have no label; 1 labels aren't known (quux)"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["study.groups=[dgo.n.01]"], r"unknown synset 'dgo\.n\.01'.*dog\.n\.01"),
        (["study.groups=[fungus.n.01]"], "none of the 4 classes"),
        ([], "2 images of probe images"),
        (["study.exclude_from_probe=true", "probe=plain"], "needs a labelled probe"),
        (["study.exclude_from_probe=true", "similarity.top_k=7"], "only 6 images are available"),
        (["study.exclude_from_probe=true", "capture.keep=top_k"], "use capture.keep=full"),
    ],
)
def test_mistakes_are_told_before_any_image(
    overrides: list[str], says: str, study: Study, images: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipdissect.studies.features.capture_features", no_images)
    plain = "probe=plain" in overrides
    with pytest.raises(DissectError, match=says):
        study(
            runner,
            tiny_target(NAMES),
            "study.groups=[dog.n.01]",
            "similarity.top_k=2",
            *(text for text in overrides if text != "probe=plain"),
            colours=COLOURS,
            probe=replace(images, labels=None) if plain else images,
            concepts=of_list(NAMES[:3]),
        )
