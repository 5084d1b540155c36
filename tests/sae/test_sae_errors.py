"""Files that are missing, damaged, contradictory or of unsupported kinds, and how it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sae_files
import torch
from safetensors.torch import save_file
from torch import nn

from clipdissect import sae as saes
from clipdissect.errors import DissectError, MissingResource
from clipdissect.sae.overcomplete import overcomplete
from clipdissect.sae.prisma import prisma
from clipdissect.sae.saelens import saelens
from clipdissect.sae.saev import saev


def fails(what: Callable[[], Any], *says: str, error: type[DissectError] = DissectError) -> None:
    with pytest.raises(DissectError) as caught:
        what()
    assert type(caught.value) is error, caught.value
    for text in says:
        assert text in str(caught.value)


def config(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# Missing files


def test_missing_files_are_named(tmp_path: Path) -> None:
    absent = tmp_path / "nothing"
    fails(lambda: saes.load(absent), str(absent), "sae.path", error=MissingResource)
    sae_files.saelens(tmp_path)
    (tmp_path / "cfg.json").unlink()
    fails(lambda: saelens(str(tmp_path)), "cfg.json", error=MissingResource)
    (tmp_path / "sae_weights.safetensors").unlink()
    fails(lambda: saelens(str(tmp_path)), "sae_weights.safetensors", error=MissingResource)
    fails(lambda: prisma(str(tmp_path)), "config.json", "save_config", error=MissingResource)
    fails(lambda: saev(str(tmp_path / "cfg.json")), "sae.path", error=MissingResource)


def test_folders_of_several_are_listed(tmp_path: Path) -> None:
    for number in range(2):
        sae_files.dictionary_learning(tmp_path / f"trainer_{number}")
    says = ("trainer_0, trainer_1", "Set sae.path to one of them")
    fails(lambda: saes.load(tmp_path), *says)
    fails(lambda: saes.build("dictionary_learning", path=str(tmp_path)), *says)


def test_several_weights_files_are_listed(tmp_path: Path) -> None:
    sae_files.prisma(tmp_path)
    sae_files.prisma(tmp_path, name="last.pt")
    fails(lambda: prisma(str(tmp_path)), "last.pt, weights.pt")
    fails(lambda: saes.load(tmp_path), "last.pt, weights.pt")
    assert prisma(str(tmp_path / "last.pt")).latents == 10


# Damaged files


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    tensors = sae_files.weights()
    tensors["W_dec"][2, :2] = value
    sae_files.saelens(tmp_path, tensors=tensors)
    fails(lambda: saes.load(tmp_path), "2 values of W_dec are NaN or infinite")


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "weights.pt", "sae.pt"])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    sae_files.saelens(tmp_path / "sae_weights.safetensors")
    sae_files.prisma(tmp_path / "weights.pt")
    sae_files.saev(tmp_path / "sae.pt" / "sae.pt")
    file = tmp_path / name / name
    file.write_bytes(file.read_bytes()[:-400])
    fails(lambda: saes.load(file), "copy it again")


def test_files_that_are_not_json(tmp_path: Path) -> None:
    sae_files.saelens(tmp_path)
    (tmp_path / "cfg.json").write_text("{'d_in': 3}")
    fails(lambda: saes.load(tmp_path), "cfg.json is not valid JSON")
    (tmp_path / "cfg.json").write_text("[3]")
    fails(lambda: saes.load(tmp_path), "cfg.json must be a JSON object; it is a list")
    (tmp_path / "sae.pt").write_bytes(b"{nonsense}\n")
    fails(lambda: saev(str(tmp_path / "sae.pt")), "first line isn't valid JSON")
    (tmp_path / "sae.pt").write_bytes(b"PK nothing")
    fails(lambda: saev(str(tmp_path / "sae.pt")), "doesn't start with a line of JSON")


def test_pickles_are_refused(tmp_path: Path) -> None:
    class_name = "torch.nn.modules.linear.Linear"
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    fails(lambda: saes.load(tmp_path / "model.pt"), class_name, "take the state dict out")
    header = json.dumps({"schema": 4, "cfg": {}}).encode() + b"\n"
    (tmp_path / "model.pt").write_bytes(header + (tmp_path / "model.pt").read_bytes())
    fails(lambda: saev(str(tmp_path / "model.pt")), class_name)
    (tmp_path / "old" / "x").mkdir(parents=True)
    (tmp_path / "old" / "sae.pkl.gz").write_bytes(b"\x1f\x8b")
    fails(lambda: saes.load(tmp_path / "old" / "sae.pkl.gz"), "SparseAutoencoder", "weights.pt")
    fails(lambda: prisma(str(tmp_path / "old")), "sae.pkl.gz", "run its code")
    fails(lambda: saes.load(tmp_path / "old"), "sae.pkl.gz", "run its code")


# Contradictions


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_in": 5}, ["6 inputs by W_enc [6, 10]", "5 by d_in in"]),
        ({"d_sae": 12}, ["10 latents by W_enc", "12 by d_sae in"]),
        ({"d_in": "six"}, ["d_in must be a whole number; it is 'six'"]),
        ({"architecture": "jumprelu"}, ["no tensor threshold, which a jumprelu of SAELens needs"]),
        ({"architecture": "gated"}, ["no tensor b_gate", "it has W_dec, W_enc, b_dec, b_enc"]),
        ({"architecture": "topk", "k": 11}, ["k is 11", "1 to the 10 latents"]),
        ({"architecture": "topk", "k": 0}, ["k is 0"]),
        ({"architecture": "topk"}, ["has no k"]),
        ({"architecture": "temporal"}, ["temporal isn't supported", "standard, gated, jumprelu"]),
        ({"activation_fn_str": "tanh-relu"}, ["tanh-relu isn't supported"]),
        ({"normalize_activations": "covariance_whitening"}, ["covariance_whitening", "layer_norm"]),
        ({"normalize_activations": 3}, ["normalize_activations 3"]),
        ({"reshape_activations": "hook_z"}, ["reshaped activations (hook_z)", "sae=module"]),
        ({"apply_b_dec_to_input": "yes"}, ["must be true or false; it is 'yes'"]),
        ({"metadata": {"hook_head_index": 3, "hook_name": "z"}}, ["attention head 3 of z"]),
    ],
)
def test_contradictions_of_saelens(tmp_path: Path, values: dict[str, Any], says: list[str]) -> None:
    sae_files.saelens(tmp_path)
    config(tmp_path / "cfg.json", **values)
    fails(lambda: saes.load(tmp_path), *says)


def test_hook_z_of_old_files_of_saelens(tmp_path: Path) -> None:
    sae_files.saelens_3(tmp_path, hook_name="blocks.0.attn.hook_z", reshape_activations=None)
    fails(lambda: saes.load(tmp_path), "hook_z")


def test_tensors_that_do_not_belong_together(tmp_path: Path) -> None:
    tensors = sae_files.weights()
    for name, changed, says in (
        ("W_dec", torch.ones(9, 6), "10 latents by W_enc [6, 10], but 9 by W_dec [9, 6]"),
        ("b_dec", torch.ones(7), "6 inputs by W_enc [6, 10], but 7 by b_dec [7]"),
        ("b_enc", torch.ones(10, 1), "b_enc has shape [10, 1]; it must be [latents]"),
        ("b_enc", torch.ones(10, dtype=torch.int64), "b_enc is of torch.int64"),
        ("threshold", torch.ones(10), "tensors that a standard of SAELens doesn't use: threshold"),
        ("scaling_factor", torch.full((10,), 2.0), "scaling_factor isn't 1"),
    ):
        sae_files.saelens(tmp_path, tensors=tensors | {name: changed})
        fails(lambda: saes.load(tmp_path), says)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"architecture": "jumprelu"}, ["jumprelu isn't supported; standard, gated are"]),
        ({"is_transcoder": True}, ["transcoders of Prisma"]),
        ({"activation_fn_str": "tanh-relu"}, ["activation_fn_str tanh-relu"]),
        ({"activation_fn_str": "topk"}, ["has no k"]),
        ({"normalize_activations": "whiten"}, ["layer_norm, none, constant_norm_rescale are"]),
        ({"d_sae": None, "expansion_factor": 2}, ["12 by expansion_factor 2"]),
        ({"d_in": 7}, ["7 by d_in"]),
        ({"cls_token_only": 1}, ["cls_token_only must be true or false"]),
    ],
)
def test_contradictions_of_prisma(tmp_path: Path, values: dict[str, Any], says: list[str]) -> None:
    sae_files.prisma(tmp_path)
    config(tmp_path / "config.json", **values)
    fails(lambda: saes.load(tmp_path), *says)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"schema": 9, "cfg": {}}, "schema 9 of saev isn't supported; 1 to 5 are"),
        ({"schema": 4, "cfg": {"d_model": 5}}, "5 by d_model"),
        ({"schema": 4, "cfg": {"d_model": 6, "exp_factor": 4}}, "24 by exp_factor 4"),
        ({"schema": 4, "cfg": {"d_sae": 11}}, "11 by d_sae"),
        ({"schema": 4, "cfg": {"activation": {"cls": "AbsBatchTopK"}}}, "AbsBatchTopK isn't"),
        (
            {"schema": 4, "cfg": {"activation": {"cls": "TopK", "params": {"top_k": 11}}}},
            "k is 11",
        ),
        ({"schema": 4, "cfg": [1]}, "cfg of the header of"),
        ({"d_vit": 5, "exp_factor": 2}, "5 by d_vit"),
    ],
)
def test_contradictions_of_saev(tmp_path: Path, header: dict[str, Any], says: str) -> None:
    sae_files.saev_file(tmp_path / "sae.pt", header, sae_files.weights())
    fails(lambda: saes.load(tmp_path), says)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("AutoEncoder", {"dict_class": "IdentityDict"}, ["IdentityDict", "AutoEncoderTopK"]),
        ("AutoEncoder", {"dict_class": "BatchTopKSAE"}, ["no tensor threshold"]),
        ("AutoEncoder", {"dict_class": "AutoEncoderNew"}, ["no tensor decoder.bias"]),
        ("AutoEncoder", {"dict_size": 20}, ["10 latents", "20 by dict_size"]),
        ("AutoEncoder", {"activation_dim": 7}, ["6 inputs", "7 by activation_dim"]),
        ("AutoEncoderTopK", {"k": 4}, ["k is 3, but 4 by trainer of"]),
    ],
)
def test_contradictions_of_dictionary_learning(
    tmp_path: Path, name: str, values: dict[str, Any], says: list[str]
) -> None:
    sae_files.dictionary_learning(tmp_path, name)
    trainer = json.loads((tmp_path / "config.json").read_text())["trainer"]
    config(tmp_path / "config.json", trainer=trainer | values)
    fails(lambda: saes.load(tmp_path), *says)


def test_groups_that_are_not_all_latents(tmp_path: Path) -> None:
    tensors = sae_files.dictionary_learning(tmp_path, "MatryoshkaBatchTopKSAE")
    torch.save(tensors | {"group_sizes": torch.tensor([4, 4])}, tmp_path / "ae.pt")
    fails(lambda: saes.load(tmp_path), "10 latents by W_enc", "8 by the sum of group_sizes")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"k": 11}, ["k is 11"]),
        ({"activation": "relu"}, ["relu isn't supported; topk and groupmax are"]),
        ({"activation": "groupmax"}, ["k 3 needs latents in groups of equal size", "there are 10"]),
        ({"num_latents": 20}, ["20 by num_latents"]),
        ({"num_latents": 0, "expansion_factor": 2}, ["12 by expansion_factor 2"]),
        ({"skip_connection": True}, ["no tensor W_skip"]),
        ({"d_in": 8}, ["8 by d_in"]),
        ({"signed": True}, ["signed isn't supported"]),
    ],
)
def test_contradictions_of_sparsify(
    tmp_path: Path, values: dict[str, Any], says: list[str]
) -> None:
    sae_files.sparsify(tmp_path)
    config(tmp_path / "cfg.json", **values)
    fails(lambda: saes.load(tmp_path), *says)


@pytest.mark.parametrize(
    ("written", "given", "says"),
    [
        ("relu", {}, ["sae.kind=relu", "sae.threshold=<running_threshold>"]),
        ("relu", {"kind": "jump"}, ["sae.kind is jump, but", "doesn't have the tensor thresholds"]),
        ("jump", {"kind": "relu"}, ["has the tensor thresholds of jump"]),
        ("relu", {"kind": "topk"}, ["sae.kind=topk needs sae.k"]),
        ("relu", {"kind": "topk", "k": 11}, ["k is 11"]),
        ("relu", {"kind": "topk", "k": 3, "threshold": 1.0}, ["doesn't use sae.threshold"]),
        ("relu", {"kind": "batch_topk"}, ["needs sae.threshold"]),
        ("relu", {"kind": "batchtopk"}, ["sae.kind is 'batchtopk'", "relu or topk or"]),
        ("relu", {"kind": "relu", "normalization": "l3"}, ["sae.normalization is 'l3'"]),
    ],
)
def test_settings_of_overcomplete(
    tmp_path: Path, written: str, given: dict[str, Any], says: list[str]
) -> None:
    sae_files.overcomplete(tmp_path / "sae.pt", written)
    fails(lambda: overcomplete(str(tmp_path), **given), *says)


def test_encoders_of_overcomplete_that_are_not_linear(tmp_path: Path) -> None:
    tensors = sae_files.overcomplete(tmp_path / "sae.pt")
    torch.save(tensors | {"encoder.final_block.1.weight": torch.ones(10)}, tmp_path / "sae.pt")
    says = ("doesn't use: encoder.final_block.1.weight", "linear encoder")
    fails(lambda: overcomplete(str(tmp_path), kind="relu"), *says)


# Recognition


def test_files_of_no_format_are_listed_with_the_formats(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    looks = ("it has readme.txt", "cfg.json and sae_weights.safetensors", "ae.pt", "first line")
    fails(lambda: saes.load(tmp_path), *looks, "sae=module")
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    fails(lambda: saes.load(tmp_path), "of no format that is known", "model.safetensors")


def test_files_of_two_formats_are_named(tmp_path: Path) -> None:
    sae_files.sparsify(tmp_path)
    sae_files.saelens(tmp_path)
    fails(lambda: saes.load(tmp_path), "saelens and sparsify", "set sae=<format>")
    assert saes.load(tmp_path / "sae_weights.safetensors").format == "saelens"


def test_activations_of_another_width(tmp_path: Path) -> None:
    sae_files.saelens(tmp_path)
    sae = saes.load(tmp_path)
    x = sae_files.activations(2, inputs=7)
    fails(lambda: sae.encode(x), "encodes activations of 6 units, but the layer has 7")
