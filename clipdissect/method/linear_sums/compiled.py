"""Coordinate descent compiled by Numba; `elastic_net.coordinate_descent` is the reference."""

from __future__ import annotations

import numpy as np

from clipdissect.utils.jit import compiled

_compiled = compiled({"contract", "nsz"})


@_compiled
def coordinate_descent(  # type: ignore[no-untyped-def]
    gram, cross, absolute, squared, tolerance, sweeps, weights, violation, start, stop
):
    """Solve the elastic nets of some units.

    Only concepts that violate the optimality conditions enter a unit's working set, whose part of
    the Gram matrix is small enough for the cache.
    """
    concepts = len(gram)
    working = np.empty(concepts, np.int64)
    is_in = np.empty(concepts, np.bool_)
    for unit in range(start, stop):
        w = weights[unit]
        q = cross[unit].copy()  # the gradient
        is_in[:] = False
        size = 0
        left = sweeps
        while left > 0:
            before = size
            for j in range(concepts):
                if not is_in[j] and abs(q[j]) > absolute + tolerance:
                    is_in[j] = True
                    working[size] = j
                    size += 1
            if size == before:
                break
            chosen = working[:size]
            part = np.empty((size, size))
            local, gradient = np.empty(size), np.empty(size)
            for row in range(size):
                local[row] = w[chosen[row]]
                gradient[row] = q[chosen[row]]
                for column in range(size):
                    part[row, column] = gram[chosen[row], chosen[column]]
            left -= _descend(part, gradient, local, absolute, squared, tolerance, left)
            q[:] = cross[unit]
            for row in range(size):
                w[chosen[row]] = local[row]
                if local[row] != 0.0:
                    q -= local[row] * gram[chosen[row]]
        violation[unit] = _violation(q, w, absolute, squared)


@_compiled
def _descend(gram, gradient, weights, absolute, squared, tolerance, sweeps):  # type: ignore[no-untyped-def]
    """Minimise in place; return the number of sweeps."""
    size = len(weights)
    for sweep in range(sweeps):
        for j in range(size):
            z = gradient[j] + gram[j, j] * weights[j]
            new = 0.0
            if z > absolute:
                new = (z - absolute) / (gram[j, j] + squared)
            elif z < -absolute:
                new = (z + absolute) / (gram[j, j] + squared)
            change = new - weights[j]
            if change != 0.0:
                weights[j] = new
                for other in range(size):
                    gradient[other] -= change * gram[j, other]
        if not _violation(gradient, weights, absolute, squared) > tolerance:
            return sweep + 1
    return sweeps


@_compiled
def _violation(gradient, weights, absolute, squared):  # type: ignore[no-untyped-def]
    largest = 0.0
    for j in range(len(weights)):
        rest = gradient[j] - squared * weights[j]
        if weights[j] > 0.0:
            excess = abs(rest - absolute)
        elif weights[j] < 0.0:
            excess = abs(rest + absolute)
        else:
            excess = abs(rest) - absolute
        largest = max(largest, excess)
    return largest
