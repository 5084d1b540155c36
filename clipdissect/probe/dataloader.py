"""The dataset of a DataLoader, whose order and batches don't matter to a probe."""

from __future__ import annotations

from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from clipdissect.errors import DissectError


def dataset_of(loader: DataLoader[Any]) -> Any:
    """Return the images that a loader loads, in the dataset's order and each once.

    Raises:
        DissectError: a sampler whose choice of images isn't known.
    """
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset  # for `probe.dataset` to refuse
    batches: Any = loader.batch_sampler
    sampler: Any = loader.sampler if batches is None else batches
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
    if type(sampler) is SubsetRandomSampler:
        return Subset(loader.dataset, sorted(int(index) for index in sampler.indices))
    if _loads_all(sampler, len(loader.dataset)):  # type: ignore[arg-type]
        return loader.dataset
    raise DissectError(
        f"the DataLoader's {type(sampler).__name__} chooses which images it loads: pass the images "
        f"as a dataset, such as torch.utils.data.Subset(dataset, indices)"
    )


def _loads_all(sampler: Any, images: int) -> bool:
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == images
    if type(sampler) is SequentialSampler:
        return len(sampler) == images
    return type(sampler) is DistributedSampler  # whose parts are all images
