"""What the Python API takes in plain forms, and how it words wrong types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ColourEncoder, ColourNet, preprocess, write_colours

import clipdissect
from clipdissect import Settings, Summary, concepts, encoder, probe, similarity
from clipdissect.errors import DissectError
from clipdissect.report.collect_data import ReportSettings
from clipdissect.scores import ScoreOptions
from clipdissect.utils import registry


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_colours(folder)
    return folder


def dissect(folder: Path, **changes: Any) -> clipdissect.Result:
    given: dict[str, Any] = {
        "model": ColourNet(),
        "layers": ["conv"],
        "probe": folder,
        "concepts": ["red", "blue"],
        "preprocess": preprocess(),
        "encoder": ColourEncoder(),
        "store": None,
        "similarity": {"name": "soft_wpmi", "top_k": 5},
    }
    return clipdissect.dissect(**{**given, **changes})


def test_names_with_parameters_are_taken(images: Path) -> None:
    plain = dissect(images, similarity=similarity.build("soft_wpmi", top_k=5))
    for changes in (
        {},
        {"probe": {"name": "folder", "root": str(images)}},
        {"probe": {"name": "folder", "root": images}},  # a path, for text
        {"concepts": {"name": "list", "texts": ["red", "blue"]}},
        {"device": "cpu"},
        {"device": torch.device("cpu")},
        {"settings": Settings(summary="mean", device="cpu")},  # type: ignore[arg-type]
    ):
        found = dissect(images, **changes).descriptions
        assert found["description"].tolist() == plain.descriptions["description"].tolist()


def test_plain_forms_of_settings() -> None:
    assert Settings(summary="max").summary == Summary("max")  # type: ignore[arg-type]
    assert Settings(device=torch.device("cpu")).device == "cpu"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        (Settings, {"batch_size": "x"}, "batch_size must be a whole number or None; got 'x'"),
        (Settings, {"batch_size": 2.5}, "batch_size must be a whole number or None; got 2.5"),
        (Settings, {"workers": True}, "workers must be a whole number or None; got True"),
        (Settings, {"compile": "yes"}, "compile must be True or False; got 'yes'"),
        (Settings, {"device": 3}, "device must be text; got 3"),
        (Settings, {"summary": 3}, "summary must be"),
        (
            Settings,
            {"summary": "middle"},
            "summary is 'middle'; it can be auto or mean or max or cls",
        ),
        (Settings, {"summary": "maxx"}, "Did you mean max"),
        (
            Settings,
            {"batchsize": 3},
            "unknown field of Settings 'batchsize'. Did you mean batch_size? Valid: device, prec",
        ),
        (ReportSettings, {"image": 5}, "field of ReportSettings 'image'. Did you mean images?"),
        (ScoreOptions, {"seeds": 5}, "unknown field of ScoreOptions 'seeds'. Did you mean seed"),
        (ReportSettings, {"images": "5"}, "report.images must be a whole number; got '5'"),
    ],
)
def test_wrong_types_of_settings(kind: Any, values: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=re.escape(says)):
        kind(**values)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"similarity": {"top_k": 5}}, "similarity must be a name, or a name with parameters"),
        ({"similarity": similarity.build}, "the similarity clipdissect.similarity.build failed on"),
        ({"similarity": 3}, "similarity must be a name"),
        ({"method": "clipdissect"}, "Did you mean clip_dissect"),
        ({"encoder": "clip_vitb16"}, "Did you mean clip_vit_b16"),
        ({"concepts": "google20k"}, "Did you mean google_20k"),
        ({"sae": {"name": "sealens", "path": "x"}}, "Did you mean saelens"),
        ({"similarity": {"name": "soft_wpmi", "top_k": "x"}}, "top_k must be a whole number"),
        ({"similarity": {"name": "soft_wpm"}}, "Did you mean soft_wpmi"),
        ({"encoder": {"name": "conse", "k": 3}}, "unknown parameter of encoder conse 'k'"),
        ({"encoder": {"k": 3}}, "encoder must be a name"),
        ({"encoder": None}, "encoder must be an encoder's name or an Encoder"),
        ({"probe": {"name": "folder"}}, "probe folder needs its parameter root"),
        ({"probe": {"name": "folder", "root": 3}}, "probe folder: root must be text; got 3"),
        ({"probe": None}, "probe must be a folder"),
        ({"concepts": {"a": 1}}, "concepts must be a name"),
        ({"concepts": {"red", "blue"}}, "concepts must be a list of texts"),  # in no order
        ({"concepts": None}, "concepts must be a list of texts"),
        ({"concepts": ["red", 3]}, "a concept must be a text; got 3"),
        ({"concepts": "wordfreq_2k"}, "Did you mean wordfreq_20k"),
        ({"model": ColourNet}, "got the class ColourNet"),
        ({"model": None}, "model must be a torch.nn.Module"),
        ({"model": {"name": "resnet"}}, "Did you mean resnet"),
        ({"layers": "conv"}, "layers must be a list of names"),
        ({"layers": 3}, "layers must be a list of names"),
        ({"preprocess": 3}, "preprocess must be a function of a PIL image"),
        ({"settings": {"device": "cpu"}}, "settings must be a clipdissect.Settings"),
        ({"device": "gpu"}, "device 'gpu' can't be used here"),
        ({"device": 5}, "device must be text"),
        ({"store": 3}, "store must be a folder"),
        ({"top": "5"}, "top must be a whole number"),
        ({"images": 2.5}, "images must be a whole number"),
        ({"truth": ["red"]}, "truth must be a mapping"),
        ({"team": None}, "team must come from clipdissect.utils.distributed"),
    ],
)
def test_wrong_types_of_dissect(images: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=re.escape(says)):
        dissect(images, **changes)


def test_every_option_without_required_parameters_is_a_plain_string(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[str] = []
    monkeypatch.setattr(registry, "build", lambda kind, known, name, given: built.append(name))
    monkeypatch.setattr(concepts, "_log_dropped", lambda built: built)
    monkeypatch.setattr(encoder, "lazily", encoder.build)
    for name in concepts.OPTIONS:
        concepts.resolve(name)
    for name in probe.OPTIONS:
        probe.resolve(name)
    for name in encoder.OPTIONS:
        encoder.resolve(name)
    assert built == [*concepts.OPTIONS, *probe.OPTIONS, *encoder.OPTIONS]
    assert {"wordfreq_3k", "wordfreq_10k", "wordfreq_20k"} <= set(concepts.OPTIONS)


def test_values_of_any_type_pass() -> None:
    def option(anything: Any, pairs: dict[str, Any] | None = None) -> tuple[Any, Any]:
        return anything, pairs

    known = {"option": option}
    assert registry.build("kind", known, "option", {"anything": 3}) == (3, None)
    given = {"anything": [None], "pairs": {"a": object}}
    assert registry.build("kind", known, "option", given) == ([None], {"a": object})
