"""Sparse autoencoders that the libraries save themselves: our encode and decode are theirs.

They run where the libraries are installed: pip install sae-lens overcomplete dictionary-learning
eai-sparsify.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import sae_files
import torch
from torch import Tensor, nn

from clipdissect import sae as saes
from clipdissect.sae import Sae
from clipdissect.sae.overcomplete import overcomplete

X = sae_files.activations(8)


def installed(module: str, package: str) -> Any:
    pytest.importorskip(module.partition(".")[0], reason=f"compares with the package {package}")
    return import_module(module)


@torch.no_grad()
def randomise(module: nn.Module, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def compare(sae: Sae, codes: Tensor, decoded: Tensor | None) -> None:
    assert (codes != 0).any()
    assert (codes == 0).any()
    got = sae.encode(X)
    torch.testing.assert_close(got, codes, atol=1e-5, rtol=1e-5)
    assert sae.decodes == (decoded is not None)
    if decoded is not None:
        torch.testing.assert_close(sae.decode(got, X), decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("standard", {}),
        ("standard", {"apply_b_dec_to_input": False}),
        ("standard", {"normalize_activations": "layer_norm"}),
        ("standard", {"normalize_activations": "constant_norm_rescale"}),
        ("gated", {}),
        ("jumprelu", {}),
        ("topk", {"k": 3}),
        ("topk", {"k": 3, "rescale_acts_by_decoder_norm": True}),
        ("transcoder", {"d_out": 4, "apply_b_dec_to_input": False}),
        ("jumprelu_skip_transcoder", {"d_out": 4, "apply_b_dec_to_input": False}),
    ],
)
def test_sae_lens(tmp_path: Path, architecture: str, settings: dict[str, Any]) -> None:
    installed("sae_lens", "sae-lens")
    kind, config = import_module("sae_lens.registry").get_sae_class(architecture)
    metadata = import_module("sae_lens.saes.sae").SAEMetadata(hook_name="blocks.3.hook_mlp_out")
    theirs = kind(config(d_in=6, d_sae=10, metadata=metadata, **settings))
    randomise(theirs)
    theirs.save_model(tmp_path)
    sae = saes.load(tmp_path)
    with torch.no_grad():
        codes = theirs.encode(X)
        decoded = theirs.decode(codes)
    compare(sae, codes, None if "transcoder" in architecture else decoded)
    assert sae.hook == "blocks.3.hook_mlp_out"


@pytest.mark.parametrize(
    ("module", "name", "k"),
    [
        ("dictionary", "AutoEncoder", None),
        ("dictionary", "AutoEncoderNew", None),
        ("dictionary", "GatedAutoEncoder", None),
        ("dictionary", "JumpReluAutoEncoder", None),
        ("trainers.top_k", "AutoEncoderTopK", 3),
        ("trainers.batch_top_k", "BatchTopKSAE", 3),
        ("trainers.matryoshka_batch_top_k", "MatryoshkaBatchTopKSAE", 3),
    ],
)
def test_dictionary_learning(tmp_path: Path, module: str, name: str, k: int | None) -> None:
    library = installed(f"dictionary_learning.{module}", "dictionary-learning")
    settings: dict[str, Any] = {} if k is None else {"k": k}
    if "Matryoshka" in name:
        settings["group_sizes"] = [4, 6]
    theirs = getattr(library, name)(6, 10, **settings)
    randomise(theirs)
    if k is not None:
        theirs.threshold.fill_(0.5)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": 6, "dict_size": 10, "layer": 3, **settings}
    sae_files.write_json(tmp_path / "config.json", {"trainer": trainer})
    loaded = getattr(library, name).from_pretrained(tmp_path / "ae.pt")
    with torch.no_grad():
        codes = loaded.encode(X)
        decoded = loaded.decode(codes)
    compare(saes.load(tmp_path), codes, decoded)


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize("transcode", [True, False])
def test_sparsify(tmp_path: Path, activation: str, transcode: bool) -> None:
    library = installed("sparsify", "eai-sparsify")
    config = library.SparseCoderConfig(
        activation=activation, num_latents=10, k=5, transcode=transcode
    )
    theirs = library.SparseCoder(6, config)
    randomise(theirs)
    theirs.save_to_disk(tmp_path / "layers.3")
    with torch.no_grad():
        values, indices, _ = theirs.encode(X)
    codes = torch.zeros(8, 10).scatter_(-1, indices, values)
    decoded = codes @ theirs.W_dec.detach() + theirs.b_dec.detach()  # their kernels need a GPU
    compare(saes.load(tmp_path / "layers.3"), codes, None if transcode else decoded)


@pytest.fixture
def their_saes(monkeypatch: pytest.MonkeyPatch) -> Any:
    from matplotlib import colormaps
    from matplotlib import pyplot as plt

    # overcomplete 0.3 uses it at import, and matplotlib 3.9 removed it.
    monkeypatch.setattr(plt.cm, "get_cmap", colormaps.__getitem__, raising=False)
    return installed("overcomplete.sae", "overcomplete")


@pytest.mark.parametrize(
    ("name", "given", "ours"),
    [
        ("SAE", {}, {"kind": "relu"}),
        ("TopKSAE", {"top_k": 3}, {"kind": "topk", "k": 3}),
        ("JumpSAE", {}, {}),
        ("RATopKSAE", {"top_k": 3}, {"kind": "topk", "k": 3}),
        ("RAJumpSAE", {}, {"kind": "jump"}),
    ],
)
def test_overcomplete(
    tmp_path: Path, their_saes: Any, name: str, given: dict[str, Any], ours: dict[str, Any]
) -> None:
    points = {"points": sae_files.activations(12)} if name.startswith("RA") else {}
    theirs = getattr(their_saes, name)(6, 10, **points, **given)
    randomise(theirs, 0.3)  # relaxations shorter than their limit
    torch.save(theirs.state_dict(), tmp_path / "sae.pt")
    theirs.eval()
    with torch.no_grad():
        codes = theirs.encode(X)[1]
        decoded = theirs.decode(codes)
    compare(overcomplete(str(tmp_path), **ours), codes, decoded)


def test_overcomplete_batch_topk(tmp_path: Path, their_saes: Any) -> None:
    theirs = their_saes.BatchTopKSAE(6, 10, top_k=30)
    randomise(theirs)
    # Sets the threshold, to a value that rounding can't decide about in X.
    theirs.encode(sae_files.activations(8, seed=9))
    torch.save(theirs.state_dict(), tmp_path / "sae.pt")
    theirs.eval()
    with torch.no_grad():
        codes = theirs.encode(X)[1]
        decoded = theirs.decode(codes)
    threshold = float(theirs.running_threshold)
    compare(overcomplete(str(tmp_path), kind="batch_topk", threshold=threshold), codes, decoded)


@pytest.mark.parametrize("tie", ["tied", "untied"])
def test_overcomplete_with_an_encoder_of_the_dictionary(
    tmp_path: Path, their_saes: Any, tie: str
) -> None:
    theirs = getattr(their_saes.SAE(6, 10), tie)(bias=True)
    randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "sae.pt")
    theirs.eval()
    with torch.no_grad():
        codes = theirs.encode(X)[1]
        decoded = theirs.decode(codes)
    compare(overcomplete(str(tmp_path), kind="relu"), codes, decoded)
