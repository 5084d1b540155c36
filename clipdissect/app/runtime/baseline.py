"""The published pipeline written plainly: the baseline of the runtime ratios (Table 4).

What a reader of the paper would write with torch: a pass over the images for each of the two
networks, so that every image is decoded twice; features kept in files under the networks' names;
the whole matrix of concept activations; SoftWPMI one unit after another. Decoding
processes and precision are those of our own pipeline, its batches too unless
`runtime.baseline_batch` says otherwise, and text embeddings are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from clipdissect.capture.dataloader import workers_for
from clipdissect.capture.settings import Settings
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError
from clipdissect.images.decode import to_pil
from clipdissect.probe import Probe
from clipdissect.similarity import Similarity
from clipdissect.targets import Target
from clipdissect.utils.hashing import Transform
from clipdissect.utils.timing import Timers

PARAMETERS = ("a", "lam", "top_k", "p_start", "p_end", "eps")


@dataclass
class Plain:
    """The plain pipeline.

    Args:
        target, probe, concepts, encoder, similarity: as of a dissection; SoftWPMI as released
            (membership by rank) is the one similarity function that it has.
        settings: device, batch size and decoding processes; bf16 autocast where they say so.
        folder: gets the features, and has them in a second run.
        stages: gets the seconds.

    Raises:
        DissectError: another similarity function.
    """

    target: Target
    probe: Probe
    concepts: Sequence[str]
    encoder: Encoder
    similarity: Similarity
    settings: Settings
    folder: Path
    stages: Timers = field(default_factory=Timers)

    def __post_init__(self) -> None:
        own = self.similarity.parameters
        if self.similarity.name != "soft_wpmi" or own.get("membership", "rank") != "rank":
            raise DissectError(
                f"the plain pipeline has SoftWPMI with membership=rank alone, not "
                f"{self.similarity.name}: use similarity=soft_wpmi or runtime.baseline=false"
            )

    @torch.no_grad()
    def describe(self) -> pd.DataFrame:
        """The best concept of every unit: `layer, unit, description, similarity`."""
        with self.stages.stage("texts"):
            texts = self._kept("texts", lambda: {"values": self._texts()})["values"]
        activations, images = self.features()
        with self.stages.stage("similarity"):
            device = self.settings.torch_device
            P = images.to(device) @ texts.to(device).T
            tables = [
                self._described(layer, P, activations[layer].to(device)) for layer in activations
            ]
        joined: pd.DataFrame = pd.concat(tables, ignore_index=True)
        return joined

    @torch.no_grad()
    def features(self) -> tuple[Mapping[str, Tensor], Float[Tensor, "images dims"]]:
        """Layer to activations `[images, units]`, and image embeddings: a pass for each."""
        activations = self._kept(self.target.name, self._activations)
        images = self._kept(self.encoder.name, lambda: {"values": self._image_embeds()})["values"]
        return activations, images

    def _described(self, layer: str, P: Tensor, q: Tensor) -> pd.DataFrame:
        own = {k: v for k, v in self.similarity.parameters.items() if k in PARAMETERS}
        best = soft_wpmi(P, q, **own).max(1)
        words = [self.concepts[i] for i in best.indices.tolist()]
        table: pd.DataFrame = pd.DataFrame(
            {
                "layer": layer,
                "unit": range(len(words)),
                "description": words,
                "similarity": best.values.tolist(),
            }
        )
        return table

    def _texts(self) -> Tensor:
        return self.encoder.embed_texts(list(self.concepts), self.settings.torch_device)

    def _activations(self) -> dict[str, Tensor]:
        """The first pass: the target on every image, its layers' outputs pooled by hooks."""
        model, device = self.target.model.eval(), self.settings.torch_device
        model.to(device)
        kept: dict[str, list[Tensor]] = {layer: [] for layer in self.target.layers}

        def hook(layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda module, inputs, output: kept[layer].append(pooled(output))

        with ExitStack() as hooks:
            for layer in self.target.layers:
                hooks.enter_context(model.get_submodule(layer).register_forward_hook(hook(layer)))
            for images in self._images(self.target.preprocess):
                with self.stages.stage("forward"), self._autocast():
                    model(images.to(device))
        with self.stages.stage("forward"):  # on a GPU it ends here
            return {layer: torch.cat(parts).cpu() for layer, parts in kept.items()}

    def _image_embeds(self) -> Tensor:
        """The second pass: the encoder on every image, decoded anew."""
        parts = []
        for images in self._images(self.encoder.preprocess):
            with self.stages.stage("forward"), self._autocast():
                parts.append(self.encoder.embed_images(images.to(self.settings.torch_device)))
        with self.stages.stage("forward"):
            return torch.cat(parts).float().cpu()

    def _images(self, transform: Transform) -> Iterator[Tensor]:
        loader = DataLoader(
            _Images(self.probe, transform),
            batch_size=self.settings.images_a_batch,
            num_workers=workers_for(self.settings),
            pin_memory=torch.cuda.is_available(),
        )
        batches = iter(loader)
        for _ in range(len(loader)):
            with self.stages.stage("decode"):
                images = next(batches)
            yield images

    def _autocast(self) -> Any:
        kind = torch.device(self.settings.torch_device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.settings.mode == "bf16")

    def _kept(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Features from the file of a name, made and written first where there is none."""
        path = self.folder / f"{name.replace('/', '_')}.safetensors"
        if not path.exists():
            made = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous() for key, value in made.items()}, path)
        found: dict[str, Tensor] = load_file(path)
        order = self.target.layers if name == self.target.name else tuple(found)
        return {key: found[key] for key in order}


class _Images(Dataset[Tensor]):
    """Decoded and transformed images."""

    def __init__(self, probe: Probe, transform: Transform) -> None:
        self.probe, self.transform = probe, transform

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, index: int) -> Tensor:
        picture: Image.Image = to_pil(self.probe.read(index))
        return self.transform(picture)


def pooled(output: Tensor) -> Float[Tensor, "images units"]:
    """One number a unit: the mean over the map's positions, the class token, or as it is.

    Args:
        output: of a layer, `[images, units, h, w]`, `[images, tokens, units]`, `[images, units]`.
    """
    if output.ndim == 4:
        return output.float().mean((2, 3))
    return output.float()[:, 0] if output.ndim == 3 else output.float()


def soft_wpmi(
    P: Float[Tensor, "images concepts"],
    q: Float[Tensor, "images units"],
    *,
    a: float = 10.0,
    lam: float = 1.0,
    top_k: int = 100,
    p_start: float = 0.998,
    p_end: float = 0.97,
    eps: float = 1e-7,
    rows: str = "gather",
    results: str = "list",
) -> Float[Tensor, "units concepts"]:
    """SoftWPMI one unit after another (Sec. 3.2).

    Args:
        P: concept activations.
        q: activations.
        a, lam, top_k, p_start, p_end, eps: see `clipdissect.similarity.soft_wpmi`.
        rows: how to take a unit's images out of P: `gather` with the index expanded over the
            concepts, or `index`.
        results: where scores go: a `list` that is stacked, or an `array` made beforehand.
    """
    probabilities = torch.softmax(a * P, dim=1)
    best = torch.topk(q, top_k, dim=0).indices
    p = (p_start - torch.arange(top_k, device=P.device) / top_k * (p_start - p_end))[:, None]
    units, concepts = q.shape[1], P.shape[1]
    scores: Any = [] if results == "list" else torch.empty(units, concepts, device=P.device)
    for unit in range(units):
        if rows == "gather":
            own = probabilities.gather(0, best[:, unit : unit + 1].expand(-1, concepts))
        else:
            own = probabilities[best[:, unit]]
        joint = torch.log(1 - p + p * own + eps).sum(0)
        if results == "list":
            scores.append(joint)
        else:
            scores[unit] = joint
    joints: Tensor = torch.stack(scores) if results == "list" else scores
    marginal = torch.logsumexp(joints, 0) - torch.log(torch.tensor(float(units)))
    return joints - lam * marginal
