"""Where blocks of the concept activations P come from: a dense matrix or its two factors.

Every similarity function reads P through these two classes, so the dense and the streaming way
in run the same code. A source is linear in its rows: taking, summing and weighting images give
another source, which for factors costs a product of the small image embeddings only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from clipdissect.similarity.moments import Moments, dense_moments, factor_moments
from clipdissect.similarity.products import product


@runtime_checkable
class Source(Protocol):
    """Concept activations `P [images, concepts]`, read a block of concepts at a time."""

    @property
    def images(self) -> int:
        """Rows of P."""

    @property
    def concepts(self) -> int:
        """Columns of P."""

    @property
    def device(self) -> torch.device:
        """Where P lives."""

    def block(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """Columns `start` to `stop` of P, float32, contiguous, the caller's to overwrite."""

    def columns(self, start: int, stop: int) -> Float[Tensor, "block images"]:
        """The same block with concepts as rows."""

    def take(self, rows: Int[Tensor, " some"]) -> Source:
        """The source with these images only."""

    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        """The source whose rows are sums of rows: `P[bags].sum(1)`, `[units, concepts]`."""

    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        """Inner products of q with the columns of P, and their squared lengths."""


@dataclass(frozen=True)
class Dense:
    """A dense `P [images, concepts]`."""

    matrix: Float[Tensor, "images concepts"]

    @property
    def images(self) -> int:
        """Rows of P."""
        return self.matrix.shape[0]

    @property
    def concepts(self) -> int:
        """Columns of P."""
        return self.matrix.shape[1]

    @property
    def device(self) -> torch.device:
        """Where P lives."""
        return self.matrix.device

    def block(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """A copy of columns `start` to `stop`."""
        columns = self.matrix[:, start:stop]
        return columns.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

    def columns(self, start: int, stop: int) -> Float[Tensor, "block images"]:
        """A copy of columns `start` to `stop`, as rows."""
        columns = self.matrix[:, start:stop].T
        return columns.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

    def take(self, rows: Int[Tensor, " some"]) -> Source:
        """A dense matrix with these rows only."""
        return self if len(rows) == self.images else Dense(self.matrix[rows])

    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        """A dense matrix of sums of rows."""
        return Dense(embedding_bag(bags, self.matrix.float(), mode="sum"))

    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        """Products with the matrix itself."""
        return dense_moments(self.matrix, q, center)


@dataclass(frozen=True)
class Factors:
    """`P = I @ T.T` from image embeddings `[images, dims]` and text embeddings."""

    image_embeds: Float[Tensor, "images dims"]
    text_embeds: Float[Tensor, "concepts dims"]

    @property
    def images(self) -> int:
        """Rows of P."""
        return self.image_embeds.shape[0]

    @property
    def concepts(self) -> int:
        """Columns of P."""
        return self.text_embeds.shape[0]

    @property
    def device(self) -> torch.device:
        """Where P lives."""
        return self.image_embeds.device

    def block(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """The product for concepts `start` to `stop`."""
        return product(self.image_embeds, self.text_embeds[start:stop])

    def columns(self, start: int, stop: int) -> Float[Tensor, "block images"]:
        """The product for concepts `start` to `stop`, as rows."""
        # Not `product(texts, images)`: the second factor is repacked for every product.
        return self.block(start, stop).T.contiguous()

    def take(self, rows: Int[Tensor, " some"]) -> Source:
        """The source with these images only."""
        if len(rows) == self.images:
            return self
        return Factors(self.image_embeds[rows], self.text_embeds)

    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        """Sums of image embeddings stand for sums of rows of P."""
        return Factors(embedding_bag(bags, self.image_embeds, mode="sum"), self.text_embeds)

    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        """Products with the embeddings, whatever the number of images."""
        return factor_moments(self.image_embeds, self.text_embeds, q, center)
