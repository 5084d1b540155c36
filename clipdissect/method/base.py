"""The interface of methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from clipdissect.dissection import Job
from clipdissect.results.tables import ResultTables

__all__ = ["Job", "Method"]


class Method(ABC):
    """A method that describes units."""

    name: ClassVar[str]

    @property
    def needs(self) -> tuple[str, ...]:
        """The inputs of a `Job` that it uses."""
        return ()

    @property
    def requires(self) -> tuple[str, ...]:
        """What it takes besides a network and images: `concepts`, `encoder`, `masks`, `labels`."""
        return tuple(name for name in self.needs if name in ("concepts", "encoder"))

    def jobs(self, job: Job) -> list[Job]:
        """Return the jobs whose features it captures: one per encoder."""
        return [job] if "encoder" in self.needs else []

    @abstractmethod
    def describe(self, job: Job) -> ResultTables:
        """Return descriptions `layer, unit, description, similarity, ...`, one row per unit.

        The similarity is the method's score (larger is better) or NaN; the top-image table may be
        empty. Raise a DissectError for a missing or unsuitable input.
        """

    def run_worker(self, job: Job) -> None:  # noqa: B027 - most methods have nothing to share
        """Do this process's share of `job.team`'s work while the leader runs `describe`."""
