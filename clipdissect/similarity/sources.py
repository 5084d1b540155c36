"""Blocks of the concept activations P, read from a dense matrix or from its two factors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import conv2d, embedding_bag

from clipdissect.similarity.moments import Moments, dense_moments, factor_moments, means

Blocks = list[tuple[int, int]]

# Images per chunk: on a CPU few enough for the cache, elsewhere enough to keep a device busy.
ROWS_AT_ONCE = 1024
_DEVICE_ROWS_AT_ONCE = 16_384
_NUMBERS_AT_ONCE = 250_000
# On a CPU a block that stays in the last level of cache is faster than one that fills the budget.
_CACHE_BYTES = 24_000_000
# Below this many concepts a block's fixed costs dominate.
_MIN_CONCEPTS = 64


class Budget(NamedTuple):
    """Working memory in bytes: of one block with its temporary arrays, and of blocks kept."""

    block: int
    kept: int

    @classmethod
    def of(cls, memory_gb: float | None, device: torch.device) -> Budget:
        """Divide the memory; see `working_memory`."""
        size = working_memory(memory_gb, device)
        if device.type != "cuda":
            # The second share keeps all functions below a third of the memory of a dense P and its
            # softmax at the sizes of the benchmark.
            return cls(int(0.5 * size), int(0.16 * size))
        # On a GPU computing P again takes longer than scoring with it, so more of it is kept.
        return cls(int(0.25 * size), int(0.6 * size))


def working_memory(memory_gb: float | None, device: torch.device) -> float:
    """Return bytes; None is 2 GB on a CPU, on a GPU 8 or two fifths of its memory."""
    if memory_gb is not None:
        return 1e9 * memory_gb
    if device.type != "cuda":
        return 2e9
    return min(8e9, 0.4 * torch.cuda.get_device_properties(device).total_memory)


def rows_at_once(device: torch.device) -> int:
    """Return the images per chunk of P."""
    return ROWS_AT_ONCE if device.type == "cpu" else _DEVICE_ROWS_AT_ONCE


def concept_blocks(
    concepts: int, floats_per_concept: int, memory_gb: float | None, device: torch.device
) -> Blocks:
    """Split the concepts into ranges whose float32 working memory stays within the budget."""
    bytes_per_concept = 4 * max(1, floats_per_concept)
    size = Budget.of(memory_gb, device).block // bytes_per_concept
    if device.type == "cpu":
        size = min(size, max(_MIN_CONCEPTS, _CACHE_BYTES // bytes_per_concept))
    size = max(1, min(size, concepts))
    # Even blocks, rounded up to whole passes of the inner loops, instead of a small last one.
    size = ceil(concepts / ceil(concepts / size))
    multiple = 128 if size >= 128 else 16 if size >= 16 else 1
    size = ceil(size / multiple) * multiple
    return [(start, min(start + size, concepts)) for start in range(0, concepts, size)]


def product(
    a: Float[Tensor, "rows dims"], b: Float[Tensor, "columns dims"]
) -> Float[Tensor, "rows columns"]:
    """Compute `a @ b.T` as a new contiguous float32 matrix."""
    if a.device.type != "cpu" or not torch._C._has_mkldnn:
        with full_precision():
            return a @ b.T
    # On processors that aren't Intel's, MKL uses at most 256-bit code. oneDNN has no such limit; a
    # 1x1 convolution calls it: rows are pixels, columns are filters. Measured 2.3 times faster than
    # torch.mm on an AMD EPYC with AVX-512, with the same rounding error.
    pixels = a.contiguous()[None, :, None, :].permute(0, 3, 1, 2)
    filters = b.contiguous()[:, :, None, None].contiguous(memory_format=torch.channels_last)
    return conv2d(pixels, filters)[0, :, :, 0].T.contiguous()


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products on a GPU without TF32, whatever the program has set."""
    # TF32 has ten binary digits: a softmax with a = 10 would see cosines of 0.2 off by 1e-3.
    matmul: Any = torch.backends.cuda.matmul
    is_new = hasattr(matmul, "fp32_precision")  # since torch 2.9
    name, exact = ("fp32_precision", "ieee") if is_new else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, before)


class Source(ABC):
    """Concept activations `P [images, concepts]`, read by blocks of concepts."""

    rows: Int[Tensor, " selected"] | None  # images in use; None for all

    @property
    @abstractmethod
    def table(self) -> Float[Tensor, "all_images columns"]:
        """Return the matrix with one row per image, of all images."""

    @property
    @abstractmethod
    def concepts(self) -> int: ...

    @property
    def images(self) -> int:
        """Return the number of rows of P."""
        return len(self.table) if self.rows is None else len(self.rows)

    @property
    def device(self) -> torch.device:
        return self.table.device

    @abstractmethod
    def chunks(self, start: int, stop: int) -> Iterator[tuple[slice, Float[Tensor, "rows block"]]]:
        """Yield slices of images and a new contiguous float32 copy of their columns."""

    def block(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """Return columns `start` to `stop` of P, float32 and contiguous."""
        out = torch.empty(self.images, stop - start, dtype=torch.float32, device=self.device)
        for rows, chunk in self.chunks(start, stop):
            out[rows] = chunk
        return out

    def columns(self, start: int, stop: int) -> Float[Tensor, "block images"]:
        """Return the same block transposed."""
        out = torch.empty(stop - start, self.images, dtype=torch.float32, device=self.device)
        for rows, chunk in self.chunks(start, stop):
            out[:, rows] = chunk.T
        return out

    @abstractmethod
    def take(self, rows: Int[Tensor, " selected"]) -> Source:
        """Select images of a source that has all of them, without a copy."""

    @abstractmethod
    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        """Return the source of summed rows, `P[bags].sum(1)`, `[units, concepts]`."""

    @abstractmethod
    def means(self) -> Float[Tensor, " concepts"]:
        """Compute the mean over images per column, float64."""

    @abstractmethod
    def largest(self) -> float:
        """Return an upper bound of `abs(P)`."""

    @abstractmethod
    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        """Compute inner products of q with the columns of P, and squared lengths."""

    def _row_chunks(self) -> Iterator[tuple[slice, Float[Tensor, "rows columns"]]]:
        step = rows_at_once(self.device)
        for first in range(0, self.images, step):
            part = slice(first, min(first + step, self.images))
            rows = self.rows
            yield part, self.table[part] if rows is None else self.table.index_select(0, rows[part])

    def _bag_sums(self, bags: Int[Tensor, "units k"]) -> Float[Tensor, "units columns"]:
        table = self.table.float()
        out = torch.empty(len(bags), table.shape[1], dtype=torch.float32, device=self.device)
        step = max(1, _NUMBERS_AT_ONCE // bags.shape[1])
        for first in range(0, len(bags), step):
            index = bags[first : first + step]
            index = index if self.rows is None else self.rows[index]
            out[first : first + step] = embedding_bag(index, table, mode="sum")
        return out


@dataclass(frozen=True)
class Dense(Source):
    """A dense `P [images, concepts]`, or the given rows of it."""

    matrix: Float[Tensor, "all_images concepts"]
    rows: Int[Tensor, " selected"] | None = None

    @property
    def table(self) -> Float[Tensor, "all_images concepts"]:
        return self.matrix

    @property
    def concepts(self) -> int:
        return self.matrix.shape[1]

    def chunks(self, start: int, stop: int) -> Iterator[tuple[slice, Float[Tensor, "rows block"]]]:
        contiguous = torch.contiguous_format
        for rows, chunk in Dense(self.matrix[:, start:stop], self.rows)._row_chunks():
            yield rows, chunk.to(torch.float32, copy=True, memory_format=contiguous)

    def take(self, rows: Int[Tensor, " selected"]) -> Source:
        return self if len(rows) == self.images else Dense(self.matrix, rows)

    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        return Dense(self._bag_sums(bags))

    def means(self) -> Float[Tensor, " concepts"]:
        return means(chunk for _, chunk in self._row_chunks())

    def largest(self) -> float:
        least, most = torch.aminmax(self.matrix)
        return max(-float(least), float(most))

    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        return dense_moments(self.matrix, q, center)


@dataclass(frozen=True)
class Factors(Source):
    """`P = I @ T.T` from image embeddings, or the given rows of them, and text embeddings."""

    image_embeds: Float[Tensor, "all_images dims"]
    text_embeds: Float[Tensor, "concepts dims"]
    rows: Int[Tensor, " selected"] | None = None

    @property
    def table(self) -> Float[Tensor, "all_images dims"]:
        return self.image_embeds

    @property
    def concepts(self) -> int:
        return self.text_embeds.shape[0]

    def chunks(self, start: int, stop: int) -> Iterator[tuple[slice, Float[Tensor, "rows block"]]]:
        for rows, chunk in self._row_chunks():
            yield rows, product(chunk, self.text_embeds[start:stop])

    def take(self, rows: Int[Tensor, " selected"]) -> Source:
        if len(rows) == self.images:
            return self
        return Factors(self.image_embeds, self.text_embeds, rows)

    def bag_sums(self, bags: Int[Tensor, "units k"]) -> Source:
        # Sums of rows of P are products of sums of image embeddings.
        return Factors(self._bag_sums(bags), self.text_embeds)

    def means(self) -> Float[Tensor, " concepts"]:
        # The mean of P's rows is the product of the mean image embedding.
        mean = means(chunk for _, chunk in self._row_chunks())
        return torch.cat(
            [texts.double() @ mean for texts in torch.split(self.text_embeds, ROWS_AT_ONCE)]
        )

    def largest(self) -> float:
        # Cauchy-Schwarz: |I_i . T_m| <= |I_i| |T_m|.
        return float(self.image_embeds.norm(dim=1).max() * self.text_embeds.norm(dim=1).max())

    def moments(self, q: Float[Tensor, "images units"], center: bool) -> Moments:
        return factor_moments(self.image_embeds, self.text_embeds, q, center)
