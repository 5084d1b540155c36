"""Errors that a user can cause; the message says what to change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class DissectError(ValueError):
    """An invalid argument, configuration or input file."""


class MissingResource(DissectError):
    """A file that the job needs is neither on this machine nor downloadable."""

    def __init__(self, what: str, looked: Sequence[str], remedy: str) -> None:
        self.what, self.looked, self.remedy = what, tuple(looked), remedy
        places = "; ".join(self.looked) or "nowhere"
        super().__init__(f"missing: {what}\n  looked in: {places}\n  what to do: {remedy}")

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...], str]]:
        """Pickle the three arguments, so that the error crosses process boundaries."""
        return type(self), (self.what, self.looked, self.remedy)


def one_line(error: Exception, most: int = 300) -> str:
    """Return the first characters of an error's message, without line breaks."""
    return " ".join(str(error).split())[:most]


def unknown(kind: str, name: str, valid: Iterable[str], most: int = 40) -> DissectError:
    """Return an error for a name outside `valid`, with the closest matches first."""
    names = [str(v) for v in valid]
    shown = ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
    hint = closest(name, names)
    return DissectError(f"unknown {kind} '{name}'.{hint} Valid: {shown or 'none'}")


def closest(name: object, valid: Iterable[str]) -> str:
    """Return a question with the valid names that resemble a wrong one, or an empty text."""
    close = get_close_matches(str(name), list(valid), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
