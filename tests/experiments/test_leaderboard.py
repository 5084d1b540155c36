"""The runner that compares methods, on a tiny network and coloured squares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from score_runs import CLASSES, WORDS, OtherEncoder, Runner, tiny_target, write_squares
from tiny import ColourEncoder

from clipdissect import encoder
from clipdissect.app import build as parts
from clipdissect.app.help import conf_folder
from clipdissect.app.leaderboard import entries
from clipdissect.app.leaderboard.board import Board, sign_of
from clipdissect.app.schema import register
from clipdissect.errors import DissectError
from clipdissect.scores import summary
from experiments import leaderboard

NAN = float("nan")


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    register()
    write_squares(tmp_path / "images")
    monkeypatch.setattr(summary, "LEAST_UNITS", 2)
    target = tiny_target()
    monkeypatch.setitem(parts.BUILDERS, "target", lambda **_: target)
    monkeypatch.setitem(parts.BUILDERS, "encoder", lambda **_: ColourEncoder())
    monkeypatch.setattr(parts, "track", lambda *_: None)
    monkeypatch.setitem(encoder.OPTIONS, "other", lambda: OtherEncoder(version="2"))
    folder = tmp_path / "board"
    monkeypatch.setattr(leaderboard, "results_folder", lambda: folder)

    def run(*own: str) -> Path:
        options = (
            *("probe=folder", f"probe.root={tmp_path}/images", "probe.labels=folders"),
            *("similarity.top_k=10", "concepts=list", f"concepts.texts=[{','.join(WORDS)}]"),
            *("capture.workers=0", "capture.device=cpu", f"paths.store={tmp_path}/store"),
            *("evaluation.resamples=200", "scorer.encoder=other", *own),
        )
        monkeypatch.setattr(entries, "identity", lambda: (None, options))
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            leaderboard.run(compose("config", overrides=[*options]))
        return folder

    yield run


def test_methods_are_compared_on_the_same_images(
    runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = "{best: {}, some cyan: {concepts.texts: [cyan, magenta]}, lp: {similarity: lp}, "
    chosen += "masks: {method: network_dissection}, words: {method: captioner}}"
    folder = runner(f"+leaderboard.entries={chosen}")
    table = pd.read_csv(folder / "leaderboard.csv", keep_default_na=False, na_values=[""])
    assert list(table["method"].unique()) == ["best", "some cyan", "lp"]
    assert set(table["layer"]) == {"conv", "head", "all layers"}
    assert (table["seconds"] > 0).all()
    assert set(table["requires"]) == {"concepts, encoder"}
    rows = table[table["score"] == "simulation"].set_index(["layer", "method"])
    best, cyan = rows.loc[("head", "best")], rows.loc[("head", "some cyan")]
    assert best["value"] > 0.5 > cyan["value"]
    assert best["controls"] < best["value"]
    assert pd.isna(best["difference"])
    assert cyan["difference"] == pytest.approx(cyan["value"] - best["value"], abs=1e-6)
    assert cyan["difference_high"] < 0
    described = pd.read_csv(folder / "descriptions" / "best.csv")
    assert described["description"].tolist() == [*CLASSES, *CLASSES]
    run = json.loads((folder / "run.json").read_text())
    assert "has no pixel masks" in run["missing"]["masks"]
    assert "method.model" in run["missing"]["words"]
    assert list(run["entries"]) == ["best", "some cyan", "lp"]
    page = (folder / "index.html").read_text()
    assert "some cyan" in page and "has no pixel masks" in page and "src=" not in page
    text = (folder / "leaderboard.md").read_text()
    assert text.startswith("all layers\n") and "Missing: masks: " in text
    line = next(line for line in text.splitlines() if line.startswith("| some cyan"))
    assert "] -" in line
    assert (folder / "leaderboard.png").is_file()
    printed = capsys.readouterr().out
    assert "missing: words" in printed and "page: " in printed


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("{}", "no entry can run: leaderboard.entries maps names"),
        ("{a: {method: captioner}}", "(?s)no entry can run.*method.model"),
        ("{a: {probe: stamps}}", "leaderboard.entries.a sets probe=stamps, but all entries share"),
        ("{a: {similarity: lq}}", "(?s)no entry can run.*lq"),
        ("{a: lp}", "leaderboard.entries.a is .*it must be a mapping of options"),
        ("{a/b: {}}", "'a/b' is a file's name, too"),
        ("{a: {method: network_dissection}}", "(?s)no entry could run.*masks"),
    ],
)
def test_mistakes(runner: Runner, chosen: str, message: str) -> None:
    with pytest.raises(DissectError, match=message):
        runner(f"+leaderboard.entries={chosen}")


def test_options_are_written_in_hydras_grammar() -> None:
    written = {
        "method": "linear",
        "method.path": "it's [here]",
        "method.categories": ["color", "a b"],
        "method.limit": None,
        "method.crops": True,
        "method.length": 1,
        "method.tolerance": 0,
        "method.seeds": [0, 1],
        "method.reranker": {"name": "conse", "top": 3},
    }
    parser = OverridesParser.create()
    for override, (key, value) in zip(
        parser.parse_overrides(entries._overrides("a", written)), written.items(), strict=True
    ):
        assert (override.key_or_group, override.value()) == (key, value)
        assert type(override.value()) is type(value)  # 1 == True
    assert "method.length=1" in entries._overrides("a", written)
    assert "method.seeds=[0,1]" in entries._overrides("a", written)


def row(**changes: Any) -> dict[str, Any]:
    values = {"value": 0.5, "low": 0.4, "high": 0.6, "units": 20, "reached_by": "", "layer": "conv"}
    return {**values, "difference_low": NAN, "difference_high": NAN, **changes}


def test_cells() -> None:
    board = Board(pd.DataFrame([row()]), ("conv",), "a", {})
    assert board.text_of(None) == ""
    assert board.text_of(row()) == "0.500 [0.400, 0.600]"
    assert board.text_of(row(difference_low=0.1, difference_high=0.2)) == "0.500 [0.400, 0.600] +"
    worse = row(difference_low=-0.2, difference_high=-0.1, reached_by="random")
    assert board.text_of(worse) == "0.500 [0.400, 0.600] - (c)"
    assert sign_of(row(difference_low=-0.1, difference_high=0.1)) == 0
    assert board.text_of(row(low=NAN, high=NAN, units=17)) == "0.500, n = 17"
    assert board.text_of(row(units=18)) == "0.500 [0.400, 0.600]"


def test_methods_are_sorted_by_the_first_score() -> None:
    rows = [
        {"method": method, "layer": "conv", "score": score, "value": value}
        for method, score, value in [
            ("a", "simulation", 0.1),
            ("b", "simulation", 0.3),
            ("c", "auprc", 0.9),
        ]
    ]
    board = Board(pd.DataFrame(rows), ("conv",), "a", {})
    assert board.scores("conv") == ["simulation", "auprc"]
    assert board.methods("conv") == ["b", "a", "c"]
