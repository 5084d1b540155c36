"""The configs of a multirun's jobs are those that Hydra composes one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import quick_composition
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf

from clipdissect.app.composition import SharingLoader
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import register

JOBS = [
    ["experiment=demo", "similarity.top_k=5", "target.layers=[a,b]", "concepts=wordfreq_10k"],
    ["experiment=demo", "target.layers=[a,b]", "concepts=wordfreq_10k", "similarity.top_k=7"],
    ["similarity=wpmi", "similarity.top_k=7", "objective=${sentence.name}_cos"],
    ["similarity=wpmi", "similarity.top_k=9", "objective=null", "similarity.top_k=11"],
    ["similarity=wpmi", "hydra.sweep.subdir=default"],
    ["similarity.a=2.5", "+profile.extra=3", "profile.extra=4"],
    ["experiment=demo", "concepts=imagenet", "top=3"],
]
MISTAKES = [
    ["similarity=wpmi", "similarity.topk=9"],
    ["similarity=wpmi", "similarity.top_k=abc"],
    ["similarity=wpmi", "similarity.top_k=8,9"],
    ["similarity=softwpmi", "similarity.top_k=3"],
    ["target@sentence=resnet18"],
]


@pytest.fixture
def loaders() -> Iterator[tuple[ConfigLoaderImpl, SharingLoader, Any]]:
    register()
    setup_globals()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        plain: Any = hydra.config_loader
        master = plain.load_configuration("config", ["similarity.top_k=1,2"], RunMode.MULTIRUN)
        yield plain, SharingLoader(plain.get_search_path()), master


def test_jobs_are_composed_as_by_hydra(loaders: Any) -> None:
    plain, sharing, master = loaders
    for job in [*JOBS, *reversed(JOBS)]:
        expected, got = (loader.load_sweep_config(master, job) for loader in (plain, sharing))
        assert OmegaConf.to_yaml(got) == OmegaConf.to_yaml(expected), job
        assert OmegaConf.is_struct(got) == OmegaConf.is_struct(expected)


def test_files_are_read_once(loaders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, sharing, master = loaders
    first = sharing.load_sweep_config(master, ["similarity=wpmi", "similarity.top_k=5"])
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", None)
    second = sharing.load_sweep_config(master, ["similarity=wpmi", "similarity.top_k=6"])
    assert (first.similarity.top_k, second.similarity.top_k) == (5, 6)


def test_groups_of_other_folders_are_read(loaders: Any, tmp_path: Path) -> None:
    plain, sharing, _ = loaders
    (tmp_path / "show").mkdir()
    (tmp_path / "show" / "many.yaml").write_text("# @package _global_\nshow: 30\n")
    search = f"hydra.searchpath=['file://{tmp_path}']"
    master = plain.load_configuration("config", [search], RunMode.MULTIRUN)
    assert sharing.load_sweep_config(master, ["+show=many", "top=3"]).show == 30


@pytest.mark.parametrize("job", MISTAKES)
def test_mistakes_are_those_of_hydra(loaders: Any, job: list[str]) -> None:
    plain, sharing, master = loaders
    said = []
    for loader in (plain, sharing):
        with pytest.raises(Exception) as caught:
            loader.load_sweep_config(master, job)
        said.append((type(caught.value), str(caught.value), str(caught.value.__cause__)))
    assert said[0] == said[1]


@pytest.mark.parametrize("overrides", [["experiment=tune_wpmi"], ["profile=offline", "sae=auto"]])
def test_quick_compositions_of_the_tests_are_hydras(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    written = []
    for _ in range(2):
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose("config", overrides=overrides, return_hydra_config=True)
        written.append(OmegaConf.to_yaml(config))
        for place, name, value in quick_composition.HYDRAS:
            monkeypatch.setattr(place, name, value)
    assert written[0] == written[1]
