"""The examples of CONTRIBUTING.md, as they stand there."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from sets import picture

from clipdissect.app.build import BUILDERS, build_group
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import register, schema_of
from clipdissect.app.signatures import GROUPS, parameters_of

EXAMPLES = re.compile(
    r"`clipdissect/(?P<group>\w+?)s?/(?P<name>\w+)\.py`.*?\n```python\n(?P<code>.*?)```\s+"
    r"`conf/(?P=group)/(?P=name)\.yaml`:\n\n```yaml\n(?P<config>.*?)```",
    re.DOTALL,
)
FOUND = {m["group"]: m for m in EXAMPLES.finditer((ROOT / "CONTRIBUTING.md").read_text())}
DOCUMENTED = re.compile(r'`"(\w+)": (\w+)`')


def test_there_is_an_example_of_each_kind() -> None:
    assert set(FOUND) == {"probe", "target", "similarity"}


@pytest.fixture(params=FOUND)
def example(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """An example's group and name, in place: its module, its entry in OPTIONS, its config."""
    found = FOUND[request.param]
    group, name = found["group"], found["name"]
    module = types.ModuleType(f"clipdissect.{group}.{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(found["code"], vars(module))  # the document's own, as a contributor would paste it
    entry = DOCUMENTED.search(found[0])
    assert entry and entry[1] == name
    monkeypatch.setitem(GROUPS[group], name, vars(module)[entry[2]])
    (tmp_path / group).mkdir()
    (tmp_path / group / f"{name}.yaml").write_text(found["config"])
    register()
    schema = schema_of(name, parameters_of(vars(module)[entry[2]]))
    ConfigStore.instance().store(group=f"schema/{group}", name=name, node=schema)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield group, name


def test_an_example_composes_and_builds(example: tuple[str, str], tmp_path: Path) -> None:
    group, name = example
    picture(tmp_path / "photos" / "flowers" / "rose.jpg")
    given = [f'probe.root="{tmp_path / "photos"}"'] if group == "probe" else []
    search = f"hydra.searchpath=['file://{tmp_path}']"
    config = compose("config", overrides=[search, f"{group}={name}", *given])
    built = build_group({**BUILDERS, "similarity": _similarity}[group], config[group])
    check = {"probe": _check_probe, "target": _check_target, "similarity": _check_similarity}
    check[group](built)


def test_an_examples_config_lists_its_functions_parameters(example: tuple[str, str]) -> None:
    group, name = example
    values = yaml.safe_load(FOUND[group]["config"])
    assert set(values) - {"defaults"} == {"name", *parameters_of(GROUPS[group][name])}
    assert values["defaults"] == [f"/schema/{group}/{name}@_here_", "_self_"]


def _similarity(**given: Any) -> Any:
    from clipdissect import similarity

    return similarity.build(**given)


def _check_probe(probe: Any) -> None:
    assert probe.images == ("flowers/rose.jpg",)
    assert probe.read(0).size == (12, 10)


def _check_target(target: Any) -> None:
    assert target.layers == ("0", "2")
    assert target.model(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 28, 28)
    assert target.facts["weights"] == "random"


def _check_similarity(dot: Any) -> None:
    P, q = torch.rand(6, 4), torch.rand(6, 3)
    assert torch.allclose(dot(P, q), q.T @ P)
    assert dot.parameters == {"memory_gb": None, "dead": "exclude", "scale": 1.0}
