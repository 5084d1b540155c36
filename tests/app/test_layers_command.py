"""`clipdissect layers`, and targets of every option from a composed config."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from clipdissect import targets as target
from clipdissect.app.build import build_group
from clipdissect.app.commands import layers
from clipdissect.app.help import COMMANDS, RUNNERS, conf_folder, usage
from clipdissect.app.schema import register
from clipdissect.capture.capture import check_layers
from clipdissect.capture.model_summary import summarise_model

NET = """
import torch
from torch import nn

def build(width=4):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(inplace=True))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))
"""
OWN = [
    "target.layers=[all_convs,'3']",
    "target.preprocess.image_size=16",
    "target.classes=names.txt",
]
OPTIONS = {
    "module": ["target.factory=some_net:build", "target.arguments={width: 5}", *OWN],
    "checkpoint": ["target.factory=some_net:build", "target.checkpoint=net.pth", *OWN],
    "hub_dir": ["target.folder=.", "target.entry=build", *OWN],
    "exported": ["target.path=net.pt2", *OWN],
    "torchvision": [
        "target.model=squeezenet1_1",
        "target.weights=random",
        "target.layers=['features.*']",
    ],
    "timm": ["target.model=test_resnet", "target.weights=random"],
    "resnet18_places365": ["target.checkpoint=places.pth.tar"],
    "resnet18": ["target.checkpoint=resnet18.safetensors"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's code, and every kind of file."""
    from safetensors.torch import save_file
    from torchvision import models

    folder = tmp_path_factory.mktemp("files")
    (folder / "some_net.py").write_text(NET)
    (folder / "hubconf.py").write_text("from some_net import build\n")
    (folder / "names.txt").write_text("cat\ndog\nwheel\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        net = importlib.import_module("some_net").build().eval()
    sys.modules.pop("some_net")
    torch.save(net.state_dict(), folder / "net.pth")
    places = models.resnet18(num_classes=365).state_dict()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in places.items()}}, folder / "places.pth.tar"
    )
    save_file(models.resnet18().state_dict(), folder / "resnet18.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.rand(2, 3, 16, 16)
        shapes = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), folder / "net.pt2")
    return folder


@pytest.fixture
def here(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("some_net", "hubconf"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return files


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_built_from_its_config(here: Path, option: str) -> None:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"target={option}", *OPTIONS[option]])
    found: target.Target = build_group(target.build, config.target)
    check_layers(found, found.layers)
    rows = {row.name: row for row in summarise_model(found)}
    assert all(rows[layer].units for layer in found.layers)
    if OWN[0] in OPTIONS[option]:
        assert found.class_names == ("cat", "dog", "wheel")
        assert (rows["3"].units, rows["0.0"].units) == (3, 5 if option == "module" else 4)


def test_no_option_is_left_out() -> None:
    from clipdissect.targets.torchvision import PRESETS

    elsewhere = {*PRESETS, *(f"efficientnet_lite{n}" for n in range(3))}
    assert {*OPTIONS, *elsewhere} == set(target.OPTIONS)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["clipdissect layers", *arguments])
    layers.main()


def test_layers_are_listed_and_nothing_is_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    run(monkeypatch, "target=module", *OPTIONS["module"])
    said = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert "* 0.0 Conv2d (images, 5, 14, 14) 5 mean over 14 x 14 positions" in rows
    assert "* 3 Linear (images, 3) 3 vector" in rows
    assert "chosen: 2 layers, 8 units" in said
    assert "classes: 3, 3 names" in said
    after = {p for p in here.rglob("*") if "__pycache__" not in p.parts}
    assert after == set(before) - {p for p in before if "__pycache__" in p.parts}


def test_layers_without_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    run(monkeypatch, "target=resnet18")
    said = capsys.readouterr().out
    assert "random" in said
    assert "chosen: 5 layers, 1024 units" in said
    with pytest.raises(SystemExit):
        run(monkeypatch, "target=resnet18", "target.checkpoint=gone.pth")
    assert "gone.pth" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_usage_lists_the_commands() -> None:
    assert "layers" in COMMANDS
    assert not set(COMMANDS) & set(RUNNERS)
    assert "List a target's modules" in usage()
