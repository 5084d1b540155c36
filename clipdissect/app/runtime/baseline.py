"""The published pipeline in plain torch: the baseline of the runtime ratios (Table 4).

One pass over the images per network, so that each image is decoded twice; features in
files under the networks' names; the full matrix P; SoftWPMI unit by unit. Decoding
processes and precision are ours, and batches unless `runtime.baseline_batch` is set;
texts are embedded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from clipdissect.capture.settings import Settings
from clipdissect.capture.workers import workers_for
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
class PlainPipeline:
    """The plain pipeline of SoftWPMI (membership by rank), with features cached in `folder`."""

    target: Target
    probe: Probe
    concepts: Sequence[str]
    encoder: Encoder
    similarity: Similarity
    settings: Settings
    folder: Path
    timers: Timers = field(default_factory=Timers)

    def __post_init__(self) -> None:
        membership = self.similarity.parameters.get("membership", "rank")
        if self.similarity.name != "soft_wpmi" or membership != "rank":
            raise DissectError(
                f"the plain pipeline has SoftWPMI with membership=rank alone, not "
                f"{self.similarity.name}: use similarity=soft_wpmi or runtime.baseline=false"
            )

    @torch.no_grad()
    def describe(self) -> pd.DataFrame:
        """Return `layer, unit, description, similarity` of each unit's best concept."""
        device = self.settings.torch_device
        with self.timers.stage("texts"):
            embed = partial(self.encoder.embed_texts, list(self.concepts), device)
            texts = self._saved("texts", lambda: {"values": embed()})["values"]
        activations, images = self.features()
        with self.timers.stage("similarity"):
            P = images.to(device) @ texts.to(device).T
            tables = [self._table(layer, P, q.to(device)) for layer, q in activations.items()]
        return pd.concat(tables, ignore_index=True)

    @torch.no_grad()
    def features(self) -> tuple[Mapping[str, Tensor], Float[Tensor, "images dims"]]:
        """Return activations by layer and image embeddings, with a pass for each."""
        activations = self._saved(self.target.name, self._activations)
        images = self._saved(self.encoder.name, self._embed_images)["values"]
        return {layer: activations[layer] for layer in self.target.layers}, images

    def _table(self, layer: str, P: Tensor, q: Tensor) -> pd.DataFrame:
        best = soft_wpmi(P, q, **parameters_of(self.similarity)).max(1)
        words, scores = [self.concepts[i] for i in best.indices.tolist()], best.values.tolist()
        columns = {"layer": layer, "unit": range(len(words))}
        frame: pd.DataFrame = pd.DataFrame(columns | {"description": words, "similarity": scores})
        return frame

    def _activations(self) -> dict[str, Tensor]:
        """Run the target and pool its layers' outputs in forward hooks."""
        model, device = self.target.model.eval(), self.settings.torch_device
        model.to(device)
        outputs: dict[str, list[Tensor]] = {layer: [] for layer in self.target.layers}

        def hook(layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda module, inputs, output: outputs[layer].append(pooled(output))

        with ExitStack() as hooks:
            for layer in self.target.layers:
                hooks.enter_context(model.get_submodule(layer).register_forward_hook(hook(layer)))
            for images in self._images(self.target.preprocess):
                with self.timers.stage("forward"), self._autocast():
                    model(images.to(device))
        with self.timers.stage("forward"):  # waits for a GPU
            return {layer: torch.cat(batches).cpu() for layer, batches in outputs.items()}

    def _embed_images(self) -> dict[str, Tensor]:
        batches = []
        for images in self._images(self.encoder.preprocess):
            with self.timers.stage("forward"), self._autocast():
                batches.append(self.encoder.embed_images(images.to(self.settings.torch_device)))
        with self.timers.stage("forward"):
            return {"values": torch.cat(batches).float().cpu()}

    def _images(self, transform: Transform) -> Iterator[Tensor]:
        loader = DataLoader(
            _Images(self.probe, transform),
            batch_size=self.settings.images_a_batch,
            num_workers=workers_for(self.settings),
            pin_memory=torch.cuda.is_available(),
        )
        batches = iter(loader)
        for _ in range(len(loader)):
            with self.timers.stage("decode"):
                images = next(batches)
            yield images

    def _autocast(self) -> Any:
        kind = torch.device(self.settings.torch_device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.settings.mode.startswith("bf16"))

    def _saved(self, name: str, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        path = self.folder / f"{name.replace('/', '_')}.safetensors"
        if not path.exists():
            tensors = {key: value.contiguous() for key, value in compute().items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, path)
        loaded: dict[str, Tensor] = load_file(path)
        return loaded


@dataclass
class _Images(Dataset[Tensor]):
    probe: Probe
    transform: Transform

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(to_pil(self.probe.read(index)))


def pooled(output: Tensor) -> Float[Tensor, "images units"]:
    """Pool `[images, units, h, w]` by the mean, `[images, tokens, units]` by the class token."""
    if output.ndim == 4:
        return output.float().mean((2, 3))
    return output.float()[:, 0] if output.ndim == 3 else output.float()


def parameters_of(similarity: Similarity) -> dict[str, Any]:
    return {k: v for k, v in similarity.parameters.items() if k in PARAMETERS}


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
    """Compute SoftWPMI unit by unit (Sec. 3.2); parameters as in `clipdissect.similarity`.

    `rows` (`gather`, `index`) reads a unit's rows of P; `results` is a `list` that is
    stacked or a preallocated `array`.
    """
    probabilities = torch.softmax(a * P, dim=1)
    best = torch.topk(q, top_k, dim=0).indices
    p = (p_start - torch.arange(top_k, device=P.device) / top_k * (p_start - p_end))[:, None]
    units, concepts = q.shape[1], P.shape[1]
    scores: Any = [] if results == "list" else torch.empty(units, concepts, device=P.device)
    for unit in range(units):
        if rows == "gather":
            top = probabilities.gather(0, best[:, unit : unit + 1].expand(-1, concepts))
        else:
            top = probabilities[best[:, unit]]
        joint = torch.log(1 - p + p * top + eps).sum(0)
        if results == "list":
            scores.append(joint)
        else:
            scores[unit] = joint
    joints: Tensor = torch.stack(scores) if results == "list" else scores
    marginal = torch.logsumexp(joints, 0) - torch.log(torch.tensor(float(units)))
    return joints - lam * marginal
