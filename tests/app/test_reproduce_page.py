"""docs/reproduce.md has every number of the paper once, and commands in the paper's setting."""

from __future__ import annotations

import itertools
import re
import runpy
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir

from clipdissect.app import paper
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import register
from clipdissect.fetch.items import ITEMS

PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-\d+)?")
GROUPS = ("target", "probe", "concepts", "similarity")
# What the numbers are about, not numbers that the paper measures.
CONDITIONS = {"units", "images", "concepts", "unit"}


def measured(values: Any, key: str = "") -> Iterator[float]:
    """The numbers of paper_values.json; of text only those of seconds and p."""
    if isinstance(values, dict):
        for name, value in values.items():
            if name not in CONDITIONS or isinstance(value, dict):
                yield from measured(value, "text" if key == "seconds" or name == "p" else name)
    elif isinstance(values, list):
        for value in values:
            yield from measured(value, key)
    elif isinstance(values, int | float):
        yield float(values)
    elif key == "text":
        yield from map(float, NUMBER.findall(values))


def cells(column: int) -> list[str]:
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [row[column] for row in rows if row[0] not in ("| row", "| ---")]


@cache
def composed(*overrides: str) -> Any:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def commands(runner: str, text: str = PAGE) -> list[dict[str, str]]:
    """The overrides of a runner's commands in code blocks."""
    found = re.findall(rf"^clipdissect {runner} (.*?)(?:  #.*)?$", text, re.MULTILINE)
    words = [shlex.split(line) for line in found]
    return [dict(w.split("=", 1) for w in line if not w.startswith("-")) for line in words]


def own_labels(text: str = PAGE) -> list[dict[str, str]]:
    return [c for c in commands("final_layer", text) if "method" not in c and "target" in c]


def test_committed_page_is_what_the_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "reproduce_table.py"))
    assert script["page"]() == PAGE


def test_every_number_of_the_paper_is_there_once() -> None:
    expected = list(measured(paper.values()))
    # Counts of units are part of Fig. 4's numbers.
    groups = paper.values()["missing_concepts"]
    expected += [float(groups[name]["units"]) for name in ("dog.n.01", "bird.n.01")]
    found = [float(number) for cell in cells(2) for number in NUMBER.findall(cell)]
    assert sorted(found) == sorted(expected)
    assert len(found) == 120


def test_numbers_of_the_published_labels_are_ours() -> None:
    ours = [cell for cell in cells(3) if "equal" in cell]
    assert "0.2952 [0.2852, 0.3052], equal" in ours
    assert "0.6697 [0.6397, 0.6997], equal" in ours
    assert len(ours) == 8
    assert all(cell for column in range(6) for cell in cells(column))


def test_presets_of_studies_have_the_papers_networks() -> None:
    runners = set(re.findall(r"^clipdissect (\w+) ", PAGE, re.MULTILINE)) - {
        "dissect",
        "final_layer",
    }
    presets = {c["experiment"] for runner in runners for c in commands(runner)}
    assert len(runners) == 6
    for preset in sorted(name for name in presets if not name.endswith("_offline")):
        config = composed(f"experiment={preset}")
        assert config.target.name == "resnet50"
        assert config.encoder.name == paper.ENCODER
        assert config.similarity.name == "soft_wpmi"


@pytest.mark.parametrize("name", ["rank_reorder", "wpmi", "soft_wpmi"])
def test_commands_of_final_layer_have_the_papers_defaults(name: str) -> None:
    config = composed(f"similarity={name}", "target=resnet50")
    assert config.encoder.name == paper.ENCODER
    assert config.sentence.name == "mpnet"
    assert config.capture.summary in paper.SUMMARIES
    assert config.target.weights == paper.WEIGHTS["resnet50"]
    assert paper.values()["hyperparameters"][name].items() <= dict(config.similarity).items()


@pytest.mark.parametrize(
    ("table", "presets", "rows"),
    [(1, ["table1", "table1_probes"], 8), (2, ["table2"], 1), (3, ["table3"], 24)],
)
def test_presets_are_the_rows_of_their_tables(table: int, presets: list[str], rows: int) -> None:
    jobs = []
    for name in presets:
        config = composed(f"experiment={name}")
        base = {group: config[group].name for group in GROUPS}
        params = config.hydra.sweeper.params
        for values in itertools.product(*(str(v).split(",") for v in params.values())):
            jobs.append(base | dict(zip(params, values, strict=True)))
    section = PAGE.split(f"## Table {table}:")[1].split("\n## ")[0]
    own = [row for row in own_labels(section) if row["similarity"] != "cosine"]
    assert len(own) == rows
    assert sorted(jobs, key=str) == sorted(({g: r[g] for g in GROUPS} for r in own), key=str)


def test_data_can_be_fetched() -> None:
    names = {n for line in re.findall(r"`clipdissect fetch (.+?)`", PAGE) for n in line.split()}
    assert "cifar100" in names
    assert names <= set(ITEMS)
