"""CLIP-Dissect: concepts whose activations are most similar to the unit's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from clipdissect.dissection import NEEDS, describe_units, run_worker
from clipdissect.errors import DissectError
from clipdissect.method.base import Job, Method
from clipdissect.results.meanings import check_most
from clipdissect.results.result import Result


@dataclass(frozen=True)
class ClipDissect(Method):
    """`clipdissect.dissect` as a method (Oikarinen & Weng, ICLR 2023, Sec. 3).

    Args:
        meanings: how many meanings of a unit to look for, see `results.meanings`; 1 for none.
    """

    meanings: int = 1
    name: ClassVar[str] = "clip_dissect"
    needs: ClassVar[tuple[str, ...]] = NEEDS

    def __post_init__(self) -> None:
        check_most(self.meanings)

    def describe(self, job: Job) -> Result:
        result = describe_units(job, meanings=self.meanings)
        result.run["method"] = {"name": self.name, **asdict(self)}
        return result

    def run_worker(self, job: Job) -> None:
        target, probe, _, encoder, similarity = job.require(self.name, self.needs)
        if job.store is None:
            raise DissectError("processes share images through the store: set a store")
        run_worker(
            target,
            probe=probe,
            encoder=encoder,
            similarity=similarity,
            settings=job.settings,
            store=job.store,
            images=job.images,
            team=job.team,
        )
