"""Read dictionaries of the library dictionary_learning: `ae.pt` and `config.json`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError, unknown
from clipdissect.sae.base import Sae
from clipdissect.sae.modules import Activation, LinearSae, Relu, Threshold, TopK
from clipdissect.sae.reading import (
    Config,
    Files,
    Tensors,
    as_sae,
    check_k,
    gated,
    locate,
    read_tensors,
)

LOOKS = "dictionary_learning: a folder (trainer_0, ...) with ae.pt and config.json"


def fits(files: Files) -> bool:
    if files.has("ae.pt"):
        return True
    return files.has("config.json") and "trainer" in files.config("config.json").values


def dictionary_learning(path: str, layer: str | None = None) -> Sae:
    """Return a dictionary as dictionary_learning loads it.

    Args:
        path: the folder of one trainer, or the `ae.pt` in it.
        layer: the target's layer that it encodes.

    Raises:
        MissingResource: no such files.
        DissectError: several trainers' folders, a class that isn't supported, or files that don't
            agree.
    """
    files = locate(path)
    file = files.weights("ae.pt", LOOKS)
    config = files.config("config.json").part("trainer")
    name = config.text("dict_class")
    if name not in CLASSES:
        raise unknown(f"dict_class in {config.source}", str(name), CLASSES)
    tensors = read_tensors(file, f"{name} of dictionary_learning")
    module = CLASSES[name](tensors, config)
    tensors.agree("inputs", config.whole("activation_dim"), f"activation_dim in {config.source}")
    tensors.agree("latents", config.whole("dict_size"), f"dict_size in {config.source}")
    tensors.finish("k", "threshold")
    number = config.values.get("layer")
    parts = (None if number is None else f"layer {number}", config.text("submodule_name"))
    return as_sae(
        files,
        "dictionary_learning",
        module,
        layer,
        hook=", ".join(part for part in parts if part) or None,
        facts={
            "architecture": name,
            "k": _k(tensors, config) if name in WITH_K else None,
            "model": config.text("lm_name"),
        },
    )


def _k(tensors: Tensors, config: Config) -> int:
    """Return k by the config and the tensors, which must agree."""
    k = config.whole("k")
    if "k" in tensors:
        stored = tensors.whole("k")
        if k is not None and k != stored:
            raise DissectError(f"{tensors.file}: k is {stored}, but {k} by {config.source}")
        k = stored
    return check_k(k, tensors, config.source)


def _linear(
    tensors: Tensors,
) -> tuple[Float[Tensor, "inputs latents"], Float[Tensor, "latents inputs"]]:
    """Return the weights of encoder and decoder that are stored as `nn.Linear` stores them."""
    encoder = tensors.take("encoder.weight", "latents", "inputs").T.contiguous()
    return encoder, tensors.take("decoder.weight", "inputs", "latents").T.contiguous()


def _auto_encoder(tensors: Tensors, config: Config) -> LinearSae:
    encoder, decoder = _linear(tensors)
    bias, subtracted = tensors.take("encoder.bias", "latents"), tensors.take("bias", "inputs")
    # The library's own loader moves the decoder's norms into the encoder.
    norms = decoder.norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms)):
        norms = torch.where(norms > 0, norms, 1)
        encoder, bias, decoder = encoder * norms, bias * norms, decoder / norms[:, None]
    return LinearSae(encoder, bias, Relu(), decoder, subtracted, subtracted=subtracted)


def _auto_encoder_new(tensors: Tensors, config: Config) -> LinearSae:
    encoder, decoder = _linear(tensors)
    bias = tensors.take("encoder.bias", "latents")
    return LinearSae(encoder, bias, Relu(), decoder, tensors.take("decoder.bias", "inputs"))


def _gated(tensors: Tensors, config: Config) -> LinearSae:
    encoder, decoder = _linear(tensors)
    activation = gated(tensors, "gate_bias", "mag_bias")
    bias = tensors.take("decoder_bias", "inputs")
    return LinearSae(encoder, None, activation, decoder, bias, subtracted=bias)


def _top_k(tensors: Tensors, config: Config) -> LinearSae:
    encoder, decoder = _linear(tensors)
    return _with_biases(encoder, decoder, "encoder.bias", TopK(_k(tensors, config)), tensors)


def _batch_top_k(tensors: Tensors, config: Config) -> LinearSae:
    encoder, decoder = _linear(tensors)
    # A threshold that was never trained is -1: all positive values are kept.
    activation = Threshold(tensors.take("threshold"))
    return _with_biases(encoder, decoder, "encoder.bias", activation, tensors)


def _matryoshka(tensors: Tensors, config: Config) -> LinearSae:
    encoder = tensors.take("W_enc", "inputs", "latents")
    decoder = tensors.take("W_dec", "latents", "inputs")
    groups = tensors.tensors.get("group_sizes")
    if groups is not None:
        tensors.agree("latents", int(groups.sum()), "the sum of group_sizes")
    tensors.tensors.pop("group_sizes", None)
    return _with_biases(encoder, decoder, "b_enc", Threshold(tensors.take("threshold")), tensors)


def _jump_relu(tensors: Tensors, config: Config) -> LinearSae:
    encoder = tensors.take("W_enc", "inputs", "latents")
    decoder = tensors.take("W_dec", "latents", "inputs")
    activation = Threshold(tensors.take("threshold", "latents"))
    bias, decoder_bias = tensors.take("b_enc", "latents"), tensors.take("b_dec", "inputs")
    return LinearSae(encoder, bias, activation, decoder, decoder_bias)


def _with_biases(
    encoder: Float[Tensor, "inputs latents"],
    decoder: Float[Tensor, "latents inputs"],
    bias: str,
    activation: Activation,
    tensors: Tensors,
) -> LinearSae:
    encoder_bias, b_dec = tensors.take(bias, "latents"), tensors.take("b_dec", "inputs")
    return LinearSae(encoder, encoder_bias, activation, decoder, b_dec, subtracted=b_dec)


CLASSES: dict[str, Callable[[Tensors, Config], LinearSae]] = {
    "AutoEncoder": _auto_encoder,
    "AutoEncoderNew": _auto_encoder_new,
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jump_relu,
    "MatryoshkaBatchTopKSAE": _matryoshka,
}
WITH_K = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
