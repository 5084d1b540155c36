"""Checks of parameters and inputs, with messages that name the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from jaxtyping import Shaped
from torch import Tensor

from clipdissect.errors import DissectError, unknown


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    whole: bool = False,
) -> None:
    """Check one numeric parameter.

    Args:
        name: the parameter, as the user wrote it.
        value: what was given.
        above: what it must be greater than.
        least: the smallest allowed.
        below: what it must be less than.
        most: the largest allowed.
        whole: only integers are allowed.

    Raises:
        DissectError: not a finite number, or outside the bounds; names value and range.
    """
    kinds = Integral if whole else Real
    bounds = [(above, ">"), (least, ">="), (below, "<"), (most, "<=")]
    wanted = " and ".join(f"{sign} {bound:g}" for bound, sign in bounds if bound is not None)
    kind = "a whole number" if whole else "a finite number"
    right = False
    # A bool is a number to Python, but not to a user.
    if not isinstance(value, bool) and isinstance(value, kinds) and math.isfinite(value):
        x = float(value)
        right = (above is None or x > above) and (least is None or x >= least)
        right = right and (below is None or x < below) and (most is None or x <= most)
    if not right:
        raise DissectError(f"{name}={value!r}: must be {kind}{' ' if wanted else ''}{wanted}")


def choice(name: str, value: str, valid: Sequence[str]) -> None:
    """Check a parameter that takes one of a few words.

    Raises:
        DissectError: not one of them; lists them and the closest.
    """
    if value not in valid:
        raise unknown(name, value, valid)


def flag(name: str, value: object) -> None:
    """Check a yes-or-no parameter.

    Raises:
        DissectError: neither true nor false.
    """
    if not isinstance(value, bool):
        raise DissectError(f"{name}={value!r}: must be true or false")


def matrix(name: str, value: Shaped[Tensor, "..."], rows: str, columns: str) -> None:
    """Check that a tensor is a matrix with at least one row and column and only finite numbers.

    Raises:
        DissectError: another number of axes, an empty axis, NaN or infinity; says which.
    """
    if value.ndim != 2 or 0 in value.shape:
        raise DissectError(
            f"{name} has shape {tuple(value.shape)}; expected [{rows}, {columns}], none empty"
        )
    # NaN comes through both ends, and finding them needs no second array of that size.
    if not all(torch.isfinite(end) for end in torch.aminmax(value)):
        raise DissectError(f"{name} [{rows}, {columns}] holds NaN or infinite values")


def same(what: str, one: int, one_name: str, other: int, other_name: str) -> None:
    """Check that two inputs agree on a size.

    Raises:
        DissectError: they differ; names both.
    """
    if one != other:
        raise DissectError(f"{one_name} holds {one} {what}, {other_name} holds {other}")
