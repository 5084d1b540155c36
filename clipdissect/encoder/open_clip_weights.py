"""Weights for open_clip's networks: which fit, where they are, and loading them safely."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipdissect.errors import DissectError, MissingResource, one_line, unknown
from clipdissect.models import checkpoints, hub

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
# Names that open_clip and the hub give, best first.
_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "pytorch_model.bin",
)
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# Values that OpenAI keeps among the tensors of its archives.
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def check_names(model: str, tag: str | None) -> None:
    """Check both names, and that the weights were trained with the network's activation function.

    Args:
        model: a name of open_clip, without a prefix.
        tag: of its weights; None for weights without a tag.

    Raises:
        DissectError: a check fails; says what to use.
    """
    import open_clip as library

    if model not in library.list_models():
        raise unknown("open_clip model", model, library.list_models())
    if tag is None:
        return
    tags = library.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise unknown(f"open_clip weights of {model} (nor is it a file)", tag, tags)
    trained_quick = bool(library.get_pretrained_cfg(model, tag).get("quick_gelu", False))
    other = other_activation(model)
    if trained_quick != is_quick(model) and other:
        raise DissectError(
            f"the weights {tag} were trained with another activation function than {model} has: "
            f"use model={other}"
        )


def is_quick(model: str) -> bool:
    """Return whether the network has OpenAI's QuickGELU rather than GELU."""
    import open_clip as library

    return bool((library.get_model_config(model) or {}).get("quick_gelu", False))


def other_activation(model: str) -> str | None:
    """Return the name of the network with the other activation function, if any."""
    import open_clip as library

    plain = model.removesuffix("-quickgelu")
    other = f"{plain}-quickgelu" if plain == model else plain
    return other if other in library.list_models() else None


def preprocessing(model: str, tag: str | None) -> dict[str, Any]:
    """Return the image preprocessing of a tag's weights; without a tag, that of all tags.

    Raises:
        DissectError: there is no tag, and the model's tags differ.
    """
    import open_clip as library

    tags = library.list_pretrained_tags_by_model(model) if tag is None else [tag]
    found: dict[str, dict[str, Any]] = {}
    for each in tags:
        config = library.get_pretrained_cfg(model, each)
        chosen = {name: config[name] for name in _PREPROCESSING if config.get(name) is not None}
        found[repr(chosen)] = chosen
    if len(found) > 1:
        raise DissectError(
            f"weights of {model} differ in the preprocessing of images, and a file doesn't say "
            f"which: name the tag they belong to (encoder.pretrained=<tag> "
            f"encoder.checkpoint=<file>). Tags: {', '.join(tags)}"
        )
    return next(iter(found.values()), {})


def in_folder(folder: Path) -> Path:
    """Return the weights file in a folder.

    Raises:
        DissectError: none, or several without a usual name.
    """
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES)
    if len(found) == 1:
        return found[0]
    several = f"several ({', '.join(p.name for p in found[:5])}): name one" if found else "none"
    raise DissectError(
        f"{folder} should hold the encoder's weights, such as {_FILES[0]}; it has {several}"
    )


def download(model: str, tag: str | None, cache: str | None) -> Path:
    """Return the weights of a tag, or of `hf-hub:<repository>`, from the hub or its cache.

    Raises:
        MissingResource: they are in neither.
    """
    import open_clip as library
    from open_clip.pretrained import download_pretrained_from_hf

    repository = model.removeprefix("hf-hub:")
    try:
        with hub.asked_once():
            if repository != model:
                return Path(download_pretrained_from_hf(repository, cache_dir=cache))
            config = library.get_pretrained_cfg(model, tag)
            return Path(library.download_pretrained(config, cache_dir=cache))
    except Exception as error:  # the hub's errors have no common class
        source = repository
        if repository == model:
            source = config.get("hf_hub", "").strip("/") or config.get("url", "")
        raise MissingResource(
            f"the image-text encoder {model}" + (f" ({tag})" if tag else ""),
            [hub.cache_folder(cache), f"the model hub ({source})"],
            "where there is a network, unset HF_HUB_OFFLINE; where there is none, copy the file "
            "from a machine that has one (encoder.checkpoint=/path/to/file), or use "
            "profile=offline (encoder=conse)",
        ) from error


def load(network: nn.Module, path: Path, model: str) -> None:
    """Load a whole checkpoint into a network of open_clip; nothing in it is executed.

    Reads safetensors, files that torch opens with `weights_only`, and OpenAI's original TorchScript
    archives (through torch's reader, without Python's pickle) or their state dicts.

    Raises:
        MissingResource: no such file.
        DissectError: it is unsafe, its tensors do not fit, or it was trained with another
            activation function, image size or context length.
    """
    checkpoints.check_file(path)
    if _is_archive(path):
        checkpoints.load(network, _openai(path, model), f"{path} (for {model})")
        return
    state = checkpoints.read(path)
    if any(name.removeprefix("module.") in _OPENAI_EXTRAS for name in state):
        checkpoints.load(network, _without_extras(state, path, model), f"{path} (for {model})")
        return
    _check_positions(network, state, path, model)
    del state  # open_clip reads the file itself: it knows other projects' names
    from open_clip import load_checkpoint

    try:
        load_checkpoint(network, str(path), strict=True, weights_only=True)
    except Exception as error:  # each kind of mismatch fails in its own way
        first = one_line(error)
        raise DissectError(f"the weights in {path} don't fit {model}: {first}") from error


def _check_positions(network: nn.Module, state: dict[str, Tensor], path: Path, model: str) -> None:
    # open_clip would resize them to the network's without a word.
    own = network.state_dict()
    for name, tensor in state.items():
        if not name.endswith("positional_embedding"):
            continue
        bare = name.removeprefix("module.")
        fitting = own.get(bare, own.get(f"text.{bare}"))
        if fitting is not None and fitting.shape != tensor.shape:
            what = "image or patch size" if "visual" in name else "text length"
            raise DissectError(
                f"the weights in {path} don't fit {model}: they were made for another {what} "
                f"({name} is {list(tensor.shape)}, not {list(fitting.shape)})"
            )


def _is_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _openai(path: Path, model: str) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old
        try:
            read: Any = torch.jit.load
            state = dict(read(str(path), map_location="cpu").state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise DissectError(f"{path} is a damaged TorchScript archive: {reason}") from error
    if not all(name in state for name in _OPENAI_EXTRAS):
        raise DissectError(
            f"{path} is a TorchScript archive, but not one of OpenAI's: save the network's state "
            f"dict instead"
        )
    return _without_extras(state, path, model)


def _without_extras(state: dict[str, Tensor], path: Path, model: str) -> dict[str, Tensor]:
    """Return the network's tensors of an OpenAI state dict, which always has QuickGELU."""
    if not is_quick(model):
        other = other_activation(model)
        raise DissectError(
            f"{path} is OpenAI's, and was trained with another activation function than {model} "
            f"has" + (f": use model={other}" if other else "")
        )
    return {
        name: tensor
        for name, tensor in state.items()
        if name.removeprefix("module.") not in _OPENAI_EXTRAS
    }
