"""The inner loops compiled by Numba, for float32 arrays; `plain` is the reference."""

from __future__ import annotations

import numpy as np

from clipdissect.similarity.kernels.compiled import RADIX, dense_places
from clipdissect.utils.jit import compiled

# Functions work on the rows or pairs from `start` to `stop` and release the interpreter lock, so
# that Python threads run them in parallel.

# Sums may be regrouped into vectors; NaN keeps its meaning.
_compiled = compiled({"reassoc", "contract", "nsz"})
# Additions keep their order, so that any number of threads gives one result.
_ordered = compiled()


@_compiled
def average_ranks(rows, out, start, stop):  # type: ignore[no-untyped-def]
    """Compute `plain.average_ranks` for some rows; `rows` has float32 bits as uint32."""
    images = rows.shape[1]
    keys = np.empty(images, np.uint32)
    order, spare = np.empty(images, np.int32), np.empty(images, np.int32)
    counts = np.empty((3, RADIX), np.int32)
    places = np.empty(images, np.int32)
    sizes = np.empty(images, np.int32)
    ranks = np.empty(images, np.float32)
    for row in range(start, stop):
        distinct = dense_places(rows[row], keys, order, spare, counts, places)
        sizes[:distinct] = 0
        for image in range(images):
            sizes[places[image]] += 1
        larger = 0  # images with a larger value
        for place in range(distinct):
            ranks[place] = np.float32(larger) + np.float32(sizes[place] - 1) / np.float32(2)
            larger += sizes[place]
        for image in range(images):
            out[row, image] = ranks[places[image]]


@_compiled
def pair_products(first, second, first_rows, second_rows, out, start, stop):  # type: ignore[no-untyped-def]
    """Compute `plain.pair_products` for some pairs."""
    for pair in range(start, stop):
        x, y = first[first_rows[pair]], second[second_rows[pair]]
        total = np.float32(0)
        for image in range(len(x)):
            total += x[image] * y[image]
        out[pair] = total


@_compiled
def unit_rows(rows, out, start, stop):  # type: ignore[no-untyped-def]
    """Compute `plain.unit_rows` for some rows."""
    images = rows.shape[1]
    for row in range(start, stop):
        values = rows[row]
        total = 0.0
        varies = False
        for image in range(images):
            total += np.float64(values[image])
            varies |= values[image] != values[0]
        mean = total / images
        squares = 0.0
        for image in range(images):
            squares += (np.float64(values[image]) - mean) ** 2
        scale = 1 / np.sqrt(squares) if varies else np.nan
        for image in range(images):
            out[row, image] = np.float32((np.float64(values[image]) - mean) * scale)


@_ordered
def ranked_sums(order, values, active, rows, columns, out, start, stop):  # type: ignore[no-untyped-def]
    """Compute `plain.ranked_sums` for some units.

    One pass over the images from the largest value down. Only the labels that an image has are
    visited, so the time grows with the number of labels set, and nothing is sorted per label.
    """
    images, labels = order.shape[1], out.shape[2]
    for unit in range(start, stop):
        sums = np.zeros((labels, 4))  # of a label in one cache line; the first counts its images
        first = 0
        while first < images:
            value = values[unit, first]
            last = first + 1
            while last < images and values[unit, last] == value:
                last += 1
            if last > first + 1:  # tied images share a threshold: all are counted before it
                for place in range(first, last):
                    image = order[unit, place]
                    for entry in range(rows[image], rows[image + 1]):
                        sums[columns[entry], 0] += 1.0
            step = 1.0 if last == first + 1 else 0.0
            rank, share = images - (first + last + 1) / 2, 1.0 / last
            for place in range(first, last):
                image = order[unit, place]
                for entry in range(rows[image], rows[image + 1]):
                    of_label = sums[columns[entry]]
                    of_label[0] += step
                    of_label[1] += value
                    of_label[2] += rank
                    of_label[3] += of_label[0] * share
            if last == active[unit]:
                out[0, unit] = sums[:, 0]
            first = last
        for field in range(1, 4):
            out[field, unit] = sums[:, field]
