"""Linear Explanations of small networks, and the published files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import COLOURS, ColourEncoder, ColourNet, LiveNet, preprocess
from tiny_saes import sae

from clipdissect import concepts, method, probe, testing
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.method.linear import Linear
from clipdissect.method.published_linear import to_published
from clipdissect.probe import Probe
from clipdissect.results import formulas
from clipdissect.results.tables import ResultTables
from clipdissect.store import Store
from clipdissect.targets import Target

SHADES = 16
BY_LABELS: dict[str, Any] = {"source": "labels", "validation": 0.25}


def write_folders(root: Path) -> None:
    for name, rgb in COLOURS.items():
        (root / name).mkdir(parents=True)
        for shade in range(SHADES):
            colour = tuple(round(c * (1 - shade / 40)) for c in rgb)
            Image.new("RGB", (8, 8), colour).save(root / name / f"{shade}.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    root = tmp_path_factory.mktemp("colours")
    write_folders(root)
    return probe.build("folder", root=str(root), labels="folders")


@pytest.fixture
def job(images: Probe, tmp_path: Path) -> Job:
    target = Target("tiny", ColourNet(), preprocess(), ("conv", "head"))
    settings = Settings(device="cpu", workers=0)
    texts = concepts.resolve(list(COLOURS))
    inputs = {"concepts": texts, "encoder": ColourEncoder(), "store": Store(tmp_path)}
    return Job(target, images, images=3, settings=settings, **inputs)


def predicted(result: ResultTables, row: Any, labels: dict[str, torch.Tensor]) -> torch.Tensor:
    tree = formulas.read(row["formula"])
    assert tree is not None
    return formulas.evaluate(tree, labels.__getitem__)


def test_sums_predict_units(job: Job, images: Probe) -> None:
    live = replace(job, target=Target("live", LiveNet(), preprocess(), ("conv",)))
    result = Linear(**BY_LABELS).describe(live)
    table = result.descriptions
    assert list(table["unit"]) == [0, 1, 2, 3]
    assert list(table["label_1"])[:3] == ["red", "green", "blue"]
    assert (table["similarity"] > 0.95).all()
    assert (table["correlation_1"] <= table["similarity"]).all()
    assert (table["null_similarity"] < 0.8).all()
    assert table["margin"].isna().all()
    assert (table["unit_flags"] == ()).all()
    assert images.labels
    labels = {c: torch.tensor([float(x == c) for x in images.labels]) for c in COLOURS}
    values = predicted(result, table.iloc[0], labels)
    # By hand, of the mean shade: 13/16 times red - green - blue.
    for colour, mean in {"red": 0.8125, "magenta": 0.0, "cyan": -1.625}.items():
        assert float(values[labels[colour] == 1][0]) == pytest.approx(mean, abs=0.35)
    assert result.vocabulary is not None
    assert set(result.vocabulary.texts) == set(COLOURS)
    assert result.run["method"]["name"] == "linear"
    assert result.run["split"] == {"train": 72, "validation": 24}
    assert len(result.top_images) == 12


def test_similarity_is_the_validation_correlation(job: Job, images: Probe) -> None:
    options = Linear(**BY_LABELS)
    live = replace(job, target=Target("live", LiveNet(), preprocess(), ("conv",)))
    result = options.describe(live)
    _, validation = options._split(len(images), torch.device("cpu"))
    assert images.labels
    labels = {c: torch.tensor([float(x == c) for x in images.labels]) for c in COLOURS}
    pixels = torch.stack([preprocess()(Image.open(images.path(i))) for i in range(len(images))])
    with torch.no_grad():
        units = LiveNet().conv(pixels).mean((2, 3))
    for unit, row in result.descriptions.iterrows():
        both = torch.stack([predicted(result, row, labels), units[:, int(str(unit))]])
        expected = float(torch.corrcoef(both[:, validation])[0, 1])
        assert row["similarity"] == pytest.approx(expected, abs=1e-5)


def test_dead_units_and_vectors(job: Job) -> None:
    table = Linear(**BY_LABELS).describe(job).descriptions
    dead = table[table["unit"] == 3]
    assert list(dead["layer"]) == ["conv", "head"]
    assert list(dead["description"]) == list(dead["formula"]) == list(dead["label_1"]) == ["", ""]
    assert list(dead["unit_flags"]) == [("dead",), ("dead",)]
    numbers = ["similarity", "correlation_1", "null_similarity"]
    assert dead[numbers].isna().all(axis=None)
    assert table[table["unit"] != 3][numbers].notna().all(axis=None)


def test_values_of_the_encoder(job: Job) -> None:
    result = Linear(validation=0.25).describe(job)
    table = result.descriptions
    assert list(table["label_1"])[:3] == ["red", "green", "blue"]
    assert result.run["encoder"] == "colours"
    assert "fitted on labels" in result.run["concepts"]["calibration"]["source"]
    assert len(result.unit_metrics) == 8  # their numbers, since the images are embedded
    assert Linear().needs == ("target", "probe", "concepts", "encoder")
    assert Linear().requires == ("concepts", "encoder")
    assert Linear(source="hypernyms").requires == ("labels",)


def test_few_concepts_of_many(job: Job) -> None:
    result = Linear(**BY_LABELS, most=2).describe(job)
    assert result.vocabulary is not None
    assert len(result.vocabulary) == 2
    assert any("4 of 6 concepts" in note for note in result.run["notes"])
    assert any("24 images only" in note for note in result.run["notes"])


def test_latents(job: Job) -> None:
    assert job.target is not None
    latents = sae(torch.eye(4), torch.tensor([0.0, 0.0, -9.0, 0.0]), inputs=4)
    whole = replace(job, target=replace(job.target, layers=("conv",)).with_sae(latents.at("conv")))
    with pytest.raises(DissectError, match=r"layer conv\{sae\}.* capture.keep=full"):
        Linear(**BY_LABELS).describe(whole)
    whole = replace(whole, settings=replace(job.settings, keep="full"))
    table = Linear(**BY_LABELS).describe(whole).descriptions
    assert set(table["layer"]) == {"conv{sae}"}
    assert list(table["label_1"])[:2] == ["red", "green"]
    assert table["unit_flags"].iloc[2] == ("dead",)
    assert table["fires"].iloc[2] == 0


def test_a_residual_network(job: Job) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).eval()
    target = Target("resnet18", model, preprocess(32), ("layer1", "fc"))
    table = Linear(**BY_LABELS).describe(replace(job, target=target)).descriptions
    assert len(table) == 64 + 7
    described = table[table["description"] != ""]
    assert len(described) >= 7
    assert (described["length"] >= 1).all()
    assert described["similarity"].median() > 0.5  # colours are easily told apart


class TwoColours(torch.nn.Module):
    """Unit n is the maximum of colour detector n and 0.75 times that of the next."""

    def __init__(self, filters: testing.Filters) -> None:
        super().__init__()
        self.colour, self.sums = filters.colour, torch.nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self.colour(torch.cat([pixels, pixels.square()], 1)).relu().amax((2, 3))
        summed: torch.Tensor = self.sums(found + 0.75 * found.roll(-1, 1))
        return summed


def test_planted_sums_of_detectors(tmp_path: Path) -> None:
    options: dict[str, Any] = {"photographs": False, "stamps": "none", "root": str(tmp_path)}
    scenes = probe.build("synthetic_broden", images=120, size=48, **options)
    planted = testing.planted_filters(48)
    network = TwoColours(planted.target.model).eval()  # type: ignore[arg-type]
    target = Target("sums", network, planted.target.preprocess, ("sums",))
    settings = Settings(device="cpu", workers=0)
    job = Job(target, scenes, settings=settings, store=Store(tmp_path / "store"), null=False)
    table = Linear(source="labels").describe(job).descriptions
    names = planted.truth["colours"]
    both = [{name, names[(n + 1) % len(names)]} for n, name in enumerate(names)]
    found = [set(formulas.texts_of(formulas.read(cell) or {})) for cell in table["formula"]]
    hits = [len(truth & chosen) for truth, chosen in zip(both, found, strict=True)]
    assert sum(hits) >= 0.8 * 2 * len(names)
    assert table["similarity"].mean() > 0.8
    assert "null_similarity" not in table


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"source": "label"}, "method.source is 'label'"),
        ({"length": 0}, "method.length must be at least 1; got 0"),
        ({"lam": -1.0}, "method.lam"),
        ({"alpha": 1.5}, "method.alpha"),
        ({"validation": 0.01, "source": "labels"}, "splits 96 images into 95 and 1"),
        ({"validation": 0.99, "source": "labels"}, "each part needs 3"),
    ],
)
def test_wrong_options(job: Job, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        method.build("linear", **options).describe(job)


def test_no_labels_and_no_concepts(job: Job, images: Probe) -> None:
    bare = probe.build("folder", root=str(Path(images.path(0) or "").parents[1]))
    with pytest.raises(DissectError, match="has no labels"):
        Linear(**BY_LABELS).describe(replace(job, probe=bare))
    few = replace(job, probe=images.subset([0, 1, 2, 16, 17, 18, 32, 33, 34, 48, 49, 50]))
    with pytest.raises(DissectError, match="none of the 4 concepts is shown"):
        Linear(source="labels", validation=0.5).describe(few)


PUBLISHED = (
    "layer,unit,val correlation,weight0,concept0,weight1,concept1,weight2,concept2,bias,sim\n"
    'layer4,1,0.25,0.5,garden,0.25,"canal, natural",0.0,0,0.125,0.3\n'
    "layer4,0,0.5,2.0,nan,0,0,0,0,-1,0.1\n"
)


def read(tmp_path: Path, text: str, **options: Any) -> pd.DataFrame:
    path = tmp_path / "sums.csv"
    path.write_text(text, encoding="utf-8")
    return method.build("published_linear", path=str(path), **options).describe(Job()).descriptions


def test_published_files(tmp_path: Path) -> None:
    table = read(tmp_path, PUBLISHED)
    assert list(table["unit"]) == [0, 1]
    assert list(table["description"]) == ["nan", "0.5 garden + 0.25 canal, natural"]
    assert list(table["similarity"]) == [0.5, 0.25]
    assert list(table["length"]) == [1, 2]
    assert json.loads(table["formula"][1]) == {
        "op": "SUM",
        "of": [{"label": "garden"}, {"label": "canal, natural"}],
        "weights": [0.5, 0.25],
        "bias": 0.125,
    }
    without = PUBLISHED.replace("layer,", "").replace("layer4,", "")
    with pytest.raises(DissectError, match="no column layer: name it"):
        read(tmp_path, without)
    assert set(read(tmp_path, without, layers=["layer4"])["layer"]) == {"layer4"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PUBLISHED.replace("bias", "b"), "column of .*'bias'"),
        (PUBLISHED.replace("0.125", "much"), "row 1: bias is 'much', not a number"),
        (PUBLISHED.replace(",1,0.25", ",0,0.25"), "layer layer4, unit 0 more than once"),
        (PUBLISHED.replace(",1,0.25", ",-1,0.25"), "unit -1"),
    ],
)
def test_wrong_published_files(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DissectError, match=says):
        read(tmp_path, text)


def test_own_sums_are_written_and_read_back(job: Job, tmp_path: Path) -> None:
    result = Linear(**BY_LABELS).describe(job)
    folder = result.save(tmp_path / "run")
    own = pd.read_csv(folder / "descriptions.csv", keep_default_na=False)
    file = tmp_path / "out.csv"
    to_published(own).to_csv(file, index=False)
    head = "layer,unit,val correlation,weight0,concept0,weight1,concept1"
    assert file.read_text().startswith(head)
    assert file.read_text().splitlines()[0].endswith(",weight9,concept9,bias")
    table = method.build("published_linear", path=str(file)).describe(Job()).descriptions
    assert len(table) == 8
    for (_, before), (_, after) in zip(own.iterrows(), table.iterrows(), strict=True):
        assert bool(before["formula"]) == bool(after["formula"])
        if before["formula"]:
            first, second = formulas.read(before["formula"]), formulas.read(after["formula"])
            assert _terms(first) == _terms(second)
            weights = second["weights"]
            assert weights == sorted(weights, reverse=True)
    assert np.isnan(table["similarity"][3])  # of the dead unit
    with pytest.raises(DissectError, match="no column formula"):
        to_published(own.drop(columns="formula"))
    long = own.assign(formula=formulas.written(formulas.weighted_sum(["a"] * 11, [1.0] * 11)))
    with pytest.raises(DissectError, match=r"11 concepts.*method.length=10"):
        to_published(long)
    other = own.assign(formula=formulas.written(formulas.node("OR", formulas.leaf("a"))))
    with pytest.raises(DissectError, match="isn't a weighted sum"):
        to_published(other)


def test_numbers_that_are_none_are_refused() -> None:
    for name in ("lam", "tolerance", "alpha", "validation"):
        with pytest.raises(DissectError, match=rf"method\.{name} is nan"):
            Linear(**{name: float("nan")})


def _terms(tree: formulas.Tree) -> Any:
    labels = [leaf["label"] for leaf in tree["of"]]
    return sorted(zip(labels, tree["weights"], strict=True)), tree["bias"]
