"""Where blocks of the concept activations P come from: a dense matrix or its two factors.

Every similarity function reads P through these two classes, so the dense and the streaming way
in run the same code. P comes some images at a time, so that what is in flight for a block of
concepts need not grow with the images; and images are picked while reading, never copied whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from clipdissect.similarity.moments import Moments, dense_moments, factor_moments, means
from clipdissect.similarity.products import product

# Images in flight: on a CPU few enough for the cache, elsewhere enough to keep a device busy.
ROWS_AT_ONCE = 1024
_ROWS_ON_A_DEVICE = 16_384
_NUMBERS_AT_ONCE = 250_000


class Source(ABC):
    """Concept activations `P [images, concepts]`, read a block of concepts at a time."""

    rows: Int[Tensor, " some"] | None

    @property
    @abstractmethod
    def table(self) -> Float[Tensor, "all_images columns"]:
        """The matrix whose rows stand for images, before any are taken."""

    @property
    @abstractmethod
    def concepts(self) -> int:
        """Columns of P."""

    @property
    def images(self) -> int:
        """Rows of P."""
        return len(self.table) if self.rows is None else len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where P lives."""
        return self.table.device

    @abstractmethod
    def chunks(self, start: int, stop: int) -> Iterator[tuple[slice, Float[Tensor, "rows block"]]]:
        """Columns `start` to `stop`, some images at a time: which images, and their P.

        Each part is float32, contiguous, and the caller's to overwrite.
        """

    def block(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """Columns `start` to `stop` of P, float32, contiguous, the caller's to overwrite."""
        out = torch.empty(self.images, stop - start, dtype=torch.float32, device=self.device)
        for rows, part in self.chunks(start, stop):
            out[rows] = part
        return out

    def columns(self, start: int, stop: int) -> Float[Tensor, "block images"]:
        """The same block with concepts as rows."""
        out = torch.empty(stop - start, self.images, dtype=torch.float32, device=self.device)
        for rows, part in self.chunks(start, stop):
            out[:, rows] = part.T
        return out

    @abstractmethod
    def take(self, rows: Int[Tensor, " some"]) -> Source:
        """The source with these images only, of one that has all. Nothing is copied."""

    @abstractmethod
    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        """The source whose rows are sums of rows: `P[bags].sum(1)`, `[units, concepts]`."""

    @abstractmethod
    def means(self) -> Float[Tensor, " concepts"]:
        """The mean over images of every column, float64."""

    @abstractmethod
    def largest(self) -> float:
        """A bound on the size of any number in P."""

    @abstractmethod
    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        """Inner products of q with the columns of P, and their squared lengths."""

    def _slices(self) -> Iterator[slice]:
        step = ROWS_AT_ONCE if self.device.type == "cpu" else _ROWS_ON_A_DEVICE
        for first in range(0, self.images, step):
            yield slice(first, min(first + step, self.images))

    def _picked(
        self, table: Float[Tensor, "all_images columns"], part: slice
    ) -> Float[Tensor, "rows columns"]:
        """Some of the images' rows of a table that holds all; a view where none were taken."""
        return table[part] if self.rows is None else table.index_select(0, self.rows[part])

    def _bag_sums(self, bags: Int[Tensor, "units k"]) -> Float[Tensor, "units columns"]:
        table = self.table.float()
        out = torch.empty(len(bags), table.shape[1], dtype=torch.float32, device=self.device)
        step = max(1, _NUMBERS_AT_ONCE // bags.shape[1])
        for first in range(0, len(bags), step):
            some = bags[first : first + step]
            some = some if self.rows is None else self.rows[some]
            out[first : first + step] = embedding_bag(some, table, mode="sum")
        return out


@dataclass(frozen=True)
class Dense(Source):
    """A dense `P [images, concepts]`, or the given rows of it."""

    matrix: Float[Tensor, "all_images concepts"]
    rows: Int[Tensor, " some"] | None = None

    @property
    def table(self) -> Float[Tensor, "all_images concepts"]:
        """The matrix itself."""
        return self.matrix

    @property
    def concepts(self) -> int:
        """Columns of P."""
        return self.matrix.shape[1]

    def chunks(self, start: int, stop: int) -> Iterator[tuple[slice, Float[Tensor, "rows block"]]]:
        """Copies of parts of the matrix."""
        for part in self._slices():
            rows = self._picked(self.matrix[:, start:stop], part)
            yield part, rows.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

    def take(self, rows: Int[Tensor, " some"]) -> Source:
        """The matrix with these rows only."""
        return self if len(rows) == self.images else Dense(self.matrix, rows)

    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        """A dense matrix of sums of rows."""
        return Dense(self._bag_sums(bags))

    def means(self) -> Float[Tensor, " concepts"]:
        """Means of the matrix's columns."""
        return means(self._picked(self.matrix, part) for part in self._slices())

    def largest(self) -> float:
        """The largest size in the matrix."""
        least, most = torch.aminmax(self.matrix)
        return max(-float(least), float(most))

    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        """Products with the matrix itself."""
        return dense_moments(self.matrix, q, center)


@dataclass(frozen=True)
class Factors(Source):
    """`P = I @ T.T` from image embeddings, or the given rows of them, and text embeddings."""

    image_embeds: Float[Tensor, "all_images dims"]
    text_embeds: Float[Tensor, "concepts dims"]
    rows: Int[Tensor, " some"] | None = None

    @property
    def table(self) -> Float[Tensor, "all_images dims"]:
        """The image embeddings."""
        return self.image_embeds

    @property
    def concepts(self) -> int:
        """Columns of P."""
        return self.text_embeds.shape[0]

    def chunks(self, start: int, stop: int) -> Iterator[tuple[slice, Float[Tensor, "rows block"]]]:
        """Products of some image embeddings with the block's text embeddings."""
        for part in self._slices():
            yield (
                part,
                product(self._picked(self.image_embeds, part), self.text_embeds[start:stop]),
            )

    def take(self, rows: Int[Tensor, " some"]) -> Source:
        """The source with these images only."""
        if len(rows) == self.images:
            return self
        return Factors(self.image_embeds, self.text_embeds, rows)

    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        """Sums of image embeddings stand for sums of rows of P."""
        return Factors(self._bag_sums(bags), self.text_embeds)

    def means(self) -> Float[Tensor, " concepts"]:
        """Products of the mean image embedding."""
        mean = means(self._picked(self.image_embeds, part) for part in self._slices())
        return torch.cat(
            [texts.double() @ mean for texts in torch.split(self.text_embeds, ROWS_AT_ONCE)]
        )

    def largest(self) -> float:
        """The longest image embedding times the longest text embedding."""
        return float(self.image_embeds.norm(dim=1).max() * self.text_embeds.norm(dim=1).max())

    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        """Products with the embeddings, whatever the number of images."""
        return factor_moments(self.image_embeds, self.text_embeds, q, center)
