"""The preprocessing of a network that is given without: from its own record, or its library's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipdissect.errors import DissectError, one_line
from clipdissect.images.image_processor import ImageProcessor
from clipdissect.models import checkpoints
from clipdissect.targets.torchvision import cached_file
from clipdissect.utils.hashing import Transform
from clipdissect.utils.type_checks import shortened

log = logging.getLogger(__name__)

NEEDED = (
    "preprocess is needed with a plain network: the transform from a PIL image to its input, as "
    "used for evaluating it"
)
UNVERIFIED = "that the network's tensors are those weights isn't checked"


@dataclass(frozen=True)
class KnownPreprocess:
    """A transform, where it is recorded, and the name of the weights if their tensors are equal."""

    transform: Transform
    source: str
    weights: str | None = None

    @property
    def note(self) -> str:
        return f"preprocess wasn't given; used {self.source}: {one_line(repr(self.transform))}"  # type: ignore[arg-type]


def as_transform(preprocess: Any) -> Transform:
    """Return a transform from one, torchvision's weights or an image processor of transformers.

    Raises:
        DissectError: something else.
    """
    from torchvision.models import WeightsEnum

    if isinstance(preprocess, WeightsEnum):
        weights: Any = preprocess
        transform: Transform = weights.transforms()
        return transform
    processor = getattr(preprocess, "image_processor", preprocess)
    if "pixel_values" in getattr(processor, "model_input_names", ()):
        return ImageProcessor(processor)
    if isinstance(preprocess, type) or not callable(preprocess):
        raise DissectError(
            f"preprocess must be a function of a PIL image, weights of torchvision such as "
            f"ResNet50_Weights.IMAGENET1K_V2, or an image processor of transformers; got "
            f"{shortened(preprocess)}"
        )
    given: Transform = preprocess
    return given


def known_preprocess(model: nn.Module) -> KnownPreprocess:
    """Return the preprocessing that an unwrapped network or its library records.

    Raises:
        DissectError: there is none, or several that could be the network's; names these.
    """
    for find in (_of_timm, _of_open_clip, _of_transformers, _of_torchvision):
        known = find(model)
        if known:
            log.warning(known.note)
            return known
    raise DissectError(NEEDED)


def _of_timm(model: Any) -> KnownPreprocess | None:
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not {"mean", "std", "input_size"} <= set(config):
        return None
    from timm.data import create_transform, resolve_model_data_config

    # An input size that `timm.create_model` was given is in the network, not in its configuration.
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    changed = {"input_size": (3, *size)} if size else {}
    transform: Any = create_transform(
        **resolve_model_data_config(model, args=changed), is_training=False
    )
    name = ".".join(str(config[key]) for key in ("architecture", "tag") if config.get(key))
    return KnownPreprocess(transform, f"timm's configuration of {name} ({UNVERIFIED})")


def _of_open_clip(model: Any) -> KnownPreprocess | None:
    config = getattr(getattr(model, "visual", model), "preprocess_cfg", None)
    if not isinstance(config, Mapping):
        return None
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
    return KnownPreprocess(transform, "the preprocess_cfg that open_clip set in the network")


def _of_transformers(model: Any) -> KnownPreprocess | None:
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    if not name or not type(model).__module__.startswith("transformers."):
        return None
    from transformers import AutoImageProcessor

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoImageProcessor.from_pretrained(name, **local)
    except (OSError, ValueError):  # none there
        return None
    return KnownPreprocess(ImageProcessor(processor), f"the image processor in {name}")


def _of_torchvision(model: nn.Module) -> KnownPreprocess | None:
    if not type(model).__module__.startswith("torchvision.models."):
        return None
    fitting = _fitting_weights(model)
    for weights in fitting:
        if _has_tensors_of(model, weights):
            return KnownPreprocess(
                weights.transforms(), f"that of {weights}, whose tensors it has", weights.name
            )
    if len({repr(weights.transforms()) for weights in fitting}) > 1:
        names = " or ".join(f"torchvision.models.{weights}" for weights in fitting)
        raise DissectError(
            f"preprocess is needed: torchvision's weights for this {type(model).__name__} differ "
            f"in it, and a network doesn't record which it has. Set preprocess to {names}, or to "
            f"a transform of your own"
        )
    if not fitting:
        return None
    names = ", ".join(map(str, fitting))
    return KnownPreprocess(fitting[0].transforms(), f"that of {names} ({UNVERIFIED})")


def _fitting_weights(model: nn.Module) -> list[Any]:
    """Return torchvision's weights for networks of this kind with as many parameters."""
    from torchvision import models

    parameters = dict(model.named_parameters())
    # `num_params` includes auxiliary classifiers for Inception, but not for GoogLeNet.
    sizes = {_size(parameters), _size(_without_auxiliary(parameters))}
    return [
        weights
        for name in models.list_models(module=models)
        if models.get_model_builder(name).__module__ == type(model).__module__
        for weights in models.get_model_weights(name)
        if weights.meta["num_params"] in sizes
    ]


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _without_auxiliary(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # The classifiers of GoogLeNet and Inception that help training may be left out.
    return {name: t for name, t in state.items() if not name.lower().startswith("aux")}


def _has_tensors_of(model: nn.Module, weights: Any) -> bool:
    """Return whether all tensors of the weights' downloaded file, if there is one, are equal."""
    path = cached_file(weights)
    if not path.is_file():
        return False
    try:
        stored = _without_auxiliary(checkpoints.read(path))
    except DissectError:  # damaged
        return False
    state = model.state_dict()
    return all(name in state and _equal(state[name], tensor) for name, tensor in stored.items())


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.detach().cpu(), b.cpu())
