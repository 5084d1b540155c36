"""The library's main call: describe the units of a network's layers by any method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from clipdissect import concepts as concept_sets
from clipdissect import encoder as encoders
from clipdissect import method as methods
from clipdissect import probe as probes
from clipdissect import similarity as similarities
from clipdissect import targets
from clipdissect.capture.settings import Settings
from clipdissect.concepts import Concepts
from clipdissect.dissection import (
    Job,
    resolve_settings,
    resolve_store,
    with_saes,
)
from clipdissect.encoder import Encoder
from clipdissect.explore.result import Result
from clipdissect.method import Method
from clipdissect.models.layer_patterns import LayerFilter
from clipdissect.probe import Probe
from clipdissect.sae import Sae
from clipdissect.similarity import PlainFunction, Similarity
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils import registry
from clipdissect.utils.distributed import ALONE, Team
from clipdissect.utils.hashing import Transform
from clipdissect.utils.timing import Timers

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum
    from transformers import BaseImageProcessor


Named: TypeAlias = str | Mapping[str, Any]
"""An option's name, or a name with parameters: `{"name": "soft_wpmi", "top_k": 20}`."""

ModelInput: TypeAlias = nn.Module | Target | Named
"""A network, a `Target`, or a target's name."""

LayersInput: TypeAlias = Sequence[str] | LayerFilter
"""Module names or patterns, module types, or a function of a module's name and the module."""

ProbeInput: TypeAlias = (
    Probe | Named | Path | Sequence[Any] | np.ndarray | Tensor | Dataset[Any] | DataLoader[Any]
)
"""A probe's name, an image folder, a list of files or images, an array, a dataset or its loader."""

ConceptsInput: TypeAlias = Concepts | Sequence[str] | Named | Path
"""A list of texts, a concept set's name, a text file, or a `Concepts`."""

PreprocessInput: TypeAlias = "Transform | WeightsEnum | BaseImageProcessor"
"""A transform, torchvision's weights (for theirs), or an image processor of transformers."""

EncoderInput: TypeAlias = Encoder | Named | nn.Module | tuple[nn.Module, Transform, Any]
"""An encoder, its name, or a model of open_clip: alone or `(model, preprocess, tokenizer)`."""

SimilarityInput: TypeAlias = Similarity | Named | PlainFunction
"""A similarity function, its name, or any `f(P, q) -> scores [units, concepts]`."""

SaeInput: TypeAlias = Sae | nn.Module | Named | Path
"""A sparse autoencoder, its folder, a module with `encode`, or a mapping of layers to these."""


def dissect(
    model: ModelInput,
    layers: LayersInput | None = None,
    *,
    probe: ProbeInput,
    concepts: ConceptsInput | None = None,
    preprocess: PreprocessInput | None = None,
    method: Method | Named = "clip_dissect",
    encoder: EncoderInput = "clip_vit_b16",
    similarity: SimilarityInput = "soft_wpmi",
    sae: SaeInput | None = None,
    settings: Settings | None = None,
    device: str | torch.device | None = None,
    store: Store | str | Path | None = "auto",
    top: int = 5,
    images: int = 10,
    team: Team = ALONE,
    truth: Mapping[str, Sequence[str]] | None = None,
    null_similarity: bool = True,
) -> Result:
    """Describe every unit of the layers, by default by the concepts that match it best.

    Names may be mappings with parameters: `{"name": "soft_wpmi", "top_k": 20}`. docs/python.md has
    an example of each form.

    Args:
        model: a network, a `Target`, or a target's name.
        layers: dotted module names or patterns, with `[part]` for a module that returns a tuple or
            dict; or a module type, such as `torch.nn.Conv2d`, a tuple of types, or a function
            `layers(name, module) -> bool`; the target's own by default.
        probe: an image folder, a probe's name, a `Probe`, a list of image files, an array of
            images `[images, h, w, 3]` or `[images, 3, h, w]`, a map-style dataset or list of images
            without normalisation, or a DataLoader, of which the dataset is used, in its order.
        concepts: a list of texts, a concept set's name, a text file, or a `Concepts`; for methods
            that choose from concepts.
        preprocess: PIL image to the network's input; or weights of torchvision, whose transform
            is used, or an image processor of transformers. By default the target's; of a plain
            network the one that timm, open_clip or transformers record in it, or that torchvision
            has for its weights, which is logged and noted in the result.
        method: a method's name, or one from `method.build`; it takes of the following what it
            needs.
        encoder: an encoder's name, an `Encoder`, or a loaded model of open_clip: alone, or as
            `(model, preprocess, tokenizer)`.
        similarity: a similarity function's name, one from `similarity.build`, or a function of
            `P [images, concepts]` and `q [images, units]` that returns scores `[units, concepts]`;
            see `similarity.Function`.
        sae: a sparse autoencoder, whose latents are described as the layer's units: its folder, a
            module with `encode(x [..., inputs]) -> [..., latents]`, or an `Sae`; with several
            layers, a mapping of the layer to one of these.
        settings: device, precision, batches and the summary of activations.
        device: `cpu`, `cuda` or `cuda:1`; overrides the settings' device.
        store: the feature store: a folder, `auto` for the user cache, None to disable it.
        top: descriptions per unit.
        images: top images per unit.
        team: processes that share the images, from `distributed.from_environment`; the leader
            calls this, the others `Method.run_worker`.
        truth: layer to each unit's right concept, for `truth_rank`; costs two more passes over
            the concepts and doesn't change the descriptions.
        null_similarity: whether to score again with shuffled images, for `null_similarity`;
            doubles the scoring time and doesn't change the descriptions.

    Raises:
        DissectError: an invalid argument; the message says what to change.

    Source: Oikarinen & Weng, ICLR 2023, Sec. 3.
    """
    timers = Timers()
    with timers.stage("load"):
        describer = _resolve_method(method)
        settings = resolve_settings(settings, device)
        parts = _parts(describer.needs, concepts, encoder, similarity)
        job = Job(
            target=with_saes(targets.resolve(model, layers, preprocess), sae),
            probe=probes.resolve(probe),
            settings=settings,
            store=resolve_store(store),
            top=top,
            images=images,
            team=team,
            truth={} if truth is None else truth,
            null=null_similarity,
            **parts,
        )
    result = Result.of(describer.describe(job), job)
    seconds = result.run.setdefault("seconds", {})
    seconds["load"] = seconds.get("load", 0.0) + timers.seconds["load"]
    return result


def _resolve_method(method: Method | Mapping[str, Any] | str) -> Method:
    if isinstance(method, Method):
        return method
    return registry.named("method", methods.build, method)


def _parts(needs: Sequence[str], concepts: Any, encoder: Any, similarity: Any) -> dict[str, Any]:
    """Return the inputs that a method needs; others aren't built."""
    parts: dict[str, Any] = {}
    if "concepts" in needs:
        parts["concepts"] = concept_sets.resolve(concepts)
    if "similarity" in needs:
        parts["similarity"] = similarities.resolve(similarity)
    if "encoder" in needs:
        parts["encoder"] = encoders.resolve(encoder)
    return parts
