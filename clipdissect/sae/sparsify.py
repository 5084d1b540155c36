"""Read sparse coders of EleutherAI's sparsify: `cfg.json` and `sae.safetensors`."""

from __future__ import annotations

from clipdissect.errors import DissectError
from clipdissect.sae.base import Sae
from clipdissect.sae.modules import Activation, GroupMax, LinearEncoder, LinearSae, TopK
from clipdissect.sae.reading import Config, Files, Tensors, as_sae, check_k, locate, read_tensors

LOOKS = "sparsify: a folder with cfg.json and sae.safetensors"
DEFAULT_FACTOR, DEFAULT_K = 32, 32  # of sparsify, for keys that cfg.json lacks
ACTIVATIONS = ("topk", "groupmax")


def fits(files: Files) -> bool:
    return files.has("sae.safetensors") and files.has("cfg.json")


def sparsify(path: str, layer: str | None = None) -> Sae:
    """Return a sparse autoencoder or transcoder that sparsify saved.

    Args:
        path: the folder, named after the layer, or the weights file in it.
        layer: the target's layer that it encodes.

    Raises:
        MissingResource: no such files.
        DissectError: an activation that isn't supported, or files that don't agree.
    """
    files = locate(path)
    file, config = files.weights("sae.safetensors", LOOKS), files.config("cfg.json")
    is_transcoder = config.flag("transcode", False)
    kind = "transcoder of sparsify" if is_transcoder else "sparse autoencoder of sparsify"
    module = _module(config, read_tensors(file, kind), is_transcoder)
    return as_sae(
        files,
        "sparsify",
        module,
        layer,
        # sparsify names folders after modules, such as layers.9.mlp.
        hook=files.name if "." in files.name else None,
        facts={
            "architecture": config.text("activation") or "topk",
            "k": module.activation.k,
            "transcoder": is_transcoder or None,
            "skip_connection": "W_skip" in _skip(config) or None,
        },
    )


def _skip(config: Config) -> tuple[str, ...]:
    return ("W_skip",) if config.flag("skip_connection", False) else ()


def _module(config: Config, tensors: Tensors, is_transcoder: bool) -> LinearEncoder:
    weight = tensors.take("encoder.weight", "latents", "inputs").T.contiguous()
    bias = tensors.take("encoder.bias", "latents")
    decoder, decoder_bias = tensors.decoder()
    inputs = config.whole("d_in")
    tensors.agree("inputs", inputs, f"d_in in {config.source}")
    _check_latents(config, tensors, inputs)
    for name in _skip(config):
        tensors.take(name, "inputs", "inputs")
    tensors.finish()
    activation = _activation(config, tensors)
    subtracted = None if is_transcoder else decoder_bias
    if is_transcoder or _skip(config):  # a skip connection needs the input to reconstruct it
        return LinearEncoder(weight, bias, activation, subtracted=subtracted)
    return LinearSae(weight, bias, activation, decoder, decoder_bias, subtracted=subtracted)


def _check_latents(config: Config, tensors: Tensors, inputs: int | None) -> None:
    latents = config.whole("num_latents")  # 0: by the factor
    if latents:
        tensors.agree("latents", latents, f"num_latents in {config.source}")
    elif inputs:
        factor = config.whole("expansion_factor") or DEFAULT_FACTOR
        source = f"expansion_factor {factor} in {config.source}"
        tensors.agree("latents", inputs * factor, source)


def _activation(config: Config, tensors: Tensors) -> Activation:
    name = config.text("activation") or "topk"
    if name not in ACTIVATIONS or config.flag("signed", False):  # of old versions
        shown = "signed" if name in ACTIVATIONS else name
        raise DissectError(
            f"{config.source}: the activation {shown} isn't supported; {' and '.join(ACTIVATIONS)} "
            f"are"
        )
    k = config.whole("k")
    k = check_k(DEFAULT_K if k is None else k, tensors, config.source)
    if name == "topk":
        return TopK(k)
    latents = tensors.sizes["latents"][0]
    if latents % k:
        raise DissectError(
            f"{config.source}: groupmax with k {k} needs latents in groups of equal size, but "
            f"there are {latents}"
        )
    return GroupMax(k)
