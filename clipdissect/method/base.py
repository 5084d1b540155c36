"""The interface of methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from clipdissect.dissection import Job
from clipdissect.results.result import Result

__all__ = ["Job", "Method"]


class Method(ABC):
    """A method that describes units; `needs` names the inputs of a `Job` that it uses."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def describe(self, job: Job) -> Result:
        """Return descriptions `layer, unit, description, similarity, ...`, one row per unit.

        The similarity is the method's score (larger is better) or NaN; the top-image table may be
        empty. Raise a DissectError for a missing or unsuitable input.
        """

    def run_worker(self, job: Job) -> None:  # noqa: B027 - most methods have nothing to share
        """Do this process's share of `job.team`'s work while the leader runs `describe`."""
