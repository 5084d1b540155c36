#!/usr/bin/env python
"""Test whether method=linear recovers planted sums of concepts (table of docs/linear.md).

    .venv/bin/python scripts/planted_sums.py

Concepts are the labels of synthetic scenes. Units are sums of two or three of them, with noise, or
those of a network that adds up detectors of colours.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipdissect import probe, testing
from clipdissect.app.console import markdown_table
from clipdissect.capture.settings import Settings
from clipdissect.method import Job
from clipdissect.method.linear import Linear
from clipdissect.method.linear_sums.elastic_net import Penalty
from clipdissect.method.linear_sums.fit import SumFitter
from clipdissect.method.linear_sums.greedy import NONE, Search
from clipdissect.method.linear_sums.moments import usable
from clipdissect.probe import Probe
from clipdissect.probe.image_labels import of_probe
from clipdissect.results import formulas
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils.paths import store_dir

# Weights of units, and the noise's standard deviation relative to the sum's.
CASES = (
    ("two equal weights", (1.0, 1.0), 0.0),
    ("three equal weights", (1.0, 1.0, 1.0), 0.0),
    ("weights 1, 0.75, 0.5", (1.0, 0.75, 0.5), 0.0),
    ("the same, noise 0.5", (1.0, 0.75, 0.5), 0.5),
    ("the same, noise 1", (1.0, 0.75, 0.5), 1.0),
    ("weights 1, 0.5, 0.1", (1.0, 0.5, 0.1), 0.0),
    ("weights 1, -1", (1.0, -1.0), 0.0),
)


@dataclass(frozen=True)
class Found:
    """Concepts of units, as planted and as found, and validation correlations."""

    truth: list[set[str]]
    found: list[set[str]]
    correlations: list[float]

    def row(self, name: str) -> list[str]:
        pairs = list(zip(self.truth, self.found, strict=True))
        hits = sum(len(truth & found) for truth, found in pairs)
        exact = sum(truth == found for truth, found in pairs)
        shares = (
            exact / len(pairs),
            hits / sum(map(len, self.truth)),
            hits / max(1, sum(map(len, self.found))),
        )
        mean = sum(self.correlations) / len(pairs)
        return [name, *(f"{100 * share:.0f} %" for share in shares), f"{mean:.2f}"]


class AddedUp(nn.Module):
    """Sums of the maxima of a network's colour detectors."""

    def __init__(self, network: testing.Filters, weights: Tensor) -> None:
        super().__init__()
        self.colour, self.sums = network.colour, nn.Linear(weights.shape[1], len(weights))
        self.sums.weight, self.sums.bias = nn.Parameter(weights), nn.Parameter(weights[:, 0] * 0)

    def forward(self, images: Tensor) -> Tensor:
        detected = self.colour(torch.cat([images, images.square()], 1)).relu()
        return self.sums(detected.amax((2, 3)))  # type: ignore[no-any-return]


def of_labels(images: Probe, units: int) -> list[list[str]]:
    """Recover sums of the labels themselves."""
    labels = of_probe(images, images.images)
    drawn = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=drawn)
    validation, train = order[: len(order) // 8], order[len(order) // 8 :]
    kept = usable(labels.matrix.float(), train).nonzero()[:, 0]
    values, names = labels.matrix[:, kept].float(), [labels.names[n] for n in kept.tolist()]
    fitter = SumFitter(values, train, validation, Penalty(0.05, 0.99), Search(10, 10, 0.02))
    rows = []
    for name, weights, noise in CASES:
        sizes = [torch.randperm(len(names), generator=drawn)[: len(weights)] for _ in range(units)]
        truth = torch.stack(sizes)
        q = values[:, truth] @ torch.tensor(weights)
        q += noise * q.std(0) * torch.randn(q.shape, generator=drawn)
        fitted = fitter.fit(q)
        chosen = [[n for n in row if n != NONE] for row in fitted.concepts.tolist()]
        sets = [[{names[n] for n in row} for row in of] for of in (truth.tolist(), chosen)]
        rows.append(Found(sets[0], sets[1], fitted.correlation.tolist()).row(name))
    return rows


def of_network(images: Probe, units: int) -> list[str]:
    """Recover sums of three detectors of colours."""
    planted = testing.planted_filters()
    texts = planted.truth["colours"]
    drawn = torch.Generator().manual_seed(0)
    weights, truth = torch.zeros(units, len(texts)), []
    for unit in range(units):
        chosen = torch.randperm(len(texts), generator=drawn)[:3]
        weights[unit, chosen] = torch.tensor([1.0, 0.75, 0.5])
        truth.append({texts[n] for n in chosen.tolist()})
    network = AddedUp(planted.target.model, weights).eval().requires_grad_(False)
    target = Target("planted_sums", network, planted.target.preprocess, ("sums",))
    job = Job(target, images, settings=Settings(device="cpu"), store=Store(store_dir()))
    table = Linear(source="labels").describe(job).descriptions
    found = [set(formulas.texts_of(formulas.read(cell) or {"of": []})) for cell in table["formula"]]
    return Found(truth, found, table["similarity"].tolist()).row("network, three colours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--units", type=int, default=200)
    a = parser.parse_args()
    images = probe.build("synthetic_broden", images=a.images, seed=0)
    rows = [*of_labels(images, a.units), of_network(images, a.units)]
    header = ("units", "all concepts", "planted ones found", "found ones planted", "correlation")
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
