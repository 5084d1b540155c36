#!/usr/bin/env python
"""Train a small top-k sparse autoencoder on a layer of EfficientNet-Lite0.

    python scripts/train_small_sae.py IMAGE_FOLDER ... --out small_sae

Minutes on two CPU cores. Writes the files that SAELens reads and writes: `cfg.json` and
`sae_weights.safetensors`. Prints the explained variance on a held-out tenth of the images.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect import probe as probes
from clipdissect import targets
from clipdissect.capture.maps import activation_maps
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.utils.files import atomic, write_text

FOLDERS = ("imagenet_sample", "tiny_imagenet_val")  # of the images that CLIPDISSECT_SHARED has
HELD_OUT = 10  # one image of so many
WARM_UP, DECAY = 50, 0.2  # steps; share of the steps
DEAD_AFTER = 10  # batches without firing
AUXILIARY = 1 / 32  # weight of the loss of dead latents (Gao et al., 2024)


@dataclass(frozen=True)
class Recipe:
    """Settings of the training: sizes, then Adam's."""

    latents: int = 1024
    k: int = 32
    steps: int = 2000
    batch: int = 1024
    rate: float = 1e-3
    seed: int = 0


class TopKSae(nn.Module):
    """A top-k sparse autoencoder, with the names of SAELens."""

    def __init__(self, decoder: Float[Tensor, "latents inputs"], k: int) -> None:
        super().__init__()
        self.k = k
        self.W_dec = nn.Parameter(F.normalize(decoder, dim=1))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.clone())  # tied at first
        self.b_enc = nn.Parameter(torch.zeros(len(decoder)))
        self.b_dec = nn.Parameter(torch.zeros(decoder.shape[1]))

    def before(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... latents"]:
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... latents"]:
        return largest(self.before(x), self.k)

    def decode(self, codes: Float[Tensor, "... latents"]) -> Float[Tensor, "... inputs"]:
        return codes @ self.W_dec + self.b_dec


def largest(values: Float[Tensor, "... latents"], k: int) -> Float[Tensor, "... latents"]:
    """Keep the `k` largest values where they are above 0; others become 0."""
    top = values.topk(k, dim=-1)
    return torch.zeros_like(values).scatter(-1, top.indices, top.values.relu())


def random_sae(mean: Float[Tensor, " inputs"], recipe: Recipe) -> TopKSae:
    """Return an autoencoder with random directions around the mean of its inputs."""
    generator = torch.Generator().manual_seed(recipe.seed)
    sae = TopKSae(torch.randn(recipe.latents, len(mean), generator=generator), recipe.k)
    sae.b_dec.data.copy_(mean)
    return sae.requires_grad_(False)


def train(x: Float[Tensor, "tokens inputs"], recipe: Recipe) -> TopKSae:
    """Train by Adam on tokens; decoder rows have unit length.

    Source: Gao et al., Scaling and evaluating sparse autoencoders, 2024.
    """
    mean = x.mean(0)
    scale = 1 / (x - mean).square().mean().sqrt()  # so that a learning rate suits all layers
    x = (x - mean) * scale
    sae = random_sae(torch.zeros_like(mean), recipe).requires_grad_()
    adam = torch.optim.Adam(sae.parameters(), lr=recipe.rate)
    generator = torch.Generator().manual_seed(recipe.seed)
    silent = torch.zeros(recipe.latents)  # batches since a latent fired
    for step in range(recipe.steps):
        rows = torch.randint(len(x), (recipe.batch,), generator=generator)
        adam.param_groups[0]["lr"] = recipe.rate * warmth(step, recipe.steps)
        error, fired = descend(sae, x[rows], silent > DEAD_AFTER, adam)
        silent = torch.where(fired, 0, silent + 1)
        if (step + 1) % max(1, recipe.steps // 10) == 0:
            dead = int((silent > DEAD_AFTER).sum())
            print(f"step {step + 1}: error {error:.3f} of the variance, {dead} dead latents")
    return folded(sae.requires_grad_(False), mean, scale)


def warmth(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up and decay."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (DECAY * steps))


def descend(
    sae: TopKSae, x: Float[Tensor, "batch inputs"], dead: Tensor, adam: torch.optim.Optimizer
) -> tuple[float, Tensor]:
    """Make a step; return the mean squared error and which latents fired.

    Dead latents, by the auxiliary loss, learn to reconstruct the error.
    """
    before = sae.before(x)
    codes = largest(before, sae.k)
    error = x - sae.decode(codes)
    loss = error.square().mean()
    if dead.any():
        chosen = min(int(dead.sum()), x.shape[1] // 2)
        others = largest(before.masked_fill(~dead, -math.inf), max(1, chosen))
        loss = loss + AUXILIARY * (error.detach() - others @ sae.W_dec).square().mean()
    adam.zero_grad()
    loss.backward()
    with torch.no_grad():
        rows, gradient = sae.W_dec, sae.W_dec.grad
        assert gradient is not None  # every parameter takes part in the loss
        gradient -= (gradient * rows).sum(1, keepdim=True) * rows  # along the sphere
        adam.step()
        rows.copy_(F.normalize(rows, dim=1))
    return float(error.detach().square().mean()), (codes > 0).any(0)


def folded(sae: TopKSae, mean: Float[Tensor, " inputs"], scale: Tensor) -> TopKSae:
    """Fold a standardisation `(x - mean) * scale` into the weights."""
    # Uniform scaling changes no choice of top k, so decoder rows keep their unit length.
    sae.b_dec.copy_(mean + sae.b_dec / scale)
    sae.b_enc.copy_(sae.b_enc / scale)
    return sae


def tokens_of(
    target: targets.Target, layer: str, probe: probes.Probe, settings: Settings
) -> Float[Tensor, "images positions units"]:
    """Return a layer's activations at every position of the readable images."""
    batches = [
        maps.layers[layer].flatten(2).movedim(1, 2).cpu()
        for maps in activation_maps(target, [layer], probe, settings)
        if maps.layers
    ]
    if not batches:
        raise DissectError(f"none of the {len(probe)} images of probe {probe.name} can be read")
    return torch.cat(batches)


@torch.no_grad()
def fit(sae: TopKSae, tokens: Float[Tensor, "images positions units"]) -> dict[str, Any]:
    """Return explained variance, L0, and the numbers of dead and rare latents on some images."""
    fires, density, error = [], torch.zeros(len(sae.W_dec)), 0.0
    for part in tokens.split(64):
        codes = sae.encode(part)
        fires.append((codes > 0).any(1))
        density += (codes > 0).flatten(0, 1).sum(0)
        error += float((part - sae.decode(codes)).double().square().sum())
    images = torch.cat(fires).sum(0)
    variance = float((tokens - tokens.mean((0, 1))).double().square().sum())
    return {
        "images": len(tokens),
        "explained_variance": 1 - error / variance,
        "l0": float(density.sum()) / (tokens.shape[0] * tokens.shape[1]),
        "latents": len(images),
        "dead": int((images == 0).sum()),
        "fires_on_under_20_images": int((images < 20).sum()),
        "median_images": float(images.float().median()),
    }


def save(sae: TopKSae, folder: Path, layer: str, model: str) -> None:
    """Write the files as SAELens does."""
    latents, inputs = sae.W_dec.shape
    config = {
        "architecture": "topk",
        "d_in": inputs,
        "d_sae": latents,
        "k": sae.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"model_name": model, "hook_name": layer},
    }
    weights = {name: value.detach().contiguous() for name, value in sae.named_parameters()}
    with atomic(folder / "sae_weights.safetensors") as temporary:
        save_file(weights, temporary)
    write_text(folder / "cfg.json", json.dumps(config, indent=2) + "\n")


def union_of(folders: Sequence[Path], limit: int | None) -> probes.Probe:
    """Return the images of several folders, at most `limit` of each."""
    parts = [{"name": "folder", "root": str(root), "limit": limit} for root in folders]
    return probes.build("union", parts=parts)


def default_folders() -> list[Path]:
    shared = os.environ.get("CLIPDISSECT_SHARED")
    if not shared:
        raise SystemExit("give folders of images, or set CLIPDISSECT_SHARED")
    return [Path(shared) / "data" / "images" / name for name in FOLDERS]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of images, layer and recipe."""
    parser.add_argument("folders", nargs="*", type=Path, help="of images")
    parser.add_argument("--limit", type=int, help="images per folder")
    parser.add_argument("--layer", default="blocks.5", help="of EfficientNet-Lite0")
    parser.add_argument("--latents", type=int, default=Recipe.latents)
    parser.add_argument("-k", type=int, default=Recipe.k, help="latents that fire on a token")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="tokens per step")
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="of Adam")
    parser.add_argument("--seed", type=int, default=Recipe.seed)


def recipe_of(options: argparse.Namespace) -> Recipe:
    names = ("latents", "k", "steps", "batch", "rate", "seed")
    return Recipe(**{name: getattr(options, name) for name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--out", type=Path, default=Path("small_sae"))
    options = parser.parse_args()
    images = union_of(options.folders or default_folders(), options.limit)
    target = targets.build("efficientnet_lite0", layers=[options.layer])
    tokens = tokens_of(target, options.layer, images, Settings(device="cpu"))
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(options.seed))
    held_out, others = order[: max(1, len(order) // HELD_OUT)], order[len(order) // HELD_OUT :]
    sae = train(tokens[others].flatten(0, 1), recipe_of(options))
    save(sae, options.out, options.layer, target.name)
    for name, part in (("training", others), ("held-out", held_out)):
        facts = ", ".join(f"{key} {value:.4g}" for key, value in fit(sae, tokens[part]).items())
        print(f"{name} images: {facts}")
    print(f"saved to {options.out}")


if __name__ == "__main__":
    main()
