"""CLIP-Dissect: the concepts whose activations are most similar to the unit's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clipdissect.dissection import dissect, run_worker
from clipdissect.errors import DissectError
from clipdissect.method.base import Job, Method
from clipdissect.results.result import Result


@dataclass(frozen=True)
class ClipDissect(Method):
    """`clipdissect.dissect` on the job's parts.

    Source: Oikarinen & Weng, ICLR 2023, Sec. 3.
    """

    name: ClassVar[str] = "clip_dissect"
    needs: ClassVar[tuple[str, ...]] = ("target", "probe", "concepts", "encoder", "similarity")

    def describe(self, job: Job) -> Result:
        """The best concepts of every unit of the target's layers."""
        parts = job.parts(self)
        result = dissect(
            parts.pop("target"), **parts, settings=job.settings, store=job.store, top=job.top,
            images=job.images, team=job.team, truth=job.truth, null_similarity=job.null,
        )  # fmt: skip
        result.run["method"] = {"name": self.name}
        return result

    def run_worker(self, job: Job) -> None:
        """Capture this process's share of the images."""
        parts = job.parts(self)
        parts.pop("concepts")
        if job.store is None:
            raise DissectError("processes share images through the store: give one")
        run_worker(
            parts.pop("target"), **parts, settings=job.settings, store=job.store,
            images=job.images, team=job.team,
        )  # fmt: skip
