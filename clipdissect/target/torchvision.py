"""torchvision's classification networks with their own weights and preprocessing."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import nn

from clipdissect import weights as checkpoints
from clipdissect.classes import imagenet_names
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.fetch import ITEMS
from clipdissect.target.base import Target

RESNET_LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")


def torchvision(
    model: str = "resnet50",
    weights: str = "IMAGENET1K_V1",
    checkpoint: str | None = None,
    layers: list[str] | None = None,
) -> Target:
    """A network of `torchvision.models` by name.

    The weights' own transform is the preprocessing, also with a local checkpoint.

    Args:
        model: such as `resnet50`.
        weights: which of the model's weights; the paper's ResNet-50 is `IMAGENET1K_V1`.
        checkpoint: a local file with the state dict instead of the download.
        layers: modules to dissect; by default the paper's five for a ResNet.

    Raises:
        MissingResource: the weights are neither cached nor to be downloaded.
        DissectError: unknown model or weights, or a checkpoint that doesn't fit.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        raise unknown("torchvision model", model, names)
    available = models.get_model_weights(model)
    if weights not in available.__members__:
        raise unknown(f"weights of {model}", weights, available.__members__)
    chosen = available[weights]
    network: nn.Module = models.get_model(model, weights=None, **_extra(model, chosen)).eval()
    source = checkpoint or chosen.url
    state = checkpoints.read(Path(checkpoint).expanduser()) if checkpoint else _download(chosen)
    checkpoints.load(network, state, source)
    return _target(model, network, chosen, layers)


def _target(name: str, model: nn.Module, weights: Any, layers: list[str] | None) -> Target:
    default = RESNET_LAYERS if name.startswith(("resnet", "wide_resnet", "resnext")) else ()
    chosen = tuple(layers or default)
    if not chosen:
        raise DissectError(
            f"{name} has no default layers; set target.layers, for example to some "
            f"of {', '.join(n for n, _ in model.named_children())}"
        )
    last = [n for n, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    is_imagenet = len(weights.meta["categories"]) == 1000
    return Target(
        name,
        model,
        weights.transforms(),
        chosen,
        class_layer=last[0] if last and is_imagenet else None,
        class_names=imagenet_names() if is_imagenet else (),
    )


def _extra(model: str, weights: Any) -> dict[str, Any]:
    """What torchvision's builders change with the weights, which are loaded apart from it here."""
    if model in ("inception_v3", "googlenet"):
        return {"transform_input": True, "init_weights": False}
    return {"image_size": weights.meta["min_size"][0]} if model.startswith("vit_") else {}


def _fetch(file: str) -> str:
    """How to get a checkpoint of this name, where `clipdissect fetch` knows it."""
    name = next((item.name for item in ITEMS.values() if item.place == file), None)
    return f"clipdissect fetch {name}, " if name else ""


def _download(weights: Any) -> dict[str, Any]:
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (RuntimeError, UnpicklingError) as error:  # another digest than the name says, or cut
        raise DissectError(f"{cached} is damaged; delete it ({error})") from error
    except OSError as error:  # no network, a refused connection, a dead host
        raise MissingResource(
            f"the weights {weights} ({error})",
            [str(cached), weights.url],
            f"{_fetch(cached.name)}download the file to {cached}, set target.checkpoint, or use "
            f"profile=offline",
        ) from error
