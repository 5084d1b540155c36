"""Encoders and decoders against numbers worked out by hand and slow references."""

from __future__ import annotations

import pytest
import sae_files
import torch
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.sae.modules import (
    Activation,
    ConstantNorm,
    Gated,
    GroupMax,
    LinearEncoder,
    LinearSae,
    Relu,
    Standardise,
    Threshold,
    TopK,
)

H = [[-1.0, 0.5, 2.0, -3.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("activation", "expected", "words"),
    [
        (Relu(), [0, 0.5, 2, 0, 1, 0], "ReLU"),
        (TopK(2), [0, 0, 2, 0, 1, 0], "the largest 2, then ReLU"),
        (TopK(5), [0, 0.5, 2, 0, 1, 0], "the largest 5, then ReLU"),
        (TopK(5, signed=True), [-1, 0.5, 2, 0, 1, 0], "the largest 5 (negative ones too)"),
        (GroupMax(2), [0, 0, 2, 0, 1, 0], "the largest of each of 2 groups, then ReLU"),
        (GroupMax(3), [0, 0.5, 2, 0, 1, 0], "the largest of each of 3 groups, then ReLU"),
        (
            Threshold(torch.tensor([0, 0.5, 3, -4, 0.9, -1])),
            [0, 0, 0, 0, 1, 0],
            "ReLU, with values up to each latent's threshold set to 0",
        ),
        (
            Threshold(torch.tensor(0.5), inclusive=True),
            [0, 0.5, 2, 0, 1, 0],
            "ReLU, with values below 0.5 set to 0",
        ),
        (
            Threshold(torch.tensor(0.5)),
            [0, 0, 2, 0, 1, 0],
            "ReLU, with values up to 0.5 set to 0",
        ),
        (
            Threshold(torch.tensor(-1.0)),
            [0, 0.5, 2, 0, 1, 0],
            "ReLU, with values up to 0 set to 0",
        ),
        (
            Threshold(torch.tensor([-9.0, -9, 2, -9, 1, -9]), inclusive=True),
            [0, 0.5, 2, 0, 1, 0],
            "ReLU, with values below each latent's threshold set to 0",
        ),
        (
            Gated(
                torch.tensor([0.0, 0.0, 0.0, 4.0, -1.0, 1.0]),
                torch.tensor([1.0, 2.0, 3.0, 0.5, 1.0, 1.0]),
                torch.tensor([9.0, 0.0, -1.0, 2.0, 1.0, 0.25]),
            ),
            [0, 1, 5, 0.5, 0, 0.25],
            "ReLU(exp(r_mag) h + b_mag) where h + b_gate > 0",
        ),
    ],
)
def test_activations(activation: Activation, expected: list[float], words: str) -> None:
    assert activation(torch.tensor(H)).tolist() == [pytest.approx(expected)]
    assert activation.words == words


def by_loops(h: Tensor, k: int) -> Tensor:
    """Top-k with ReLU, one latent at a time."""
    codes = torch.zeros_like(h)
    for row, values in enumerate(h.tolist()):
        for latent in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
            codes[row, latent] = max(values[latent], 0.0)
    return codes


def test_encoding_is_that_of_a_slow_reference() -> None:
    w = sae_files.weights(7, 40)
    x = sae_files.activations(3, 5, inputs=7)
    sae = LinearSae(w["W_enc"], w["b_enc"], TopK(6), w["W_dec"], w["b_dec"], subtracted=w["b_dec"])
    codes = sae.encode(x)
    assert codes.shape == (3, 5, 40)
    h = (x.reshape(15, 7) - w["b_dec"]).double() @ w["W_enc"].double() + w["b_enc"]
    torch.testing.assert_close(codes.reshape(15, 40), by_loops(h, 6).float(), atol=1e-5, rtol=1e-5)
    expected = torch.zeros(3, 5, 7)
    for latent in range(40):
        expected += codes[..., latent, None] * w["W_dec"][latent]
    torch.testing.assert_close(sae.decode(codes), expected + w["b_dec"])


def test_one_activation_and_none_are_encoded() -> None:
    w = sae_files.weights(3, 4)
    sae = LinearSae(w["W_enc"], w["b_enc"], Relu(), w["W_dec"], None)
    x = sae_files.activations(2, inputs=3)
    assert torch.equal(sae.encode(x[0]), sae.encode(x)[0])
    assert sae.encode(x[:0]).shape == (0, 4)
    assert sae.decode(sae.encode(x[0])).shape == (3,)


def test_the_input_is_not_changed() -> None:
    w = sae_files.weights(3, 3)
    x = sae_files.activations(4, inputs=3)
    before, codes = x.clone(), torch.ones(4, 3)
    sae = LinearSae(torch.eye(3), None, TopK(1), w["W_dec"], w["b_dec"], scales=torch.ones(3))
    sae.encode(x)
    sae.decode(codes)
    assert torch.equal(x, before)
    assert torch.equal(codes, torch.ones(4, 3))


def test_half_precision_is_encoded_in_float32() -> None:
    w = sae_files.weights()
    x = sae_files.activations(4).to(torch.bfloat16)
    sae = LinearSae(w["W_enc"], w["b_enc"], Relu(), w["W_dec"], w["b_dec"])
    assert sae.encode(x).dtype == torch.float32
    assert torch.equal(sae.encode(x), sae.encode(x.float()))


def test_normalisations() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]])
    standardised = Standardise()(x)
    assert standardised.tolist() == [pytest.approx([-1 / 1.00001, 0, 1 / 1.00001])]
    assert Standardise().undo(torch.tensor([[1.0, 0.0, 2.0]]), x).tolist() == [[3.0, 2.0, 4.0]]
    length = 14**0.5 / 3**0.5
    scaled = ConstantNorm()(x)
    assert scaled.tolist() == [pytest.approx([1 / length, 2 / length, 3 / length])]
    assert ConstantNorm().undo(scaled, x).tolist() == [pytest.approx([1.0, 2.0, 3.0])]
    assert ConstantNorm()(torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]


def test_a_normalisation_is_undone_with_the_activations() -> None:
    w = sae_files.weights(5, 5)
    sae = LinearSae(torch.eye(5), None, Relu(), torch.eye(5), None, normalisation="layer_norm")
    x = sae_files.activations(2, inputs=5)
    positive = x.clamp_min(x.mean(1, keepdim=True))
    torch.testing.assert_close(sae.decode(sae.encode(x), x), positive, atol=1e-4, rtol=1e-4)
    with pytest.raises(DissectError, match=r"decode\(codes, x\) needs the activations"):
        sae.decode(w["W_dec"])


def test_scales_are_undone_and_rows_of_zero_stay_finite() -> None:
    decoder = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    sae = LinearSae(torch.eye(2), None, TopK(1), decoder, None, scales=decoder.norm(dim=1))
    codes = sae.encode(torch.tensor([[3.0, 9.0], [-1.0, 4.0]]))
    assert codes.tolist() == [[6.0, 0.0], [0.0, 0.0]]
    assert sae.decode(codes).tolist() == [[0.0, 6.0], [0.0, 0.0]]


def test_words_are_those_of_the_computation() -> None:
    w = sae_files.weights()
    bias = w["b_dec"]
    arguments = (w["W_enc"], w["b_enc"], TopK(3), w["W_dec"])
    full = LinearSae(
        *arguments, bias, subtracted=bias, normalisation="layer_norm", scales=torch.ones(10)
    )
    assert full.describe() == {
        "encode": "((layer_norm(x) - b_dec) W_enc + b_enc) ||W_dec||, then the largest 3, "
        "then ReLU",
        "decode": "(codes / ||W_dec||) W_dec + b_dec, then layer_norm(x) undone",
    }
    plain = LinearSae(w["W_enc"], None, Relu(), w["W_dec"], None)
    assert plain.describe() == {"encode": "x W_enc, then ReLU", "decode": "codes W_dec"}
    coder = LinearEncoder(w["W_enc"], w["b_enc"], Relu(), normalisation="constant_norm_rescale")
    assert coder.describe() == {
        "encode": "x sqrt(inputs)/||x|| W_enc + b_enc, then ReLU",
        "decode": "none: codes alone don't reconstruct its input",
    }


def test_a_change_of_a_setting_changes_the_digest() -> None:
    from clipdissect.utils.hashing import hash_model

    w = sae_files.weights()
    saes = [
        LinearSae(w["W_enc"], w["b_enc"], activation, w["W_dec"], w["b_dec"])
        for activation in (TopK(3), TopK(4), TopK(3, signed=True), GroupMax(5), Relu())
    ]
    digests = [hash_model(sae) for sae in saes]
    assert len(set(digests)) == 5
    saes[0].encode(sae_files.activations(3))
    assert hash_model(saes[0]) == digests[0]
