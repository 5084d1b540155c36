"""Classes from descriptions, by hand and on tiny stand-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_runs import Study, class_folders, facts, no_images, tiny_target
from study_runs import study as study  # the fixture

from clipdissect.concepts import of_list
from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling
from clipdissect.probe import Probe
from clipdissect.studies import build
from clipdissect.studies.class_from_descriptions import (
    label_numbers,
    largest_contributions,
    measured,
)
from experiments import class_from_descriptions as runner

NAMES = ("red", "green", "tench, Tinca tinca", "x")
FOLDERS = {"red": (255, 0, 0), "green": (0, 255, 0), "n01440764": (0, 0, 255), "odd": (9, 9, 9)}


def test_unit_behind_a_prediction() -> None:
    weights = np.array([[1.0, 2.0, 9.0], [-1.0, 0.5, 9.0]])
    q = np.array([[3.0, 1.0, 1.0], [3.0, 1.0, 1.0]])
    found = largest_contributions(weights, q, np.array([0, 1]), np.array([0, 1]))
    assert found.tolist() == [0, 1]  # 3 against 2; -3 against 0.5; the third isn't described


def test_agreement_and_controls_by_hand() -> None:
    nearest = np.array([0, 1, -1])
    found = measured(
        np.array([0, 0, 1, 1]),
        nearest,
        np.array([0, 1, 1, 1]),
        np.array([0, 0, 1, 0]),
        build("class_from_descriptions", shuffles=200),
        Resampling(resamples=100),
    )
    assert found["truth"]["value"] == found["prediction"]["value"] == 0.75
    # Shuffled, the two descriptions stay or change places: 0.75 or 0.25.
    shuffled = found["controls"]["truth"]["shuffled"]
    assert shuffled["mean"] == pytest.approx(0.5, abs=0.1)
    assert shuffled["most"] == 0.75
    assert found["controls"]["truth"]["best_constant"] == 0.75


@pytest.fixture
def images(tmp_path: Path) -> Probe:
    return class_folders(tmp_path / "images", FOLDERS)


def run(study: Study, images: Probe, *overrides: str) -> Path:
    return study(
        runner,
        tiny_target(NAMES, ["relu"]),
        "study.layer=relu",
        "study.into=head",
        "similarity.top_k=2",
        *overrides,
        probe=images,
        concepts=of_list(["red", "green", "blue", "cyan"]),
        colours={NAMES[2]: (0, 0, 255)},
    )


def test_papers_preset_runs(study: Study, images: Probe) -> None:
    folder = run(study, images, "experiment=class_from_descriptions")
    found = facts(folder)["class_from_descriptions"]
    assert found["images"] == 6  # "odd" is no class
    assert found["accuracy"] == 1.0
    assert found["mpnet"]["truth"]["value"] == found["mpnet"]["prediction"]["value"] == 1.0
    table = pd.read_csv(folder / "class_from_descriptions.csv", keep_default_na=False)
    labels = {"red": "red", "green": "green", NAMES[2]: "blue"}
    assert list(table["description"]) == [labels[truth] for truth in table["truth"]]
    for name in ("class_from_descriptions", "panels"):
        assert (folder / f"{name}.png").stat().st_size > 1000


def test_published_labels_are_judged_alike(study: Study, images: Probe, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("layer,unit,description\nrelu,0,green\nrelu,1,green\nrelu,2,blue\nrelu,3,red\n")
    folder = run(
        study, images, "method=published_milan", "method.layers=[relu]", f"method.path={path}"
    )
    found = facts(folder)["class_from_descriptions"]["mpnet"]
    assert found["truth"]["value"] == pytest.approx(2 / 3)
    told = facts(folder, "run")
    assert told["method"]["path"] == str(path)
    # What made features, but not the labels, is no fact of them.
    assert not {"encoder", "concepts", "similarity"} & set(told)
    assert set(told["digests"]) == {"labels", "target", "target preprocess", "images"}
    assert (told["probe"]["name"], told["target"]["name"]) == (images.name, "tiny")
    own = facts(run(study, images), "run")
    assert {"encoder", "concepts", "similarity"} < set(own)
    assert own["truth"] == {"name": "auto", "layer": None}


def test_labels_must_be_classes(images: Probe) -> None:
    assert label_numbers(images, images.images, NAMES).tolist() == [1, 1, 2, 2, -1, -1, 0, 0]
    with pytest.raises(DissectError, match="no image of probe images has a label"):
        label_numbers(images, images.images, ("purple",))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([], "no image of probe images has a label"),
        (["capture.keep=top_k"], "use capture.keep=full"),
        (["study.shuffles=1"], "head has 4 units, but 5 class names"),
    ],
)
def test_mistakes_are_told_before_any_image(
    overrides: list[str], says: str, study: Study, images: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipdissect.studies.features.capture_features", no_images)
    names = (*NAMES, "y") if "class names" in says else NAMES
    plain = replace(images, labels=None)
    with pytest.raises(DissectError, match=says):
        study(
            runner,
            tiny_target(names, ["relu"]),
            "study.layer=relu",
            "study.into=head",
            "similarity.top_k=2",
            *overrides,
            probe=images if overrides else plain,
            concepts=of_list(["red", "green"]),
        )
