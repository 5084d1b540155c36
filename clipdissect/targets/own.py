"""Networks of the user's own, built by their code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from clipdissect.datasets.class_names import class_names
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.models import checkpoints
from clipdissect.targets.base import Target
from clipdissect.targets.preprocess import choose
from clipdissect.targets.torchvision import class_layer as last_linear
from clipdissect.targets.wrappers import plain_name, unwrap
from clipdissect.utils import hashing, import_path


class Given(NamedTuple):
    """The options common to all networks of users; see `module`."""

    layers: list[str] | None
    preprocess: dict[str, Any] | None
    transform: str | None
    classes: str | None
    class_layer: str | None


def module(
    factory: str,
    arguments: Any = None,
    layers: list[str] | None = None,
    preprocess: dict[str, Any] | None = None,
    transform: str | None = None,
    classes: str | None = None,
    class_layer: str | None = None,
) -> Target:
    """Return what a function of the user's code builds: `target.factory=mymodule:build`.

    Args:
        factory: import path of a function or class; the current folder is importable. It returns
            a network, `(network, transform)`, or a `Target`.
        arguments: keyword arguments of the factory.
        layers: modules to dissect, by name or pattern.
        preprocess: arguments of `preprocess.image_transform` (`image_size`, `resize`, `mean`,
            `std`, `interpolation`), for a network without its own transform.
        transform: instead, the import path of a function from a PIL image to the input.
        classes: class names: a text file, one per line, or `imagenet`.
        class_layer: the layer whose units are the classes; by default the last linear one.

    Raises:
        DissectError: the factory cannot be imported, raises, or returns something else.
    """
    built = import_path.call(factory, arguments, "target.factory")
    given = Given(layers, preprocess, transform, classes, class_layer)
    if isinstance(built, Target):
        return finish(built.name, built.model, given, built, built.weights or f"of {factory}")
    own, name = None, factory.partition(":")[2]
    if isinstance(built, tuple) and len(built) == 2:
        built, own = built
    if not isinstance(built, nn.Module) or not (own is None or callable(own)):
        raise DissectError(
            f"target.factory: {factory} must return a torch.nn.Module, (module, transform) or a "
            f"Target; it returned a {type(built).__name__}"
        )
    brought = Target(name, built, own) if own is not None else None
    return finish(name, built, given, brought, f"of {factory}")


def checkpoint(
    factory: str,
    checkpoint: str,
    arguments: Any = None,
    layers: list[str] | None = None,
    preprocess: dict[str, Any] | None = None,
    transform: str | None = None,
    classes: str | None = None,
    class_layer: str | None = None,
) -> Target:
    """Return an architecture, by import path, with the tensors of a file; all must fit.

    Args:
        factory: import path of a function or class that returns the network, such as
            `torchvision.models:resnet18`.
        checkpoint: a state dict: safetensors, or a `torch.save` file, loaded without running code;
            wrappers such as `state_dict` and `module.` are removed.
        arguments: keyword arguments of the factory.
        layers, preprocess, transform, classes, class_layer: see `module`.

    Raises:
        MissingResource: no such file.
        DissectError: the factory fails, or names or shapes differ (says which).
    """
    file = Path(checkpoint).expanduser()
    state = checkpoints.read(file)
    built = import_path.call(factory, arguments, "target.factory")
    if not isinstance(built, nn.Module):
        raise DissectError(
            f"target.factory: {factory} must return a torch.nn.Module; it returned a "
            f"{type(built).__name__}"
        )
    built = unwrap(built)
    checkpoints.load(built, state, checkpoint)
    name = f"{factory.partition(':')[2]}/{Path(checkpoint).name}"
    options = Given(layers, preprocess, transform, classes, class_layer)
    return finish(name, built, options, weights=f"sha256:{hashing.hash_file(file)}")


def hub_dir(
    folder: str,
    entry: str,
    arguments: Any = None,
    layers: list[str] | None = None,
    preprocess: dict[str, Any] | None = None,
    transform: str | None = None,
    classes: str | None = None,
    class_layer: str | None = None,
) -> Target:
    """Return an entry point of a local folder with a `hubconf.py` (`torch.hub`); runs its code.

    Args:
        folder: the folder; nothing is downloaded.
        entry: the function in `hubconf.py`.
        arguments: keyword arguments of the function.
        layers, preprocess, transform, classes, class_layer: see `module`.

    Raises:
        MissingResource: the folder has no `hubconf.py`.
        DissectError: no such entry, or it raises or returns no network.
    """
    root = Path(folder).expanduser()
    if not (root / "hubconf.py").is_file():
        raise MissingResource(
            "hubconf.py",
            [str((root / "hubconf.py").absolute())],
            "set target.folder to a folder with a hubconf.py",
        )
    try:
        load: Any = torch.hub.load
        built = load(str(root), entry, source="local", **import_path.keywords(arguments))
    except DissectError:
        raise
    except Exception as error:  # the user's own code
        raise DissectError(f"{root}/hubconf.py raised {import_path.where(error)}") from error
    if not isinstance(built, nn.Module):
        raise DissectError(f"{entry} of {root} returned a {type(built).__name__}, not a network")
    options = Given(layers, preprocess, transform, classes, class_layer)
    return finish(entry, built, options, weights=f"of {entry} in {root.name}/hubconf.py")


def finish(
    name: str,
    model: nn.Module,
    given: Given,
    brought: Target | None = None,
    weights: str | None = None,
) -> Target:
    """Return a target of a network and the options; `brought` is what its code provides.

    Raises:
        DissectError: a class layer that does not exist, or as many class names as there are units
            are not given.
    """
    model, own = unwrap(model), brought.preprocess if brought else None
    model.eval()  # not `model = model.eval()`: a train() of one's own may return nothing
    steps, notes = choose(given.transform, given.preprocess, own)
    layer, names = _classes(model, given.classes, given.class_layer)
    layers = tuple(given.layers or (brought.layers if brought else ()))
    if brought and not names:
        layer, names = layer or brought.class_layer, brought.class_names
    notes = (*(brought.notes if brought else ()), *notes)
    return Target(name, model, steps, layers, layer, names, notes, weights)


def _classes(
    model: nn.Module, classes: str | None, class_layer: str | None
) -> tuple[str | None, tuple[str, ...]]:
    modules = dict(model.named_modules())
    class_layer = plain_name(class_layer, model) if class_layer else class_layer
    if class_layer is not None and class_layer not in modules:
        raise unknown("target.class_layer", class_layer, [name for name in modules if name], 12)
    if classes is None:
        return class_layer, ()
    layer = class_layer or last_linear(model)
    if layer is None:
        raise DissectError("target.classes needs target.class_layer: the layer with the classes")
    return layer, class_names(classes, getattr(modules[layer], "out_features", None))
