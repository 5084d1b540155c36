"""Runs the studies' runners on tiny stand-ins, whatever the config names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from test_final_layer import no_clip
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess
from torch import Tensor
from torch.nn import functional as F

from clipdissect import probe, sentence
from clipdissect.app import build as parts
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import register
from clipdissect.probe import Probe
from clipdissect.targets import Target


def class_folders(root: Path, folders: Mapping[str, tuple[int, int, int]]) -> Probe:
    """Two images a class, in its folder and two shades of its colour."""
    for folder, rgb in folders.items():
        for shade in (10, 9):
            path = root / folder / f"{shade}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), tuple(c * shade // 10 for c in rgb)).save(path)
    return probe.build("folder", root=str(root), labels="folders")


@dataclass
class NamedEncoder(ColourEncoder):
    """Texts by the colour that stands for them; white for anything else."""

    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Tensor:
        rgb = [self.colours.get(t) or COLOURS.get(t) or (255, 255, 255) for t in texts]
        return F.normalize(torch.tensor(rgb, dtype=torch.float32), dim=-1)


@dataclass
class NamedSentences:
    """A sentence encoder of the same kind."""

    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    name: str = "mpnet"
    digest: str = "mpnet"
    context_length: int = 9

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [1] * len(texts)

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Tensor:
        return NamedEncoder(colours=self.colours).embed_texts(texts)


def tiny_target(names: Sequence[str], layers: Sequence[str] = ("conv",)) -> Target:
    """ColourNet with class names."""
    return Target("tiny", ColourNet(), preprocess(), tuple(layers), "head", tuple(names))


Study = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """Runs `experiments.<name>` with the given networks and overrides; gives the folder."""
    register()
    monkeypatch.setitem(sentence.OPTIONS, "clip_text", no_clip)
    monkeypatch.setattr(parts, "multirun", lambda: None)
    monkeypatch.setattr(parts, "identity", lambda: (None, ()))
    monkeypatch.setattr(parts, "job_name", lambda: "study")
    count = iter(range(20))

    def run(
        runner: Any,
        target: Target,
        *overrides: str,
        colours: Mapping[str, tuple[int, int, int]] | None = None,
        **builders: Any,
    ) -> Path:
        folder = tmp_path / f"run{next(count)}"
        name = runner.__name__.rpartition(".")[2]
        colours = colours or {}
        built = {"target": target, "encoder": NamedEncoder(colours=colours), **builders}
        for group, what in built.items():
            monkeypatch.setitem(parts.BUILDERS, group, lambda what=what, **_: what)
        monkeypatch.setitem(sentence.OPTIONS, "mpnet", lambda path=None: NamedSentences(colours))
        monkeypatch.setattr(runner, "results_folder", lambda: folder)
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose(
                "config",
                overrides=[
                    f"study={name}",
                    "capture.workers=0",
                    "capture.device=cpu",
                    "evaluation.resamples=100",
                    *overrides,
                ],
            )
        runner.run(config)
        return folder

    yield run


def facts(folder: Path, name: str = "metrics") -> Any:
    """A run's JSON file."""
    return json.loads((folder / f"{name}.json").read_text())


def no_images(*_: Any, **__: Any) -> None:
    """In place of `capture`, where a mistake must be told before it."""
    pytest.fail("images were shown to the networks")
