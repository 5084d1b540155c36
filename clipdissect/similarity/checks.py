"""Checks of parameters and inputs; messages name the value and the valid range."""

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
    """Raise a DissectError unless the value is a finite (or `whole`) number within bounds."""
    bounds = [(above, ">"), (least, ">="), (below, "<"), (most, "<=")]
    limits = " and ".join(f"{sign} {bound:g}" for bound, sign in bounds if bound is not None)
    wanted = f"a {'whole' if whole else 'finite'} number {limits}".rstrip()
    valid = False
    # A bool is a number to Python, but not to a user.
    kind = Integral if whole else Real
    if not isinstance(value, bool) and isinstance(value, kind) and math.isfinite(value):
        x = float(value)
        valid = (above is None or x > above) and (least is None or x >= least)
        valid = valid and (below is None or x < below) and (most is None or x <= most)
    if not valid:
        raise DissectError(f"{name}={value!r}: must be {wanted}")


def choice(name: str, value: str, valid: Sequence[str]) -> None:
    """Raise a DissectError unless the value is one of the valid words."""
    if value not in valid:
        raise unknown(name, value, valid)


def flag(name: str, value: object) -> None:
    """Raise a DissectError unless the value is true or false."""
    if not isinstance(value, bool):
        raise DissectError(f"{name}={value!r}: must be true or false")


def matrix(name: str, value: Shaped[Tensor, "..."], rows: str, columns: str) -> None:
    """Raise a DissectError unless the tensor is a non-empty matrix of finite numbers."""
    if value.ndim != 2 or 0 in value.shape:
        raise DissectError(
            f"{name} has shape {tuple(value.shape)}; expected [{rows}, {columns}], none empty"
        )
    # NaN appears in both extremes, and finding them needs no second array of that size.
    if not all(torch.isfinite(extreme) for extreme in torch.aminmax(value)):
        raise DissectError(f"{name} [{rows}, {columns}] holds NaN or infinite values")


def same(axis: str, a: int, a_name: str, b: int, b_name: str) -> None:
    """Raise a DissectError unless two inputs agree on a size."""
    if a != b:
        raise DissectError(f"{a_name} holds {a} {axis}, {b_name} holds {b}")
