"""Weight similarity: its statistics against slow ones, and the runner on tiny stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_runs import Study, facts, tiny_target
from study_runs import study as study  # the fixture
from tiny import write_colours
from torch import nn

from clipdissect import probe
from clipdissect.concepts import of_list
from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling
from clipdissect.evaluation.vectors import Vectors
from clipdissect.studies import build, weight_similarity
from clipdissect.studies.weight_similarity import Weights, linear_weights, permuted
from experiments import weight_similarity as runner

HOW = Resampling(resamples=130)
NAMES = ("red", "green", "blue", "yellow")


def pairs(seed: int = 0, shape: tuple[int, int] = (7, 9)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    one = generator.normal(size=shape)
    return one.astype(np.float32), (one + generator.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_correlations_are_scipys(offset: float) -> None:
    one, other = pairs()
    found = weight_similarity.tested(one.astype(float) + offset, other.astype(float))
    right = stats.pearsonr(one.ravel(), other.ravel())
    assert found["pearson_r"] == pytest.approx(right.statistic, abs=1e-6)
    assert found["log10_p"] == pytest.approx(np.log10(right.pvalue), rel=1e-4)
    right = stats.spearmanr(one.ravel(), other.ravel())
    assert found["spearman_rho"] == pytest.approx(right.statistic, abs=1e-6)


@pytest.mark.parametrize(("r", "n"), [(0.5, 20), (-0.3, 200), (0.05, 5000), (0.9, 11)])
def test_series_of_small_p_is_exact(r: float, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = weight_similarity.log10_p(r, n)
    monkeypatch.setattr(weight_similarity, "_SMALLEST_P", 2.0)
    assert weight_similarity.log10_p(r, n) == pytest.approx(right, rel=1e-9)


def test_p_below_what_floats_hold() -> None:
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        p = mpmath.betainc(
            mpmath.mpf(50_000 - 2) / 2, 0.5, 0, 1 - mpmath.mpf("0.258") ** 2, regularized=True
        )
        right = float(mpmath.log10(p))
    assert weight_similarity.log10_p(0.258, 50_000) == pytest.approx(right, rel=1e-6)
    assert right < -300
    assert weight_similarity.log10_p(1.0, 10) is None
    assert weight_similarity.log10_p(float("nan"), 10) is None


def drawn(shape: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the outputs and inputs in each resampled set, repeated as often as drawn."""
    found = []
    for rows, columns in weight_similarity.two_way(*shape, HOW):
        for row, column in zip(rows.astype(int), columns.astype(int), strict=True):
            found.append(
                (np.repeat(np.arange(shape[0]), row), np.repeat(np.arange(shape[1]), column))
            )
    return found


def test_two_way_bootstrap_is_the_slow_one() -> None:
    one, other = pairs()
    slow = [
        stats.pearsonr(one[np.ix_(r, c)].ravel(), other[np.ix_(r, c)].ravel()).statistic
        for r, c in drawn(one.shape)
    ]
    assert len(slow) == 130
    found = weight_similarity.pearson_interval(one, other, HOW)
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-5)
    at = tuple(i.ravel() for i in np.indices(one.shape))
    some = weight_similarity.chosen_interval(one.ravel(), other.ravel(), at, one.shape, HOW)
    assert (some["low"], some["high"]) == pytest.approx((low, high), abs=1e-5)


def test_running_means_are_the_slow_ones() -> None:
    one, other = pairs()
    weights = Weights(one, np.arange(9), tuple("abcdefghi"), tuple("ABCDEFG"))
    at = weights.largest()
    assert (np.diff(one[at]) <= 0).all()
    found = weight_similarity.running_means(other[at], np.array([1, 2, 4, 63]), at, one.shape, HOW)
    assert [row["k"] for row in found] == [1, 2, 4, 63]
    assert [row["value"] for row in found] == pytest.approx(
        [other[at][:k].mean() for k in (1, 2, 4, 63)], abs=1e-6
    )
    sets = [(one[np.ix_(r, c)].ravel(), other[np.ix_(r, c)].ravel()) for r, c in drawn(one.shape)]
    for row in found:
        slow = [of[(-by).argsort(kind="stable")][: row["k"]].mean() for by, of in sets]
        ends = np.quantile(slow, [0.025, 0.975])
        assert (row["low"], row["high"]) == pytest.approx(tuple(ends), abs=1e-6)
    assert found[0]["low"] < found[0]["high"]  # the largest weight isn't in every set


def test_permutation_control_is_the_slow_one() -> None:
    table, _ = pairs()
    generator = np.random.default_rng(5)
    vectors = generator.normal(size=(16, 4)).astype(np.float32)
    texts = [*"ABCDEFG", *"abcdefghi"]
    known = Vectors({text: i for i, text in enumerate(texts)}, vectors)
    weights = Weights(table, np.arange(9), tuple(texts[7:]), tuple(texts[:7]))
    near = vectors[:7] @ vectors[7:].T
    again = np.random.default_rng(HOW.seed)
    slow = [
        np.corrcoef(table.ravel(), near[:, again.permutation(9)].ravel())[0, 1] for _ in range(50)
    ]
    found = permuted(weights, known, 50, HOW)
    assert found["mean_r"] == pytest.approx(np.mean(slow), abs=1e-6)
    real = np.corrcoef(table.ravel(), near.ravel())[0, 1]
    assert found["p"] == (1 + sum(abs(r) >= abs(real) for r in slow)) / 51


def test_only_linear_layers_have_such_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Linear(2, 5))
    assert linear_weights(model, "0").shape == (4, 3)
    assert linear_weights(model, "3").shape == (5, 2)
    for layer in ("1", "2"):
        with pytest.raises(DissectError, match="must be a linear layer"):
            linear_weights(model, layer)


def run(study: Study, tmp_path: Path, *overrides: str, **builders: Any) -> Path:
    write_colours(tmp_path / "images")
    builders = {
        "probe": probe.build("folder", root=str(tmp_path / "images")),
        "concepts": of_list(["red", "green", "blue", "cyan"]),
        **builders,
    }
    return study(
        runner,
        tiny_target(NAMES, ["relu"]),
        "study.layer=relu",
        "study.into=head",
        "study.permutations=20",
        *overrides,
        **builders,
    )


def test_papers_preset_runs(study: Study, tmp_path: Path) -> None:
    folder = run(study, tmp_path, "experiment=weight_similarity", "similarity.top_k=4")
    found = facts(folder)["weight_similarity"]
    assert (found["inputs"], found["outputs"], found["described"]) == (4, 4, 3)
    assert found["linearity"] == pytest.approx(1.0)
    # Units are labelled red, green, blue; their classes too, with weights of 2, else 0. Yellow is
    # at 45 degrees to red and green: over the 12 pairs
    weight = np.array([*np.eye(3).ravel(), 0, 0, 0])
    cosine = np.array([*np.eye(3).ravel(), 0.5**0.5, 0.5**0.5, 0])
    own = found["mpnet"]["all_pairs"]
    assert own["pairs"] == 12
    assert own["pearson_r"] == pytest.approx(np.corrcoef(weight, cosine)[0, 1])
    assert [row["value"] for row in found["mpnet"]["by_top_k"][:2]] == pytest.approx([1, 1])
    assert found["mpnet"]["best_of_unit"]["pearson_r"] is None  # all weights are the same
    assert "weights of clip_vit_b16" in found["clip_vit_b16"]["reason"]
    table = pd.read_csv(folder / "largest_weights.csv")
    assert list(table["class"][:3]) == ["red", "green", "blue"]
    assert table["mpnet_cos"][0] == 1
    for name in ("weight_similarity", "panels"):
        assert (folder / f"{name}.png").stat().st_size > 1000


def test_published_labels_need_weights_alone(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    lines = [f"relu,{i},{name},0.1" for i, name in enumerate(("green", "red", "blue", "cyan"))]
    path.write_text("\n".join(["layer,unit,description,similarity", *lines]))
    folder = run(
        study,
        tmp_path,
        "method=published_clip_dissect",
        f"method.path={path}",
        probe=None,
        encoder=None,
        concepts=None,
    )
    found = facts(folder)["weight_similarity"]
    assert (found["described"], found["linearity"]) == (4, None)
    assert found["mpnet"]["all_pairs"]["pearson_r"] < 0.6
    assert not (folder / "panels.png").exists()
    assert facts(folder, "run")["target"] == {"name": "tiny", "layers": ["relu"], "weights": None}
    path.write_text("layer,unit,description,similarity\nrelu,4,green,0.1\n")
    with pytest.raises(DissectError, match="takes 4 inputs, but relu has 5"):
        run(study, tmp_path, "method=published_clip_dissect", f"method.path={path}")
    with pytest.raises(DissectError, match="unknown layer of the labels"):
        run(
            study,
            tmp_path,
            "method=published_clip_dissect",
            f"method.path={path}",
            "study.layer=conv",
        )


def test_settings_are_checked() -> None:
    with pytest.raises(DissectError, match=r"study\.top_pairs.*at least 3"):
        build("weight_similarity", top_pairs=2)
