"""Any classification network of timm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipdissect.datasets.class_names import class_names, imagenet_names
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.models import checkpoints, hub
from clipdissect.targets.base import Target
from clipdissect.utils import hashing, import_path
from clipdissect.utils.dependencies import depends_on, depends_on_more

WEIGHTS = ("pretrained", checkpoints.RANDOM)


def timm(
    model: str,
    weights: str = "pretrained",
    checkpoint: str | None = None,
    arguments: Any = None,
    classes: str | None = None,
    layers: list[str] | None = None,
) -> Target:
    """Return a network of timm, with the preprocessing of its configuration.

    Args:
        model: such as `convnext_tiny`, with a tag where there are several trainings
            (`convnext_tiny.in12k_ft_in1k`), or `hf-hub:...` or `local-dir:...`.
        weights: `pretrained` (from the hub), or `random` (seed 0, noted), for trials.
        checkpoint: a local state dict instead; the number of classes follows its last layer.
        arguments: further arguments of `timm.create_model`, such as `{"img_size": 256}`.
        classes: class names: a text file, one per line, or `imagenet`; by default ImageNet's
            where the network has its 1000 classes.
        layers: modules to dissect instead of the stages or blocks that timm lists as features.

    Raises:
        MissingResource: the weights are neither cached nor downloadable.
        DissectError: unknown model, tag or weights, or a checkpoint that does not fit.
    """
    import timm as library
    from timm.data import create_transform, resolve_model_data_config

    if weights not in WEIGHTS:
        raise unknown(f"weights of timm's {model}", weights, WEIGHTS)
    if ":" not in model and not library.is_model(model):
        raise unknown("timm model", model.split(".")[0], library.list_models())
    extra = import_path.keywords(arguments)
    if ":" in model or not all(isinstance(value, (int, float)) for value in extra.values()):
        depends_on_more()
    if checkpoint:
        network = _with_state(model, extra, checkpoint)
    elif weights == checkpoints.RANDOM:
        network = checkpoints.random(lambda: _create(model, extra))
    else:
        network = _pretrained(model, extra)
    network.eval()
    names, last = _classes(network, classes, is_own="num_classes" in extra)
    transform = create_transform(
        **resolve_model_data_config(network, args=_input_size(extra)), is_training=False
    )
    found = Target(
        model,
        network,
        transform,
        tuple(layers or default_layers(network)),
        last if names else None,
        names,
    )
    if checkpoint:
        return replace(found, weights=f"sha256:{hashing.hash_file(Path(checkpoint).expanduser())}")
    if weights == checkpoints.RANDOM:
        return replace(found, weights=weights, notes=(checkpoints.RANDOM_NOTE,))
    return replace(found, weights=_name_of_pretrained(model, network))


def _name_of_pretrained(model: str, network: nn.Module) -> str:
    config: Any = getattr(network, "pretrained_cfg", {})
    if config.get("hf_hub_id") and ":" in model:
        return str(config["hf_hub_id"])
    return ".".join(str(part) for part in (config.get("architecture"), config.get("tag")) if part)


def default_layers(model: nn.Module) -> tuple[str, ...]:
    """Return timm's feature modules: stages of a CNN, blocks of a transformer."""
    info: Any = getattr(model, "feature_info", None) or ()
    listed = [entry["module"] for entry in info if isinstance(entry, dict) and "module" in entry]
    names = {name for name, _ in model.named_modules()}
    return tuple(dict.fromkeys(name for name in listed if name in names))


def _input_size(extra: dict[str, Any]) -> dict[str, Any]:
    """Return timm's keyword for an input size other than the configuration's."""
    size = extra.get("img_size")
    if size is None:
        return {}
    pair = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    return {"input_size": (3, *pair)}


def _classes(
    model: nn.Module, classes: str | None, is_own: bool
) -> tuple[tuple[str, ...], str | None]:
    """Return the class names, and the layer whose units are the classes."""
    from timm.data import infer_imagenet_subset

    config: Any = getattr(model, "pretrained_cfg", {})
    layer = config.get("classifier")
    units = getattr(model, "num_classes", 0)
    if not isinstance(layer, str) or layer not in dict(model.named_modules()):
        return (), None
    if classes is not None:
        return class_names(classes, units), layer
    is_imagenet = not is_own and units == 1000 and infer_imagenet_subset(model) == "imagenet-1k"
    return (imagenet_names() if is_imagenet else ()), layer


def _with_state(model: str, extra: dict[str, Any], checkpoint: str) -> nn.Module:
    state = checkpoints.read(Path(checkpoint).expanduser())
    network = _create(model, extra)
    layer = getattr(network, "pretrained_cfg", {}).get("classifier")
    classes = checkpoints.rows(state, layer)
    if "num_classes" not in extra and classes not in (None, getattr(network, "num_classes", None)):
        extra["num_classes"] = classes
        network = _create(model, extra)
    checkpoints.load(network, state, checkpoint)
    return network


def _create(model: str, extra: dict[str, Any], pretrained: bool = False) -> nn.Module:
    import timm as library

    try:
        network: nn.Module = library.create_model(model, pretrained=pretrained, **extra)
    except (TypeError, RuntimeError, ValueError) as error:  # a wrong tag or argument
        raise DissectError(f"timm can't build {model}: {str(error).splitlines()[0]}") from error
    return network


def _pretrained(model: str, extra: dict[str, Any]) -> nn.Module:
    import timm as library
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    config = library.get_pretrained_cfg(model) if ":" not in model else None
    if config is not None and not config.has_weights:
        tags = library.list_pretrained(f"{model.split('.')[0]}.*")
        raise DissectError(
            f"timm has no pretrained weights of {model}: choose one of {', '.join(tags) or 'none'}"
            f", or set target.checkpoint, or target.weights=random"
        )
    if config is not None:
        _note_files(config)
    try:
        return _create(model, extra, pretrained=True)
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise MissingResource(
            f"timm's weights of {model} ({str(error).splitlines()[0][:200]})",
            [constants.HF_HUB_CACHE, "the model hub"],
            "where there is a network, unset HF_HUB_OFFLINE; where there is none, set "
            "target.checkpoint to a local file",
        ) from error


def _note_files(config: Any) -> None:
    """Note where timm keeps the weights of a configuration."""
    if config.hf_hub_id:
        hub.depends_on_repository(config.hf_hub_id)
    if config.url:
        depends_on(Path(torch.hub.get_dir()) / "checkpoints" / config.url.rsplit("/", 1)[-1])
    if config.file or config.state_dict:
        depends_on_more()
