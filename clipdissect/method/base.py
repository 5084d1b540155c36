"""The interface of methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from clipdissect.dissection import Job
from clipdissect.results.result import Result

__all__ = ["Job", "Method"]


class Method(ABC):
    """A way to describe units; `needs` names the inputs of a `Job` that it uses."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def describe(self, job: Job) -> Result:
        """Return descriptions `layer, unit, description, similarity, ...`, one row per unit.

        The similarity is the method's own score, larger is better, or NaN. Further columns may be
        `description_2, similarity_2, ...`, `truth_rank`, and the method's own; the table of top
        images may be empty.

        Raises:
            DissectError: an input is missing or unsuitable.
        """

    def run_worker(self, job: Job) -> None:  # noqa: B027 - most methods have nothing to share
        """Do this process's share of `job.team`'s work while the leader runs `describe`."""
