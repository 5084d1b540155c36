"""Sums over ranked images compiled by Numba; `plain` is the reference."""

from __future__ import annotations

import numpy as np

from clipdissect.utils.jit import compiled

# Without fast maths: additions keep their order, so that any number of threads gives one result.
_compiled = compiled()


@_compiled
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
