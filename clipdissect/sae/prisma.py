"""Read sparse autoencoders of ViT-Prisma 2: `config.json` and one weights file."""

from __future__ import annotations

from clipdissect.errors import DissectError, MissingResource
from clipdissect.sae.base import Sae
from clipdissect.sae.modules import NORMALISATIONS, Activation, LinearSae, Relu, TopK
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

LOOKS = "Prisma: a folder with config.json and one weights file, such as weights.pt"
ARCHITECTURES = ("standard", "gated")
ACTIVATIONS = ("relu", "topk")
LEGACY = (
    "a single file with config and weights (.pt, .pkl, .pkl.gz) holds Python objects, and reading "
    "it would run its code. Convert a file that you trust once, with Prisma installed: "
    "sae = SparseAutoencoder.load_from_pretrained(FILE); torch.save(sae.state_dict(), "
    "'weights.pt'); sae.cfg.save_config('config.json')"
)
PATCHES_NOTE = (
    "the sparse autoencoder was trained on the tokens of patches only, not on the class token"
)


def fits(files: Files) -> bool:
    if not files.has("config.json") or len(files.candidates()) != 1:
        return False
    return bool(
        {"d_in", "hook_point_layer", "hook_point"} & set(files.config("config.json").values)
    )


def prisma(path: str, layer: str | None = None) -> Sae:
    """Return a sparse autoencoder that ViT-Prisma saved.

    Args:
        path: the folder, or the weights file in it.
        layer: the target's layer that it encodes.

    Raises:
        MissingResource: no such files.
        DissectError: a legacy file with Python objects, an architecture or setting that isn't
            supported, or files that don't agree.
    """
    files = locate(path)
    refuse_pickles(files)
    if not files.has("config.json"):
        looked = [str((files.folder / "config.json").absolute())]
        raise MissingResource("config.json", looked, f"{LOOKS}; {LEGACY}")
    file, config = files.only_weights(LOOKS), files.config("config.json")
    architecture = _choice(config, "architecture", ARCHITECTURES)
    if config.flag("is_transcoder", False):
        raise DissectError(
            f"{config.source}: transcoders of Prisma aren't supported; use sae=module with a "
            f"function that builds it"
        )
    # By default layer_norm, as in Prisma.
    normalisation = _choice(
        config, "normalize_activations", ("layer_norm", "none", *NORMALISATIONS)
    )
    normalised = normalisation if normalisation in NORMALISATIONS else None
    module = _module(
        architecture, config, read_tensors(file, f"{architecture} of Prisma"), normalised
    )
    tokens = "class" if config.flag("cls_token_only", False) else None
    tokens = "patches" if config.flag("use_patches_only", False) else tokens
    return as_sae(
        files,
        "prisma",
        module,
        layer,
        hook=_hook(config),
        summary="cls" if tokens == "class" else "max",
        facts={
            "architecture": architecture,
            "k": module.activation.k,
            "normalisation": normalised,
            "tokens": tokens,
            "model": config.text("model_name"),
        },
        notes=(PATCHES_NOTE,) if tokens == "patches" else (),
    )


def refuse_pickles(files: Files) -> None:
    """Raise a DissectError for a single-file checkpoint of Prisma's first version."""
    names = [files.named.name] if files.named else [p.name for p in files.folder.iterdir()]
    for name in sorted(names):
        if name.endswith((".pkl", ".pkl.gz")):
            raise DissectError(f"{files.folder / name}: {LEGACY}")


def _choice(config: Config, key: str, valid: tuple[str, ...]) -> str:
    """Return a setting, by default the first valid value."""
    value = config.text(key) or valid[0]
    if value not in valid:
        raise DissectError(
            f"{config.source}: {key} {value} isn't supported; {', '.join(dict.fromkeys(valid))} are"
        )
    return value


def _module(
    architecture: str, config: Config, tensors: Tensors, normalisation: str | None
) -> LinearSae:
    weight = tensors.take("W_enc", "inputs", "latents")
    bias = None if architecture == "gated" else tensors.take("b_enc", "latents")
    decoder, decoder_bias = tensors.decoder()
    activation = _activation(architecture, config, tensors)
    _check_sizes(config, tensors)
    tensors.finish("b_enc")  # a gated one saves it without using it
    return LinearSae(
        weight,
        bias,
        activation,
        decoder,
        decoder_bias,
        subtracted=decoder_bias,
        normalisation=normalisation,
    )


def _activation(architecture: str, config: Config, tensors: Tensors) -> Activation:
    function = _choice(config, "activation_fn_str", ACTIVATIONS)
    if architecture == "gated":
        if function != "relu":
            raise DissectError(f"{config.source}: a gated one with {function} isn't supported")
        return gated(tensors)
    if function == "topk":
        k = config.part("activation_fn_kwargs").whole("k")
        return TopK(check_k(k, tensors, f"activation_fn_kwargs in {config.source}"))
    return Relu()


def _check_sizes(config: Config, tensors: Tensors) -> None:
    inputs, factor = config.whole("d_in"), config.values.get("expansion_factor")
    tensors.agree("inputs", inputs, f"d_in in {config.source}")
    tensors.agree("latents", config.whole("d_sae"), f"d_sae in {config.source}")
    if inputs and isinstance(factor, int):  # a list in files of a sweep
        source = f"expansion_factor {factor} in {config.source}"
        tensors.agree("latents", inputs * factor, source)


def _hook(config: Config) -> str | None:
    number, kind = config.values.get("hook_point_layer"), config.text("layer_subtype")
    built = f"blocks.{number}.{kind}" if isinstance(number, int) and kind else None
    return config.text("hook_point") or built
