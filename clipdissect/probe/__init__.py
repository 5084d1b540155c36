"""Probes: the image sets that networks are shown. `OPTIONS` maps names to functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from clipdissect.errors import unknown
from clipdissect.probe.arrays import ImageArray
from clipdissect.probe.base import Probe
from clipdissect.probe.broden import broden
from clipdissect.probe.cifar import cifar10_test, cifar10_train, cifar100_test, cifar100_train
from clipdissect.probe.dataloader import dataset_of
from clipdissect.probe.dataset import dataset
from clipdissect.probe.folder import folder, listed
from clipdissect.probe.hf import hf_datasets
from clipdissect.probe.imagenet import imagenet_broden, imagenet_val
from clipdissect.probe.options import not_empty
from clipdissect.probe.photos import photos
from clipdissect.probe.stamps import stamps
from clipdissect.probe.synthetic import synthetic_broden
from clipdissect.probe.unions import join, union
from clipdissect.probe.webdataset import webdataset
from clipdissect.utils import registry
from clipdissect.utils.paths import is_wrong_name

OPTIONS: dict[str, Callable[..., Probe]] = {
    "broden": broden,
    "cifar100_test": cifar100_test,
    "cifar100_train": cifar100_train,
    "cifar10_test": cifar10_test,
    "cifar10_train": cifar10_train,
    "folder": folder,
    "hf_datasets": hf_datasets,
    "imagenet_broden": imagenet_broden,
    "imagenet_val": imagenet_val,
    "photos": photos,
    "stamps": stamps,
    "synthetic_broden": synthetic_broden,
    "union": union,
    "webdataset": webdataset,
}

__all__ = ["OPTIONS", "Probe", "build", "dataset", "join", "resolve"]


def build(name: str, **parameters: Any) -> Probe:
    probe: Probe = registry.build("probe", OPTIONS, name, parameters)
    return probe


def resolve(source: Any) -> Probe:
    """Return the probe of an option's name or mapping, a folder, files, arrays or a dataset.

    Raises:
        DissectError: something else, an unknown name, or unsuitable images.
    """
    if isinstance(source, Probe):
        return source
    # A word that names an option means the option: `./photos` is a folder of that name.
    if isinstance(source, str) and source in OPTIONS:
        return build(source)
    if isinstance(source, str) and is_wrong_name(source):
        raise unknown("probe or image folder", source, OPTIONS)
    if isinstance(source, (str, Path)):
        not_empty(root=source)
        return folder(str(source))
    if isinstance(source, Mapping):
        return registry.named("probe", build, source)
    if isinstance(source, (list, tuple)) and source and isinstance(source[0], (str, Path)):
        return listed(source)
    if isinstance(source, (np.ndarray, Tensor)):
        return dataset(ImageArray.of(source), "array")
    return dataset(dataset_of(source) if isinstance(source, DataLoader) else source)
