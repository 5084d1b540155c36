"""Files of every library are encoded and decoded as written out here for each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sae_files
import torch
from safetensors.torch import save_file
from torch import Tensor

from clipdissect import sae as saes
from clipdissect.errors import DissectError
from clipdissect.sae import Sae
from clipdissect.sae.overcomplete import overcomplete
from clipdissect.sae.saev import saev

X = sae_files.activations(4, 5)


def largest(h: Tensor, k: int) -> Tensor:
    """Zeros but for the k largest of each row."""
    kth = h.sort(dim=-1, descending=True).values[..., k - 1 : k]
    return torch.where(h >= kth, h, torch.zeros(()))


def check(sae: Sae, codes: Tensor, decoded: Tensor | None) -> None:
    got = sae.encode(X)
    assert (codes != 0).float().mean() > 0.1
    torch.testing.assert_close(got, codes, atol=1e-5, rtol=1e-5)
    assert (sae.inputs, sae.latents) == (6, 10)
    assert sae.decodes == (decoded is not None)
    if decoded is not None:
        torch.testing.assert_close(sae.decode(got, X), decoded, atol=1e-5, rtol=1e-5)


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt().add(1e-5)


def undo_layer_norm(y: Tensor) -> Tensor:
    return y * X.std(-1, keepdim=True) + X.mean(-1, keepdim=True)


# SAELens


def test_saelens_standard(tmp_path: Path) -> None:
    t = sae_files.saelens(tmp_path)
    sae = saes.load(tmp_path)
    codes = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    check(sae, codes, codes @ t["W_dec"] + t["b_dec"])
    assert sae.description == {
        "name": tmp_path.name,
        "format": "saelens",
        "hook": "blocks.9.hook_resid_post",
        "architecture": "standard",
        "version": "6.5.0",
        "model": "vit",
        "inputs": 6,
        "latents": 10,
    }
    assert (sae.summary, sae.notes, sae.layer) == ("max", (), None)
    assert sae.decoder is not None
    assert torch.equal(sae.decoder, t["W_dec"])


def test_saelens_without_subtraction(tmp_path: Path) -> None:
    t = sae_files.saelens(tmp_path, apply_b_dec_to_input=False)
    codes = (X @ t["W_enc"] + t["b_enc"]).relu()
    check(saes.load(tmp_path), codes, codes @ t["W_dec"] + t["b_dec"])


def test_saelens_jumprelu(tmp_path: Path) -> None:
    t = sae_files.saelens(tmp_path, "jumprelu")
    h = (X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    codes = h.relu() * (h > t["threshold"])
    check(saes.load(tmp_path), codes, codes @ t["W_dec"] + t["b_dec"])


def test_saelens_gated(tmp_path: Path) -> None:
    t = sae_files.saelens(tmp_path, "gated")
    x = X - t["b_dec"]
    gate = (x @ t["W_enc"] + t["b_gate"] > 0).float()
    codes = gate * (x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    check(saes.load(tmp_path), codes, codes @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("rescale", [True, False])
def test_saelens_topk(tmp_path: Path, rescale: bool) -> None:
    t = sae_files.saelens(tmp_path, "topk", k=4, rescale_acts_by_decoder_norm=rescale)
    norms = (t["W_dec"] ** 2).sum(1).sqrt() if rescale else torch.ones(10)
    codes = largest(((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norms, 4).relu()
    sae = saes.load(tmp_path)
    check(sae, codes, (codes / norms) @ t["W_dec"] + t["b_dec"])
    assert sae.facts["k"] == 4


@pytest.mark.parametrize("function", ["relu", "topk"])
def test_saelens_3(tmp_path: Path, function: str) -> None:
    kwargs = {"k": 4} if function == "topk" else {}
    t = sae_files.saelens_3(tmp_path, activation_fn_str=function, activation_fn_kwargs=kwargs)
    h = (X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    codes = (h if function == "relu" else largest(h, 4)).relu()
    sae = saes.load(tmp_path)
    check(sae, codes, codes @ t["W_dec"] + t["b_dec"])
    assert sae.hook == "blocks.9.hook_resid_post"
    assert sae.facts["architecture"] == {"relu": "standard", "topk": "topk"}[function]


def test_saelens_layer_norm(tmp_path: Path) -> None:
    t = sae_files.saelens(tmp_path, normalize_activations="layer_norm")
    codes = ((layer_norm(X) - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    check(saes.load(tmp_path), codes, undo_layer_norm(codes @ t["W_dec"] + t["b_dec"]))


def test_saelens_constant_norm(tmp_path: Path) -> None:
    t = sae_files.saelens(tmp_path, normalize_activations="constant_norm_rescale")
    factor = 6**0.5 / (X**2).sum(-1, keepdim=True).sqrt()
    codes = ((X * factor - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    check(saes.load(tmp_path), codes, (codes @ t["W_dec"] + t["b_dec"]) / factor)


@pytest.mark.parametrize("value", ["expected_average_only_in", True])
def test_saelens_scaled_activations_are_noted(tmp_path: Path, value: Any) -> None:
    t = sae_files.saelens(tmp_path, normalize_activations=value)
    sae = saes.load(tmp_path)
    codes = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    check(sae, codes, codes @ t["W_dec"] + t["b_dec"])
    assert "folded into its weights" in sae.notes[0]


@pytest.mark.parametrize("architecture", ["transcoder", "jumprelu_skip_transcoder"])
def test_saelens_transcoder(tmp_path: Path, architecture: str) -> None:
    t = sae_files.weights()
    t |= {"W_dec": torch.randn(10, 3), "b_dec": torch.randn(3)}
    if "skip" in architecture:
        t["W_skip"] = torch.randn(3, 6)
    t = sae_files.saelens(tmp_path, architecture, t, d_out=3)
    h = X @ t["W_enc"] + t["b_enc"]
    codes = h.relu() * (h > t["threshold"]) if "jump" in architecture else h.relu()
    sae = saes.load(tmp_path)
    check(sae, codes, None)
    assert sae.decoder is None
    with pytest.raises(DissectError, match="doesn't reconstruct its input"):
        sae.decode(codes, X)


def test_a_scaling_factor_of_one_is_ignored(tmp_path: Path) -> None:
    t = sae_files.weights() | {"scaling_factor": torch.ones(10)}
    sae_files.saelens_3(tmp_path, t)
    assert saes.load(tmp_path).latents == 10


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    t = {k: v.to(torch.bfloat16) for k, v in sae_files.weights().items()}
    sae_files.saelens(tmp_path, tensors=t)
    sae = saes.load(tmp_path)
    assert sae.decoder is not None
    assert sae.decoder.dtype == torch.float32
    assert torch.equal(sae.decoder, t["W_dec"].float())


# Prisma


def test_prisma_standard(tmp_path: Path) -> None:
    t = sae_files.prisma(tmp_path)
    sae = saes.load(tmp_path)
    codes = ((layer_norm(X) - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    check(sae, codes, undo_layer_norm(codes @ t["W_dec"] + t["b_dec"]))
    assert sae.hook == "blocks.9.hook_resid_post"
    assert (sae.summary, sae.notes, sae.facts.get("tokens")) == ("max", (), None)
    assert sae.facts["normalisation"] == "layer_norm"


def test_prisma_topk_by_any_file_name(tmp_path: Path) -> None:
    kwargs = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    t = sae_files.prisma(
        tmp_path, name="n_images_2600058.pt", normalize_activations="none", d_sae=None, **kwargs
    )
    codes = largest((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"], 3).relu()
    check(saes.load(tmp_path), codes, codes @ t["W_dec"] + t["b_dec"])


def test_prisma_gated(tmp_path: Path) -> None:
    t = sae_files.prisma(tmp_path, architecture="gated", normalize_activations=None)
    x = layer_norm(X) - t["b_dec"]
    gate = (x @ t["W_enc"] + t["b_gate"] > 0).float()
    codes = gate * (x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    check(saes.load(tmp_path), codes, undo_layer_norm(codes @ t["W_dec"] + t["b_dec"]))


def test_prisma_tokens(tmp_path: Path) -> None:
    sae_files.prisma(tmp_path / "cls", cls_token_only=True)
    sae_files.prisma(tmp_path / "patches", use_patches_only=True)
    cls, patches = (saes.load(tmp_path / name) for name in ("cls", "patches"))
    assert (cls.summary, cls.facts["tokens"], cls.notes) == ("cls", "class", ())
    assert (patches.summary, patches.facts["tokens"]) == ("max", "patches")
    assert "not on the class token" in patches.notes[0]


# saev


def test_saev_relu_does_not_subtract_the_bias(tmp_path: Path) -> None:
    t = sae_files.saev(tmp_path / "sae.pt")
    sae = saes.load(tmp_path / "sae.pt")
    codes = (X @ t["W_enc"] + t["b_enc"]).relu()
    check(sae, codes, codes @ t["W_dec"] + t["b_dec"])
    assert sae.facts == {
        "architecture": "Relu",
        "schema": 4,
        "version": "0.5.0",
        "commit": "abc1234",
    }


def test_saev_topk_keeps_negative_values(tmp_path: Path) -> None:
    t = sae_files.saev(tmp_path / "sae.pt", "TopK", top_k=7)
    codes = largest(X @ t["W_enc"] + t["b_enc"], 7)
    assert (codes < 0).any()
    check(saes.load(tmp_path), codes, codes @ t["W_dec"] + t["b_dec"])


def test_saev_batch_topk_has_a_threshold_from_schema_3(tmp_path: Path) -> None:
    t = sae_files.saev(tmp_path / "sae.pt", "BatchTopK", top_k=3)
    h = X @ t["W_enc"] + t["b_enc"]
    sae = saes.load(tmp_path)
    codes = torch.where(h > 0.4, h, torch.zeros(()))
    check(sae, codes, codes @ t["W_dec"] + t["b_dec"])
    assert sae.facts["k"] == 3


def test_saev_batch_topk_without_threshold_is_per_activation(tmp_path: Path) -> None:
    t = sae_files.saev(tmp_path / "sae.pt", "BatchTopK", schema=2, top_k=3)
    codes = largest(X @ t["W_enc"] + t["b_enc"], 3)
    check(saes.load(tmp_path), codes, codes @ t["W_dec"] + t["b_dec"])


def test_saev_threshold_that_was_never_trained_keeps_positive_values(tmp_path: Path) -> None:
    t = sae_files.weights()
    header = {"schema": 3, "cfg": {"activation": {"cls": "BatchTopK", "params": {"top_k": 3}}}}
    stored = t | {"activation.threshold": torch.tensor(0.0)}
    sae_files.saev_file(tmp_path / "sae.pt", header, stored)
    codes = (X @ t["W_enc"] + t["b_enc"]).relu()
    check(saes.load(tmp_path), codes, codes @ t["W_dec"] + t["b_dec"])


def test_saev_without_schema_subtracts_the_bias(tmp_path: Path) -> None:
    t = sae_files.saev(tmp_path / "sae.pt", tensors=sae_files.weights(6, 12), schema=None)
    sae = saes.load(tmp_path)
    codes = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(X), codes, atol=1e-5, rtol=1e-5)
    assert "sae.subtract_bias=false" in sae.notes[0]
    told = saev(str(tmp_path), subtract_bias=False)
    codes = (X @ t["W_enc"] + t["b_enc"]).relu()
    torch.testing.assert_close(told.encode(X), codes, atol=1e-5, rtol=1e-5)
    assert told.notes == ()


def test_saev_schema_1_has_its_activation_outside_of_the_config(tmp_path: Path) -> None:
    header = {"schema": 1, "cls": "TopK", "cfg": {"d_vit": 6, "exp_factor": 2, "top_k": 4}}
    t = sae_files.saev_file(tmp_path / "sae.pt", header, sae_files.weights(6, 12))
    codes = largest(X @ t["W_enc"] + t["b_enc"], 4)
    torch.testing.assert_close(saes.load(tmp_path).encode(X), codes, atol=1e-5, rtol=1e-5)


# dictionary_learning


def expected_codes(name: str, t: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions of dictionary_learning's classes."""
    if name == "JumpReluAutoEncoder":
        h = X @ t["W_enc"] + t["b_enc"]
        codes = (h * (h > t["threshold"])).relu()
        return codes, codes @ t["W_dec"] + t["b_dec"]
    if name == "MatryoshkaBatchTopKSAE":
        f = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
        codes = f * (f > t["threshold"])
        return codes, codes @ t["W_dec"] + t["b_dec"]
    if name == "GatedAutoEncoder":
        h = (X - t["decoder_bias"]) @ t["encoder.weight"].T
        magnitudes = (t["r_mag"].exp() * h + t["mag_bias"]).relu()
        codes = (h + t["gate_bias"] > 0) * magnitudes
        return codes, codes @ t["decoder.weight"].T + t["decoder_bias"]
    bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(name, "b_dec")
    x = X if name == "AutoEncoderNew" else X - t[bias]
    f = (x @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    decoder = t["decoder.weight"].T
    if name == "AutoEncoder":
        norms = (decoder**2).sum(1).sqrt()
        f, decoder = f * norms, decoder / norms[:, None]
    if name == "AutoEncoderTopK":
        f = largest(f, 3)
    if name == "BatchTopKSAE":
        f = f * (f > 0.4)
    return f, f @ decoder + t[bias]


@pytest.mark.parametrize(
    "name",
    [
        "AutoEncoder",
        "AutoEncoderNew",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
        "MatryoshkaBatchTopKSAE",
    ],
)
def test_dictionary_learning(tmp_path: Path, name: str) -> None:
    tensors = sae_files.dictionary_learning(tmp_path, name)
    sae = saes.load(tmp_path)
    check(sae, *expected_codes(name, tensors))
    assert sae.hook == "layer 9, resid_post"
    assert sae.facts.get("k") == (3 if "TopK" in name else None)
    assert sae.decoder is not None
    assert sae.decoder.shape == (10, 6)


# sparsify


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize("transcode", [True, False])
def test_sparsify(tmp_path: Path, activation: str, transcode: bool) -> None:
    folder = tmp_path / "layers.9"
    t = sae_files.sparsify(folder, activation=activation, k=5, transcode=transcode)
    x = X if transcode else X - t["b_dec"]
    f = (x @ t["W_enc"] + t["b_enc"]).relu()
    codes = largest(f, 5)
    if activation == "groupmax":
        codes = torch.cat([largest(f[..., i : i + 2], 1) for i in range(0, 10, 2)], dim=-1)
    sae = saes.load(folder)
    check(sae, codes, None if transcode else codes @ t["W_dec"] + t["b_dec"])
    assert (sae.hook, sae.name, sae.facts["k"]) == ("layers.9", "layers.9", 5)


def test_sparsify_with_a_skip_connection_does_not_decode(tmp_path: Path) -> None:
    t = sae_files.sparsify(tmp_path, skip_connection=True)
    codes = largest(((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu(), 3)
    sae = saes.load(tmp_path)
    check(sae, codes, None)
    assert sae.facts["skip_connection"] is True


def test_sparsify_counts_latents_by_the_factor(tmp_path: Path) -> None:
    sae_files.sparsify(tmp_path, sae_files.weights(6, 24), num_latents=0, expansion_factor=4)
    assert saes.load(tmp_path).latents == 24


# overcomplete


def pre_codes(t: dict[str, Tensor]) -> Tensor:
    linear = "encoder.final_block.0"
    return X @ t[f"{linear}.weight"].T + t[f"{linear}.bias"]


@pytest.mark.parametrize("kind", ["relu", "topk", "batch_topk", "jump"])
def test_overcomplete(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "sae.pt"
    t = sae_files.overcomplete(file, kind)
    f = pre_codes(t).relu()
    cut = float(f[f > 0].median())  # a value that occurs
    given: dict[str, Any] = {"topk": {"k": 4}, "batch_topk": {"threshold": cut}}.get(kind, {})
    codes = {
        "relu": f,
        "topk": largest(f, 4),
        "batch_topk": f * (f >= cut),
        "jump": f * (f >= t["thresholds"].exp()) if kind == "jump" else f,
    }[kind]
    rows = t["dictionary._weights"]
    rows = rows / (rows**2).sum(1, keepdim=True).sqrt() * torch.tensor(0.5).exp()
    check(overcomplete(str(file), kind=kind, **given), codes, codes @ rows)


def test_overcomplete_is_recognised_by_its_thresholds(tmp_path: Path) -> None:
    t = sae_files.overcomplete(tmp_path / "sae.pt", "jump", archetypal=True)
    f = pre_codes(t).relu()
    codes = f * (f >= t["thresholds"].exp())
    shares = t["dictionary.W"].relu()
    shares = shares / shares.sum(1, keepdim=True)
    rows = (shares @ t["dictionary.C"] + t["dictionary.Relax"]) * torch.tensor(0.5).exp()
    check(saes.load(tmp_path / "sae.pt"), codes, codes @ rows)


@pytest.mark.parametrize(
    ("normalization", "norm"),
    [("l1", [3.0, 7.0]), ("max_l1", [7.0, 7.0]), ("max_l2", [5.0, 5.0]), ("identity", [1.0, 1.0])],
)
def test_overcomplete_normalises_its_dictionary(
    tmp_path: Path, normalization: str, norm: list[float]
) -> None:
    t = sae_files.weights(2, 2) | {"W_dec": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    sae_files.overcomplete(tmp_path / "sae.pt", tensors=t)
    sae = overcomplete(str(tmp_path), kind="relu", normalization=normalization)
    expected = t["W_dec"] / torch.tensor(norm)[:, None] * 1.6487213
    torch.testing.assert_close(sae.decoder, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_overcomplete_with_an_encoder_of_the_dictionary(tmp_path: Path, tied: bool) -> None:
    rows = torch.nn.functional.normalize(sae_files.weights()["W_dec"], dim=1)
    stored = {"dictionary._weights": rows, "dictionary.multiplier": torch.tensor(0.0)}
    if tied:
        stored |= {f"encoder.tied_to.{k.partition('.')[2]}": v for k, v in stored.items()}
    else:
        stored |= {"encoder.weight": 2 * rows, "encoder.bias": torch.ones(10)}
    save_file({k: v.clone() for k, v in stored.items()}, tmp_path / "sae.safetensors")
    sae = overcomplete(str(tmp_path), kind="relu")
    codes = (X @ rows.T).relu() if tied else (2 * X @ rows.T + 1).relu()
    check(sae, codes, codes @ rows)


# Paths


def test_the_path_may_be_a_file_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae_files.saelens(tmp_path / "a")
    sae_files.prisma(tmp_path / "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("a", "a/sae_weights.safetensors", "a/cfg.json", "b/weights.pt", "b/config.json"):
        sae = saes.load(f"~/{path}", layer="blocks.9")
        assert (sae.name, sae.layer) == (path[0], "blocks.9")


def test_facts_can_be_written_as_json(tmp_path: Path) -> None:
    sae_files.prisma(tmp_path)
    sae_files.saev(tmp_path / "saev" / "sae.pt", "TopK", top_k=3)
    for folder in (tmp_path, tmp_path / "saev"):
        description = saes.load(folder).description
        assert json.loads(json.dumps(description)) == description
