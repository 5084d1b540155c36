"""Elastic nets of many units on the same concepts, from their moments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.utils.compiled_kernels import CompiledKernels

TOLERANCE = 1e-7  # of the optimality conditions, for standardised units and concepts
COMPILED = CompiledKernels("clipdissect.method.linear_sums.compiled", "PyTorch")


@dataclass(frozen=True)
class Penalty:
    """`lam * (alpha * |w|_1 + (1 - alpha) / 2 * |w|^2)`, as in scikit-learn."""

    lam: float
    alpha: float

    @property
    def absolute(self) -> float:
        """The weight of `|w|_1`."""
        return self.lam * self.alpha

    @property
    def squared(self) -> float:
        """The weight of `|w|^2 / 2`."""
        return self.lam * (1 - self.alpha)


@dataclass(frozen=True)
class Solved:
    """Weights, and the optimality conditions' largest violation, per unit."""

    weights: Float[Tensor, "concepts units"]
    violation: Float[Tensor, " units"]


def elastic_net(
    gram: Float[Tensor, "concepts concepts"],
    cross: Float[Tensor, "concepts units"],
    penalty: Penalty,
    tolerance: float = TOLERANCE,
    sweeps: int = 2000,
) -> Solved:
    """Minimise `|a - C w|^2 / (2 n) + penalty` per unit by cyclic coordinate descent.

    Args:
        gram: `C^T C / n`, float64.
        cross: `C^T a / n`, float64.
        tolerance: of the optimality conditions, in units of `cross`.
        sweeps: most passes over the concepts.
    """
    matrix, target = gram.cpu().contiguous(), cross.cpu().T.contiguous()
    weights, violation = torch.zeros_like(target), target.new_zeros(len(target))
    numbers = (penalty.absolute, penalty.squared, tolerance, sweeps)
    arguments = (matrix, target, *numbers, weights, violation)
    if not COMPILED.run("coordinate_descent", len(target), arguments):
        coordinate_descent(*arguments)
    return Solved(weights.T.to(cross.device), violation.to(cross.device))


def candidates(
    gram: Float[Tensor, "concepts concepts"],
    cross: Float[Tensor, "concepts units"],
    weights: Float[Tensor, "concepts units"],
    penalty: Penalty,
    most: int,
) -> Int[Tensor, "units candidates"]:
    """Return at most `most` concepts per unit by weight, largest first.

    Those with weight 0 follow by their covariance with the residuals, then those with a negative
    one.
    """
    gradient = cross - gram @ weights
    # A weight of 0 has a gradient of at most `absolute`, a negative one of less than -`absolute`.
    keys = torch.where(weights > 0, weights, gradient - penalty.absolute)
    return keys.topk(min(most, len(keys)), 0).indices.T


def coordinate_descent(
    gram: Float[Tensor, "concepts concepts"],
    cross: Float[Tensor, "units concepts"],
    absolute: float,
    squared: float,
    tolerance: float,
    sweeps: int,
    weights: Float[Tensor, "units concepts"],
    violation: Float[Tensor, " units"],
) -> None:
    """Write the solution into `weights` and `violation`; the reference of the compiled one."""
    gradient = cross - weights @ gram
    for _ in range(sweeps):
        for j, row in enumerate(gram):
            scale = float(row[j])
            z = gradient[:, j] + scale * weights[:, j]
            new = z.sign() * (z.abs() - absolute).clamp(min=0) / (scale + squared)
            change = new - weights[:, j]
            weights[:, j] = new
            gradient -= change[:, None] * row
        rest = gradient - squared * weights
        of_zeros, of_others = rest.abs() - absolute, (rest - absolute * weights.sign()).abs()
        excess = torch.where(weights == 0, of_zeros, of_others)
        violation[:] = excess.clamp(min=0).amax(1)
        if math.isnan(float(violation.sum())) or float(violation.max()) <= tolerance:
            return
