"""Checkpoints of MILAN's structure are loaded, and everything else is refused unexecuted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from milan_files import STOP, TOKENS, Modules, payload, write
from torch import Tensor
from torchvision import models

from clipdissect.errors import DissectError, MissingResource
from clipdissect.method.milan import checkpoint


@pytest.mark.parametrize("module", ["thinc.config", "confection"])
def test_round_trip(tmp_path: Path, module: str) -> None:
    path = write(tmp_path / "milan.pth", module)
    with pytest.raises(Exception, match="Config"):  # torch alone refuses it
        torch.load(path, weights_only=True)
    model = checkpoint.load(path)
    assert model.vocabulary.tokens == TOKENS
    assert model.vocabulary.stop == STOP
    with Modules(module):
        state = payload(True, module)["state_dict"]
    loaded = {f"lm.{n}": t for n, t in model.lm.state_dict().items()} if model.lm else {}
    loaded |= model.decoder.state_dict()
    assert set(loaded) == {n for n in state if not n.startswith("encoder.")}
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, state[name], atol=0, rtol=0)
    assert model.facts["encoder"] == "resnet18"
    assert model.facts["beam_size"] == 50
    assert not model.decoder.training
    assert len(model.digest) == 64


@torch.no_grad()
def test_the_encoder_is_torchvisions(tmp_path: Path) -> None:
    model = checkpoint.load(write(tmp_path / "milan.pth"))
    with Modules("thinc.config"):
        state = payload()["state_dict"]
    prefix = "encoder.encoder.model."
    network = models.resnet18()
    network.load_state_dict(
        {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    )
    seen: list[Tensor] = []
    for layer in (network.conv1, network.layer1, network.layer2, network.layer3, network.layer4):
        layer.register_forward_hook(lambda *arguments: seen.append(arguments[2].clone()))
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = state["encoder.mean"], state["encoder.std"]
    network.eval()((images / 255 - mean) / std)
    found = model.encoder(images)
    assert [values.shape[1] for values in found] == [64, 64, 128, 256, 512]
    for expected, values in zip(seen, found, strict=True):
        torch.testing.assert_close(values, expected)


def test_without_a_language_model(tmp_path: Path) -> None:
    assert checkpoint.load(write(tmp_path / "milan.pth", lm=False)).lm is None


class Harmful:
    """Unpickling this would call `Path.touch`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_objects_are_refused_and_not_executed(tmp_path: Path) -> None:
    made: dict[str, Any] = {"properties": {"indexer": Harmful(tmp_path / "touched")}}
    torch.save(made, tmp_path / "bad.pth")
    with pytest.raises(DissectError, match="can't be read safely: it holds Python objects"):
        checkpoint.load(tmp_path / "bad.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"embedding.weight": torch.zeros(11, 3)}, "11 rows, but its vocabulary has 8 tokens"),
        ({"lm.embedding.weight": torch.zeros(13, 2)}, "13 rows"),
        ({"init_h.0.weight": torch.zeros(5, 1152)}, r"decoder.*init_h\.0\.weight \(5, 1152\)"),
        ({"feature_gate.0.bias": None}, "decoder.*missing.*feature_gate"),
        ({"extra": torch.zeros(1)}, "decoder.*unexpected.*extra"),
        ({"encoder.encoder.model.conv1.weight": None}, "encoder.*missing"),
        ({"encoder.mean": None}, "encoder.*missing.*mean"),
        ({"lm.output.0.bias": None}, "language model.*missing"),
        ({"lstm.weight_hh": None}, r"no matrix lstm\.weight_hh"),
        ({"extra": 3}, "other values than tensors"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        checkpoint.load(write(tmp_path / "milan.pth", **changes))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda made: made.pop("properties"), "it has no properties"),
        (lambda made: made["children"].update(encoder="SpatialConvEncoder"), "SpatialConvEncoder"),
        (
            lambda made: made["properties"]["encoder"]["properties"].update(config="resnet1001"),
            "unknown encoder.*Did you mean resnet101",
        ),
        (lambda made: made["properties"].update(lm=None), "language model in one of"),
        (
            lambda made: made["properties"]["indexer"]["properties"]["vocab"]["properties"].update(
                tokens=(1, 2)
            ),
            "are no texts",
        ),
    ],
)
def test_other_structures(tmp_path: Path, change: Any, says: str) -> None:
    with Modules("thinc.config"):
        made = payload()
        change(made)
        torch.save(made, tmp_path / "milan.pth")
    with pytest.raises(DissectError, match=says):
        checkpoint.load(tmp_path / "milan.pth")


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="clipdissect fetch milan"):
        checkpoint.load(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(DissectError, match="can't be read safely"):
        checkpoint.load(tmp_path / "text.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DissectError, match="no checkpoint of MILAN"):
        checkpoint.load(tmp_path / "other.pth")
