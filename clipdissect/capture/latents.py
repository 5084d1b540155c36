"""Latents of sparse autoencoders: encoded token by token, and reduced at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.hooks import Reduce
from clipdissect.capture.output_layout import Reading, as_maps, as_tokens, summarise
from clipdissect.capture.pooling import COUNT
from clipdissect.capture.settings import Settings
from clipdissect.sae.base import Sae
from clipdissect.targets import Target

# Part of cache keys: increment it when the code that computes the numbers changes their values.
LATENTS_VERSION = 1

LatentReduce = Callable[[Tensor, Reading, Sae], Tensor]

# Summaries of a shard, of which three may wait: 128 MB on a CPU, 512 MB elsewhere.
_NUMBERS_A_SHARD, _NUMBERS_A_SHARD_ON_DEVICE = 1 << 25, 1 << 27
_UNKNOWN = 1 << 16  # latents, where they aren't known before the first pass
# Codes that are held at once: 64 MB on a CPU, 1 GB elsewhere, which keeps a device busy.
_CODES_AT_ONCE, _CODES_AT_ONCE_ON_DEVICE = 1 << 24, 1 << 28


@dataclass(frozen=True)
class Reduction:
    """How the outputs of layers are reduced, and the codes of their sparse autoencoders."""

    of_units: Reduce
    of_latents: LatentReduce

    def of_layers(self, saes: Mapping[str, Sae]) -> Reduce:
        """Return the reduction of all layers, with `saes` by layer."""

        def reduce(output: Tensor, reading: Reading) -> Tensor:
            sae = saes.get(reading.layer)
            if sae is None:
                return self.of_units(output, reading)
            with torch.autocast(output.device.type, enabled=False):
                return self.of_latents(output, reading, sae)

        return reduce


def summarise_latents(
    output: Tensor, reading: Reading, sae: Sae
) -> Float[Tensor, "images 2 latents"]:
    """Return each image's summary of the codes of its tokens, and the share of tokens that fire.

    A latent fires on a token if its code is above 0.
    """
    parts = []
    for codes in _codes(as_tokens(output, reading), sae):
        shares = codes.gt(0).float().mean(1)
        parts.append(torch.stack([_summary(codes, shares, reading.kind), shares], 1))
    return torch.cat(parts)


def _summary(
    codes: Float[Tensor, "images tokens latents"],
    shares: Float[Tensor, "images latents"],
    kind: str,
) -> Float[Tensor, "images latents"]:
    if kind == COUNT:
        return shares
    if kind == "max":
        return codes.amax(1)
    # Negative codes, which few autoencoders keep, don't count: above 0 is where a latent fires.
    return codes.clamp_min(0).mean(1)


def latent_maps(output: Tensor, reading: Reading, sae: Sae) -> Float[Tensor, "images latents h w"]:
    """Return the codes at every position; see `as_maps`."""
    maps = as_maps(output, reading)
    height, width = maps.shape[2:]
    tokens = maps.flatten(2).movedim(1, 2)
    codes = torch.cat(list(_codes(tokens, sae)))
    return codes.movedim(2, 1).reshape(len(codes), -1, height, width)


def _codes(
    tokens: Float[Tensor, "images tokens units"], sae: Sae
) -> Iterator[Float[Tensor, "part tokens latents"]]:
    """Yield the float32 codes of some images after the other."""
    at_once = _CODES_AT_ONCE if tokens.device.type == "cpu" else _CODES_AT_ONCE_ON_DEVICE
    start, step = 0, 1  # the number of latents may not be known before they are computed
    while start < len(tokens):
        if sae.latents:
            step = max(1, at_once // (tokens.shape[1] * sae.latents))
        codes = sae.encode(tokens[start : start + step]).float()
        yield codes
        start += step
        step = max(1, at_once * len(codes) // codes.numel())


def _kept_tokens(output: Tensor, reading: Reading) -> Float[Tensor, "images tokens units"]:
    return as_tokens(output, reading).clone()  # later modules may overwrite their inputs


def latent_digests(target: Target, layers: Sequence[str]) -> dict[str, str]:
    """Return the digests of layers' autoencoders, under the names that manifests give them."""
    return {digest_name(n): target.saes[n].digest for n in layers if n in target.saes}


def digest_name(layer: str) -> str:
    """Return the name under which manifests have the digest of a layer's autoencoder."""
    return f"latents of {layer}"


def images_a_shard(saes: Sequence[Sae], settings: Settings) -> int:
    """Return the images of a shard: fewer where their codes' summaries take much memory."""
    numbers = sum(2 * (sae.latents or _UNKNOWN) for sae in saes)
    most = _NUMBERS_A_SHARD_ON_DEVICE if settings.is_cuda else _NUMBERS_A_SHARD
    return min(settings.images_a_shard, max(1, most // max(1, numbers)))


SUMMARIES = Reduction(summarise, summarise_latents)
MAPS = Reduction(as_maps, latent_maps)
# Of both kinds of layers, the activations that an autoencoder encodes.
TOKENS = Reduction(_kept_tokens, lambda output, reading, sae: _kept_tokens(output, reading))
