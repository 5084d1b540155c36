"""How well a sparse autoencoder reconstructs a layer: a check before any work."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.determinism import TRIAL, first_images
from clipdissect.capture.latents import TOKENS, digest_name
from clipdissect.capture.networks import networks
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.settings import Settings
from clipdissect.probe import Probe
from clipdissect.sae.base import Sae
from clipdissect.store import Entry, Store
from clipdissect.targets import Target
from clipdissect.utils import hashing

log = logging.getLogger(__name__)

WHAT = "fit of sparse autoencoders"  # description of such an entry in listings
VERSION = 1  # raise it when the numbers change
LEAST_EXPLAINED = 0.5  # released autoencoders explain 0.6 to 0.99
MOST_FIRING = 1 / 8  # share of the latents on a token


@dataclass(frozen=True)
class SaeFit:
    """The fit of a sparse autoencoder to a layer's activations on a few images.

    Args:
        explained_variance: `1 - sum |x - decode(encode(x))|^2 / sum |x - mean(x)|^2`; None
            without `decode`.
        l0: mean number of latents that fire on a token.
        latents, tokens: their numbers.
    """

    explained_variance: float | None
    l0: float
    latents: int
    tokens: int

    @property
    def facts(self) -> dict[str, Any]:
        return asdict(self)


def stored_fits(
    target: Target,
    readings: Mapping[str, Reading],
    probe: Probe,
    settings: Settings,
    store: Store,
    digests: Mapping[str, str],
) -> dict[str, SaeFit]:
    """Return the fit of the layers' autoencoders on the probe's first images, if readable.

    Of `digests`, those of the target, its preprocessing and the layers' latents are used.

    Raises:
        DissectError: `encode` or `decode` fails on the layer's activations.
    """
    if not readings:
        return {}
    facts = {layer: reading.facts for layer, reading in readings.items()}
    numbers = (probe.digest, settings.numeric, torch.__version__)
    networks_used = {name: digests[name] for name in ("target", "target preprocess")}
    latents = [digests[digest_name(layer)] for layer in readings]
    key = hashing.hash_values(WHAT, VERSION, networks_used, latents, facts, numbers)
    entry = store.get(key)
    if entry is None:
        fits = _fits(target, readings, probe, settings)
        if not fits:  # no image can be read now
            return {}
        values = {layer: fit.facts for layer, fit in fits.items()}
        with store.locked([key]):
            entry = store.put(key, Entry({}, {"what": WHAT, "of": target.name, "layers": values}))
    return {layer: SaeFit(**values) for layer, values in entry.about["layers"].items()}


@torch.no_grad()
def _fits(
    target: Target, readings: Mapping[str, Reading], probe: Probe, settings: Settings
) -> dict[str, SaeFit]:
    images = first_images(target, None, probe, settings, TRIAL)
    if images is None:
        return {}
    with networks(target, readings, None, settings, TOKENS) as run:
        outputs = run(list(readings), images[0], None)
        return {layer: _fit(target.saes[layer], outputs[layer].flatten(0, 1)) for layer in readings}


def _fit(sae: Sae, x: Float[Tensor, "tokens units"]) -> SaeFit:
    codes = sae.encode(x)
    explained = None
    if sae.decodes:
        error = (x - sae.decode(codes, x)).double().square().sum()
        variance = (x - x.mean(0)).double().square().sum()
        explained = float(1 - error / variance) if variance > 0 else None
    return SaeFit(explained, float((codes > 0).sum() / len(x)), codes.shape[1], len(x))


def warn(fits: Mapping[str, SaeFit], target: Target) -> tuple[str, ...]:
    """Log and return a warning for each of a target's autoencoders that doesn't fit its layer."""
    problems = {layer: list(_problems(fit, target.saes[layer])) for layer, fit in fits.items()}
    warnings = tuple(
        f"sae {target.saes[layer].name} on the first images: it {' and '.join(found)}. The layer, "
        f"the network, its preprocessing or the autoencoder's normalisation are probably not those "
        f"of its training, and then the descriptions mean nothing"
        for layer, found in problems.items()
        if found
    )
    for warning in warnings:
        log.warning(warning)
    return warnings


def _problems(fit: SaeFit, sae: Sae) -> Iterator[str]:
    explained, k = fit.explained_variance, sae.facts.get("k")
    if explained is not None and not explained >= LEAST_EXPLAINED:
        hook = f" (its files name {sae.hook})" if sae.hook else ""
        yield f"has an explained variance of {explained:.2f} of {sae.layer}{hook}"
    if isinstance(k, int):
        unusual, expected = fit.l0 <= k / 2, f"{k}"
    else:
        unusual, expected = not 0 < fit.l0 <= MOST_FIRING * fit.latents, "a small share of them"
    if unusual:
        yield f"has {fit.l0:.1f} of {fit.latents} latents above 0 on a token, not {expected}"
