"""What `sae=` takes in Python, options by name, and modules of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sae_files
import torch
from torch import Tensor, nn

from clipdissect import sae as saes
from clipdissect.errors import DissectError
from clipdissect.sae import Sae

MODULE = """
import torch
from torch import nn

from clipdissect.sae import Sae

class Own(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.W_dec = nn.Parameter(torch.ones(2 * width, width, dtype=torch.float64))
    def encode(self, x):
        return x @ self.W_dec.T.to(x)
    def decode(self, codes):
        return codes @ self.W_dec.to(codes) + 1

def as_sae(layer):
    return Sae("mine", Own(), layer=layer, summary="cls")

def wrong():
    return 3
"""


class Own(nn.Module):
    """Codes are the negative activations."""

    def encode(self, x: Tensor) -> Tensor:
        return -x


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_sae.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_sae"


def test_a_module_of_a_function(own: str) -> None:
    sae = saes.build("module", factory=f"{own}:Own", arguments={"width": 4}, layer="blocks.1")
    assert sae is not None
    assert (sae.name, sae.format, sae.layer) == ("Own", "module", "blocks.1")
    assert (sae.inputs, sae.latents, sae.decodes) == (4, 8, True)
    assert sae.decoder is not None
    assert (sae.decoder.dtype, tuple(sae.decoder.shape)) == (torch.float32, (8, 4))
    x = torch.ones(2, 3, 4)
    codes = sae.encode(x)
    assert codes.tolist() == torch.full((2, 3, 8), 4.0).tolist()
    assert sae.decode(codes, x).tolist() == torch.full((2, 3, 4), 33.0).tolist()


def test_a_function_may_return_a_sae(own: str) -> None:
    sae = saes.build("module", factory=f"{own}:as_sae", arguments={"layer": "fc"})
    assert sae is not None
    assert (sae.name, sae.layer, sae.summary) == ("mine", "fc", "cls")
    moved = saes.build("module", factory=f"{own}:as_sae", arguments={"layer": "fc"}, layer="head")
    assert moved is not None
    assert moved.layer == "head"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("wrong", None, "must return a torch.nn.Module with encode, or a Sae; it returned a int"),
        ("absent", None, "unknown name in own_sae"),
        ("Own", 3, "sae.arguments must be names with values"),
        ("Own", {"depth": 3}, "sae.factory: own_sae:Own raised TypeError"),
        ("nn.Identity", None, "Identity has none"),
    ],
)
def test_functions_that_build_none(own: str, name: str, arguments: Any, says: str) -> None:
    with pytest.raises(DissectError) as caught:
        saes.build("module", factory=f"{own}:{name}", arguments=arguments)
    assert says in str(caught.value)


def test_resolve_takes_objects_paths_and_names(tmp_path: Path) -> None:
    sae_files.overcomplete(tmp_path / "sae.pt")
    sae_files.saelens(tmp_path / "a")
    given = Sae("given", Own())
    assert saes.resolve(given) is given
    assert saes.resolve(tmp_path / "a").format == "saelens"
    assert saes.resolve(str(tmp_path / "a")).name == "a"
    path = str(tmp_path / "sae.pt")
    named = saes.resolve({"name": "overcomplete", "path": path, "kind": "topk", "k": 4})
    assert named.facts == {"architecture": "topk", "k": 4}
    wrapped = saes.resolve(Own())
    assert (wrapped.name, wrapped.inputs, wrapped.decoder, wrapped.decodes) == (
        "Own",
        None,
        None,
        False,
    )
    assert wrapped.encode(torch.ones(1, 2)).tolist() == [[-1.0, -1.0]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "sae must be a path, a mapping such as"),
        (None, "got None"),
        ({"name": "none"}, "sae must be a path"),
        ({"path": "x"}, "sae must be a name, or a name with parameters"),
        ({"name": "saelense", "path": "x"}, "Did you mean saelens"),
        ({"name": "saelens", "folder": "x"}, "parameter of sae saelens 'folder'"),
        ({"name": "saelens"}, "sae saelens needs its parameter path"),
        ({"name": "saelens", "path": 3}, "sae saelens: path must be text"),
        (nn.Linear(2, 2), "needs a method encode"),
    ],
)
def test_resolve_refuses_others(given: Any, says: str) -> None:
    with pytest.raises(DissectError) as caught:
        saes.resolve(given)
    assert says in str(caught.value)


def test_none_is_no_sparse_autoencoder() -> None:
    assert saes.build("none") is None


def test_a_given_module_is_in_evaluation_mode() -> None:
    assert not saes.resolve(Own().train()).module.training
