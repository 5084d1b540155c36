"""Formulas of image labels by AUROC: a slow beam search, known formulas, real networks."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import mannwhitneyu, rankdata
from sklearn.metrics import roc_auc_score
from test_final_layer import Runner, runner  # noqa: F401 - a fixture
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess
from tiny_saes import sae
from torch import Tensor

from clipdissect import concepts, method, probe
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.method import Job, auroc_search, invert
from clipdissect.method.auroc_search import JOINS, AurocSearch, LabelFormula, centred_ranks
from clipdissect.results import formulas
from clipdissect.store import Store
from clipdissect.targets import Target

Slow = tuple[tuple[int, ...], tuple[tuple[str, bool], ...]]  # concepts, and how they are joined


def slow_area(activations: np.ndarray, shown: np.ndarray) -> Fraction:
    """The share of pairs in which the shown image is above, counted pair by pair."""
    inside, outside = activations[shown][:, None], activations[~shown]
    halves = int(2 * (inside > outside).sum() + (inside == outside).sum())
    area = Fraction(halves, 2 * int(shown.sum()) * int((~shown).sum()))
    assert math.isclose(area, roc_auc_score(shown, activations), abs_tol=1e-12)
    return area


def slow_images(labels: np.ndarray, formula: Slow) -> np.ndarray:
    result = None
    for concept, (operator, negated) in zip(*formula, strict=True):
        literal = ~labels[concept] if negated else labels[concept]
        if result is None:
            result = literal
        else:
            result = result & literal if operator == "AND" else result | literal
    assert result is not None
    return np.asarray(result)


def slow_search(
    activations: np.ndarray,
    labels: np.ndarray,
    length: int,
    width: int,
    smallest: int,
    largest: int,
    least: int,
    limit: int | None,
) -> list[tuple[Slow, Fraction, int]]:
    """The beam search as its docstring says, one formula at a time."""
    usable = [n for n, row in enumerate(labels) if least <= row.sum() <= len(row) - least]
    usable = [n for n in usable if not any((labels[m] == labels[n]).all() for m in usable if m < n)]

    areas: dict[bytes, Fraction] = {}  # by images

    def scored(formula: Slow) -> tuple[Slow, Fraction, int] | None:
        images = slow_images(labels, formula)
        count = int(images.sum())
        if not smallest <= count <= largest or not 0 < count < len(images):
            return None
        if images.tobytes() not in areas:
            areas[images.tobytes()] = slow_area(activations, images)
        return formula, areas[images.tobytes()], count

    def merged(beam: list[Any], candidates: list[Any]) -> list[Any]:
        known = [slow_images(labels, old[0]) for old in beam]
        result = list(beam)
        for candidate in sorted(filter(None, candidates), key=lambda c: -c[1]):
            images = slow_images(labels, candidate[0])
            if not any((images == other).all() for other in known):
                known.append(images)
                result.append(candidate)
        return sorted(result, key=lambda c: -c[1])[:width]

    starts = [scored(((n,), (("AND", negated),))) for negated in (False, True) for n in usable]
    beam = merged([], starts)

    def distance(n: int) -> Fraction:
        if not 0 < labels[n].sum() < labels.shape[1]:
            return Fraction(-1)
        return abs(slow_area(activations, labels[n]) - Fraction(1, 2))

    joined = usable if limit is None else sorted(sorted(usable, key=distance, reverse=True)[:limit])
    for _ in range(2, length + 1):
        longer = [
            scored(((*own, n), (*joins, join)))
            for (own, joins), _, _ in beam
            if len(own) < length
            for join in (("AND", False), ("AND", True), ("OR", False), ("OR", True))
            for n in joined
            if n not in own
        ]
        beam = merged(beam, longer)
    return beam


def random_units(seed: int, images: int = 30, units: int = 4) -> np.ndarray:
    """Activations of which every other unit has ties."""
    values = np.random.default_rng(seed).normal(size=(images, units)).astype(np.float32)
    values[:, ::2] = np.round(values[:, ::2]).clip(0)
    return values


def random_labels(seed: int, concepts: int = 7, images: int = 30) -> np.ndarray:
    """Labels, of which some are equal, parts, complements, or of one image."""
    drawn = np.random.default_rng(1000 + seed)
    labels = drawn.random((concepts, images)) < drawn.uniform(0.05, 0.7, (concepts, 1))
    labels[3] = labels[1]
    labels[4] = labels[1] & labels[2]
    labels[5] = ~labels[0]
    labels[6] = np.arange(images) == 2
    return labels


@pytest.mark.parametrize(
    ("seed", "length", "width", "sizes", "limit"),
    [
        (0, 3, 5, (1, 29, 1), None),
        (1, 3, 5, (3, 15, 1), None),
        (2, 3, 2, (2, 20, 2), None),
        (3, 2, 30, (1, 29, 1), None),  # more places than formulas
        (4, 4, 1, (1, 15, 1), None),
        (5, 1, 4, (1, 29, 1), None),
        (6, 3, 4, (1, 25, 1), 3),
        (7, 3, 3, (4, 12, 3), 2),
    ],
)
def test_beams_are_those_of_a_slow_search(
    seed: int, length: int, width: int, sizes: tuple[int, int, int], limit: int | None
) -> None:
    values, labels = random_units(seed), random_labels(seed)
    search = AurocSearch(torch.from_numpy(labels), length, width, *sizes, limit)
    beams = search.search(centred_ranks(torch.from_numpy(values)))
    assert len(beams) == values.shape[1]
    for unit, beam in enumerate(beams):
        expected = slow_search(values[:, unit], labels, length, width, *sizes, limit)
        found = [(s.formula.concepts, s.formula.joins) for s in beam]
        assert found == [(c, ((("AND", j[0][1]), *j[1:]))) for (c, j), _, _ in expected]
        assert [s.size for s in beam] == [size for _, _, size in expected]
        assert [s.auroc for s in beam] == pytest.approx(
            [float(area) for _, area, _ in expected], abs=1e-12
        )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, ranks = (
        torch.from_numpy(random_labels(8)),
        centred_ranks(torch.from_numpy(random_units(8, units=9))),
    )
    whole = AurocSearch(shown).search(ranks)
    monkeypatch.setattr(auroc_search, "BYTES", 4000)
    monkeypatch.setattr(auroc_search, "IMAGES_AT_ONCE", 7)
    assert AurocSearch(shown).search(ranks) == whole
    assert AurocSearch(shown).search(ranks[:0]) == []


def test_ranks_are_average_ranks() -> None:
    values = random_units(9, images=101, units=4)
    expected = 2 * rankdata(values, axis=0) - 102
    assert (expected == centred_ranks(torch.from_numpy(values)).numpy().T).all()
    assert (centred_ranks(torch.zeros(5, 1)) == 0).all()  # all equal


def test_sums_of_many_images_are_exact() -> None:
    images = 20_003
    ranks = centred_ranks(torch.arange(images).float()[:, None])
    upper = torch.arange(images) > images // 2
    shown = torch.stack([upper, torch.arange(images) % 3 == 0])
    sums = auroc_search.sums_over(upper[None, None], shown, ranks)[0, 0]
    exact = [int(ranks[0][upper & row].sum()) for row in shown]
    assert sums.tolist() == exact
    assert exact[0] > 2**24 and exact[0] % 8  # float32 would round it
    assert AurocSearch(shown, 1).search(ranks)[0][0].auroc == 1.0


def test_only_the_order_of_activations_matters() -> None:
    values, shown = torch.from_numpy(random_units(10)), torch.from_numpy(random_labels(10))
    search = AurocSearch(shown)
    found = search.search(centred_ranks(values))
    assert search.search(centred_ranks(3 * values.double().exp().float() + 1)) == found
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    moved = AurocSearch(shown[:, order]).search(centred_ranks(values[order]))
    assert moved == found


def test_a_unit_turned_upside_down_has_the_negated_formulas() -> None:
    values, shown = torch.from_numpy(random_units(11)), torch.from_numpy(random_labels(11))
    areas = AurocSearch(shown).areas(centred_ranks(values))
    assert torch.allclose(AurocSearch(shown).areas(centred_ranks(-values)), 1 - areas)
    assert torch.allclose(AurocSearch(~shown).areas(centred_ranks(values)), 1 - areas)


def planted(noise: float) -> tuple[dict[str, np.ndarray], np.ndarray, Tensor]:
    """Formulas of ten concepts, each of a fifth of 2000 images, and units that detect them."""
    drawn = np.random.default_rng(0)
    labels = drawn.random((10, 2000)) < 0.2
    a, b, c = labels[3], labels[5], labels[7]
    truth = {
        "c3": a,
        "c3 AND NOT c5": a & ~b,
        "c3 AND c5": a & b,
        "c3 OR c5": a | b,
        "(c3 OR c5) AND NOT c7": (a | b) & ~c,
        "c3 OR c7 OR c5": a | b | c,
        "(c3 AND c5) OR c7": (a & b) | c,
        "(c5 OR c7) AND c3": a & (b | c),
    }
    units = np.stack([*truth.values()], 1) + drawn.normal(size=(2000, len(truth))) * noise
    return truth, labels, torch.from_numpy(units).float()


def described(labels: np.ndarray, units: Tensor, width: int) -> list[str]:
    search = AurocSearch(torch.from_numpy(labels), 3, width, smallest=10, largest=1000)
    names = [f"c{n}" for n in range(len(labels))]
    beams = search.search(centred_ranks(units))
    return [formulas.to_text(beam[0].formula.tree(names)) for beam in beams]


def words(text: str) -> list[str]:
    """The words of a formula, whose operands come in the order in which they were found."""
    return sorted(re.findall(r"\w+", text))


def test_planted_formulas_are_found() -> None:
    truth, labels, units = planted(0.03)
    found = described(labels, units, 5)
    assert [*map(words, found[:6])] == [*map(words, [*truth][:6])]
    # The first two concepts of the others aren't among the best five pairs: a wider beam has them.
    assert words(found[6]) != words([*truth][6])
    assert words(found[7]) != words([*truth][7])
    wide = AurocSearch(torch.from_numpy(labels), 3, 40, smallest=10, largest=1000)
    best = [beam[0] for beam in wide.search(centred_ranks(units))]
    everything = torch.ones(2000, dtype=torch.bool)
    for images, scored in zip(truth.values(), best, strict=True):
        assert scored.auroc == 1.0
        assert (scored.formula.images(torch.from_numpy(labels), everything).numpy() == images).all()


def test_noise_adds_concepts_by_chance() -> None:
    truth, labels, units = planted(0.33)
    found = described(labels, units, 5)
    assert [*map(words, found[3:5])] == [*map(words, [*truth][3:5])]  # of many images
    # Of few images some part fits better.
    assert {"c3", "c5"} < set(found[2].split())
    assert len(found[2].split()) > 3


def test_formulas_in_words_and_as_trees() -> None:
    names = ("a", "b", "c")
    (both, unless, either, otherwise) = JOINS
    one = LabelFormula().joined(unless, 0)
    assert formulas.to_text(one.tree(names)) == "NOT a"
    two = LabelFormula().joined(both, 0).joined(unless, 1)
    assert two.tree(names) == {
        "op": "AND",
        "of": [{"label": "a"}, {"op": "NOT", "of": [{"label": "b"}]}],
    }
    assert formulas.to_text(two.joined(both, 2).tree(names)) == "a AND NOT b AND c"
    assert formulas.to_text(two.joined(otherwise, 2).tree(names)) == "(a AND NOT b) OR NOT c"
    assert formulas.to_text(one.joined(either, 1).tree(names)) == "NOT a OR b"
    shown = torch.rand(3, 50) < 0.5
    values = dict(zip(names, shown.float(), strict=True))
    for formula in (one, two, two.joined(otherwise, 2), one.joined(either, 1).joined(both, 2)):
        own = formulas.evaluate(formula.tree(names), values.__getitem__)
        assert (own == formula.images(shown, torch.ones(50, dtype=torch.bool))).all()


def test_p_values_are_scipys() -> None:
    values, labels = random_units(12, images=60).astype(np.float64), random_labels(12, images=60)
    search = AurocSearch(torch.from_numpy(labels), 2, 1, 5, 50)
    ranks = centred_ranks(torch.from_numpy(values))
    beams = search.search(ranks)
    found = invert.p_values(beams, ranks.double().square().sum(1).numpy(), 60)
    for unit, beam in enumerate(beams):
        shown = slow_images(labels, (beam[0].formula.concepts, beam[0].formula.joins))
        a, b = values[shown, unit], values[~shown, unit]
        expected = mannwhitneyu(a, b, alternative="two-sided", method="asymptotic")
        assert found[unit] == pytest.approx(expected.pvalue, rel=1e-9)
        assert beam[0].auroc == pytest.approx(expected.statistic / len(a) / len(b))


def write_classes(folder: Path, shades: int = 5) -> Path:
    """Images of one colour each, in a folder a colour."""
    for name, rgb in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for shade in range(shades):
            colour = tuple(round(c * (1 - shade / 10)) for c in rgb)
            Image.new("RGB", (10 + shade, 12), colour).save(folder / name / f"{shade}.png")
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Job:
    target = Target("tiny", ColourNet(), preprocess(), ("conv",))
    images = probe.build("folder", root=str(write_classes(tmp_path / "images")), labels="folders")
    settings = Settings(device="cpu", workers=0)
    return Job(target, images, images=3, top=3, settings=settings, store=Store(tmp_path / "store"))


def test_units_of_a_network(job: Job) -> None:
    truth = {"conv": ["red", "green", "magenta", "blue"]}
    result = method.build("invert", min_images=5).describe(replace(job, truth=truth))
    table = result.descriptions
    assert list(table["description"]) == ["red", "green", "blue", ""]
    assert table["similarity"].tolist()[:3] == [1.0, 1.0, 1.0]
    assert list(table["unit_flags"])[3] == ("dead",)
    assert table["similarity"].isna().tolist() == [False] * 3 + [True]
    assert list(table["label_1"]) == ["red", "green", "blue", ""]
    assert table["auroc_1"].tolist()[:3] == [1.0] * 3
    assert list(table["length"]) == [1, 1, 1, 0]
    assert table["fraction"].tolist()[:3] == pytest.approx([1 / 6] * 3)
    assert (table["p_value"][:3] < 1e-3).all()
    assert (table["null_similarity"][:3] < 1).all()
    assert table["null_similarity"].isna()[3]
    # Blue's unit is equally low on magenta, cyan and yellow's other mixture; dead units have none.
    assert table["truth_rank"].tolist()[:2] == [1.0, 1.0]
    assert table["truth_rank"][2] > 1
    assert math.isnan(table["truth_rank"][3])
    assert formulas.read(table["formula"][0]) == {"label": "red"}
    assert table["formula"][3] == ""
    assert result.vocabulary is not None
    assert set(result.vocabulary.texts) == set(COLOURS)
    assert result.run["method"]["name"] == "invert"
    assert result.run["concepts"]["source"] == "labels"
    assert set(result.histograms) == {"conv"}
    assert len(result.top_images) == 12


def test_the_shuffled_null_and_labels_are_part_of_the_run(job: Job, tmp_path: Path) -> None:
    chosen = method.build("invert", min_images=5, length=2)
    first = chosen.describe(job)
    without = chosen.describe(replace(job, null=False))
    assert "null_similarity" not in without.descriptions
    assert without.run["null"] is None
    other = first.descriptions.drop(columns="null_similarity")
    assert other.equals(without.descriptions)
    assert job.probe is not None
    assert job.probe.labels is not None
    swapped = replace(job.probe, labels=(*job.probe.labels[:-1], job.probe.labels[0]))
    again = chosen.describe(replace(job, probe=swapped))
    assert again.run["digests"]["labels"] != first.run["digests"]["labels"]
    assert again.run["digests"]["images"] == first.run["digests"]["images"]


def test_vectors_and_dead_layers(job: Job) -> None:
    assert job.target is not None
    heads = replace(job.target, layers=("head",))
    table = method.build("invert", min_images=5).describe(replace(job, target=heads)).descriptions
    assert list(table["description"])[:3] == ["red", "green", "blue"]
    network = ColourNet()
    with torch.no_grad():
        network.conv.weight.zero_()
    dead = replace(job, target=Target("dead", network, preprocess(), ("conv",)))
    dead = replace(dead, truth={"conv": list(COLOURS)[:4]})
    table = method.build("invert", min_images=5).describe(dead).descriptions
    assert list(table["unit_flags"]) == [("dead",)] * 4
    assert table["truth_rank"].isna().all()


def test_latents_need_full_activations(job: Job) -> None:
    assert job.target is not None
    weight = torch.tensor([[1.0, -1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    latents = job.target.with_sae(replace(sae(weight), layer="conv"))
    of_latents = replace(job, target=latents)
    chosen = method.build("invert", min_images=5)
    with pytest.raises(DissectError, match=r"invert ranks all images.*capture\.keep=full"):
        chosen.describe(of_latents)
    full = replace(of_latents, settings=replace(job.settings, keep="full"))
    table = chosen.describe(full).descriptions
    assert table["description"][0] == "red"
    assert list(table["unit_flags"])[2] == ("dead",)
    assert table["fires"][2] == 0
    with pytest.raises(DissectError, match="keep=full"):
        chosen.describe(replace(job, settings=replace(job.settings, keep="top_k")))


def test_an_encoder_can_say_what_images_show(job: Job) -> None:
    job = replace(job, concepts=concepts.resolve(list(COLOURS)), encoder=ColourEncoder())
    chosen = method.build("invert", source="encoder", min_images=5, length=1)
    assert chosen.needs == ("target", "probe", "concepts", "encoder")
    assert chosen.requires == ("concepts", "encoder")
    result = chosen.describe(job)
    assert list(result.descriptions["description"])[:3] == ["red", "green", "blue"]
    assert result.run["encoder"] == "colours"
    assert "fitted on labels" in result.run["concepts"]["calibration"]["source"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"source": "label"}, r"method\.source.*labels"),
        ({"length": 0}, r"method\.length is 0; it must be 1 to 10"),
        ({"beam": 101}, r"method\.beam is 101"),
        ({"min_fraction": 0.6}, r"method\.min_fraction is 0\.6, method\.max_fraction 0\.5"),
        ({"max_fraction": 1.5}, r"method\.max_fraction 1\.5"),
        ({"min_images": 0}, r"method\.min_images is 0; it must be at least 1"),
        ({"limit_search": 0}, r"method\.limit_search is 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        method.build("invert", **options)


def test_unsuitable_inputs(job: Job) -> None:
    with pytest.raises(DissectError, match=r"none of the 6 concepts.*10 to 15 of the 30 images"):
        method.build("invert").describe(job)
    assert job.probe is not None
    plain = replace(job, probe=replace(job.probe, labels=None))
    with pytest.raises(DissectError, match="has no labels"):
        method.build("invert").describe(plain)
    wrong = replace(job, truth={"conv": ["red"]})
    with pytest.raises(DissectError, match="4 units, but 1 right labels"):
        method.build("invert", min_images=5).describe(wrong)


def test_fractions_include_their_ends(job: Job) -> None:
    chosen = method.build("invert", min_images=1, min_fraction=1 / 6, max_fraction=5 / 30)
    assert list(chosen.describe(job).descriptions["fraction"])[:3] == [1 / 6] * 3


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("library", "layers"), [("torchvision", ("layer1", "fc")), ("timm", ("blocks.1", "head"))]
)
def test_real_architectures(
    job: Job, library: str, layers: tuple[str, ...], one_thread: None
) -> None:
    torch.manual_seed(0)
    network: Any
    if library == "torchvision":
        network = pytest.importorskip("torchvision").models.resnet18(weights=None)
    else:
        size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        network = pytest.importorskip("timm").create_model("vit_tiny_patch16_224", **size)
    target = Target(library, network.eval(), preprocess(32), layers)
    assert job.probe is not None
    chosen = method.build("invert", min_images=5, length=2)
    table = chosen.describe(replace(job, target=target, null=False)).descriptions
    assert set(table["layer"]) == set(layers)
    live = table[table["similarity"].notna()]
    assert len(live) > 100
    assert (live["similarity"] >= live["auroc_1"]).all()
    assert (live["similarity"] > 0.5).all()
    assert (live["similarity"] >= live["similarity_2"].fillna(0)).all()
    for _, row in live.head(20).iterrows():  # the tree gives the score
        assert job.probe.labels is not None
        values = {
            name: torch.tensor([float(label == name) for label in job.probe.labels])
            for name in COLOURS
        }
        tree = json.loads(row["formula"])
        assert formulas.evaluate(tree, values.__getitem__).mean() == pytest.approx(row["fraction"])
        assert formulas.to_text(tree) == row["description"]


def test_final_layer_from_the_command_line(
    runner: Runner,  # noqa: F811
    tmp_path: Path,
) -> None:
    write_classes(tmp_path / "classes")
    folder = runner(
        "method=invert",
        "method.min_images=5",
        "method.length=1",
        f"probe.root={tmp_path}/classes",
        "probe.labels=folders",
    )
    final = json.loads((folder / "metrics.json").read_text())["final_layer"]
    # Classes red, green, yellow and white; units red, green, blue and dead; white is no label.
    assert (final["concepts"], final["classes_in_concepts"]) == (6, 3)
    assert (final["top1"], final["described"]) == (0.5, 3)
    assert final["mean_rank"] > 1  # of yellow, on the unit of blue
    run = json.loads((folder / "run.json").read_text())
    assert run["method"]["min_images"] == 5
