"""The errors a user can cause, worded so that the user can mend them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class DissectError(ValueError):
    """A mistake in what was asked for; the message says what to change."""


class MissingResource(DissectError):
    """Something the job needs isn't on this machine and couldn't be fetched.

    Args:
        what: the thing that is missing.
        looked: the places where it was looked for.
        remedy: what the user can do about it.
    """

    def __init__(self, what: str, looked: Sequence[str], remedy: str) -> None:
        self.what, self.looked, self.remedy = what, tuple(looked), remedy
        places = "; ".join(self.looked) or "nowhere"
        super().__init__(f"missing: {what}\n  looked in: {places}\n  what to do: {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...], str]]:
        """Rebuild from the three arguments, so that the error crosses process boundaries."""
        return type(self), (self.what, self.looked, self.remedy)


def unknown(kind: str, name: str, valid: Iterable[str], most: int = 40) -> DissectError:
    """An error for a name that isn't one of `valid`, with the closest ones first."""
    names = [str(v) for v in valid]
    close = get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    shown = ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
    return DissectError(f"unknown {kind} '{name}'.{hint} Valid: {shown or 'none'}")
