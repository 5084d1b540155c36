"""Read sparse autoencoders of SAELens 3 and later: `cfg.json` and `sae_weights.safetensors`."""

from __future__ import annotations

import torch
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.sae.base import Sae
from clipdissect.sae.modules import (
    NORMALISATIONS,
    Activation,
    LinearEncoder,
    LinearSae,
    Relu,
    Threshold,
    TopK,
)
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

LOOKS = "SAELens: a folder with cfg.json and sae_weights.safetensors"
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
ARCHITECTURES = ("standard", "gated", "jumprelu", "topk", *TRANSCODERS)
FOLDED = "expected_average_only_in"
UNFOLDED_NOTE = (
    f"the sparse autoencoder was trained on activations scaled by a constant "
    f"({FOLDED}): it encodes them unscaled, which is right only if the constant was folded into "
    f"its weights before they were saved"
)


def fits(files: Files) -> bool:
    return files.has("sae_weights.safetensors") and files.has("cfg.json")


def saelens(path: str, layer: str | None = None) -> Sae:
    """Return a sparse autoencoder or transcoder that SAELens saved.

    Args:
        path: the folder, or the weights file in it.
        layer: the target's layer that it encodes.

    Raises:
        MissingResource: no such files.
        DissectError: an architecture or setting that isn't supported, or files that don't agree.
    """
    files = locate(path)
    file = files.weights("sae_weights.safetensors", LOOKS)
    config = files.config("cfg.json")
    metadata = Config({**config.values, **config.part("metadata").values}, config.source)
    architecture = _architecture(config)
    hook = metadata.text("hook_name") or metadata.text("hook_point")
    _refuse_heads(config, metadata, hook)
    tensors = read_tensors(file, f"{architecture} of SAELens")
    normalisation = _normalisation(config)
    module = _module(architecture, config, tensors, normalisation)
    k = module.activation.k
    return as_sae(
        files,
        "saelens",
        module,
        layer,
        hook=hook,
        facts={
            "architecture": architecture,
            "k": k,
            "normalisation": normalisation,
            "version": metadata.text("sae_lens_version"),
            "model": metadata.text("model_name"),
        },
        notes=(UNFOLDED_NOTE,) if normalisation == FOLDED else (),
    )


def _architecture(config: Config) -> str:
    # Before version 6, top-k was an activation function of the architecture "standard".
    function = config.text("activation_fn_str") or config.text("activation_fn") or "relu"
    name = "topk" if function == "topk" else config.text("architecture") or "standard"
    if function not in ("relu", "topk"):
        raise DissectError(
            f"{config.source}: the activation function {function} isn't supported; relu and topk "
            f"are. Use sae=module with a function that builds it"
        )
    if name not in ARCHITECTURES:
        raise DissectError(
            f"{config.source}: the architecture {name} isn't supported; these are: "
            f"{', '.join(ARCHITECTURES)}. Save a training checkpoint with save_inference_model, "
            f"or use sae=module with a function that builds it"
        )
    return name


def _refuse_heads(config: Config, metadata: Config, hook: str | None) -> None:
    reshaped = config.text("reshape_activations") or ("hook_z" if "hook_z" in str(hook) else "none")
    head = metadata.values.get("hook_head_index", metadata.values.get("hook_point_head_index"))
    if reshaped != "none" or head is not None:
        what = (
            f"attention head {head}" if head is not None else f"reshaped activations ({reshaped})"
        )
        raise DissectError(
            f"{config.source}: it encodes {what} of {hook}, which isn't supported. Use sae=module "
            f"with a function that reshapes the layer's output"
        )


def _normalisation(config: Config) -> str | None:
    value = config.values.get("normalize_activations")
    if isinstance(value, bool):  # before version 3.8
        value = FOLDED if value else None
    valid = (FOLDED, *NORMALISATIONS)
    if value not in (None, "none", *valid):
        raise DissectError(
            f"{config.source}: normalize_activations {value!r} isn't supported; none, "
            f"{', '.join(valid)} are"
        )
    return None if value == "none" else value


def _module(
    architecture: str, config: Config, tensors: Tensors, normalisation: str | None
) -> LinearEncoder:
    weight = tensors.take("W_enc", "inputs", "latents")
    bias = None if architecture == "gated" else tensors.take("b_enc", "latents")
    is_transcoder = architecture in TRANSCODERS
    outputs = "outputs" if is_transcoder else "inputs"
    decoder, decoder_bias = tensors.decoder(outputs)
    activation = _activation(architecture, config, tensors)
    for size, key in (("inputs", "d_in"), ("latents", "d_sae"), (outputs, "d_out")):
        tensors.agree(size, config.whole(key), f"{key} in {config.source}")
    _check_scaling(tensors)
    tensors.finish("b_enc", "W_skip", "scaling_factor", "finetuning_scaling_factor")
    normalised = normalisation if normalisation in NORMALISATIONS else None
    if is_transcoder:
        return LinearEncoder(weight, bias, activation, normalisation=normalised)
    rescaled = architecture == "topk" and config.flag("rescale_acts_by_decoder_norm", False)
    return LinearSae(
        weight,
        bias,
        activation,
        decoder,
        decoder_bias,
        subtracted=decoder_bias if config.flag("apply_b_dec_to_input", True) else None,
        normalisation=normalised,
        scales=decoder.norm(dim=1) if rescaled else None,
    )


def _activation(architecture: str, config: Config, tensors: Tensors) -> Activation:
    if architecture == "gated":
        return gated(tensors)
    if architecture == "topk":
        k = config.whole("k")
        if k is None:  # before version 6
            k = config.part("activation_fn_kwargs").whole("k")
        return TopK(check_k(k, tensors, config.source))
    if "jumprelu" in architecture:
        return Threshold(tensors.take("threshold", "latents"))
    return Relu()


def _check_scaling(tensors: Tensors) -> None:
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        factor: Tensor | None = tensors.tensors.get(name)
        if factor is not None and not torch.allclose(factor.float(), torch.ones(())):
            raise DissectError(
                f"{tensors.file}: {name} isn't 1: fine-tuned scaling isn't supported"
            )
