"""CLIP-Dissect: concepts whose activations are most similar to the unit's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from clipdissect.dissection import NEEDS, describe_units, run_worker
from clipdissect.errors import DissectError
from clipdissect.method.base import Job, Method
from clipdissect.method.crops import check_crops, cropped_evidence
from clipdissect.method.rerank import NONE, Reranker, check_parameters, reranker_of
from clipdissect.results.meanings import check_most
from clipdissect.results.tables import ResultTables
from clipdissect.store import Store


@dataclass(frozen=True)
class ClipDissect(Method):
    """`clipdissect.dissect` as a method (Oikarinen & Weng, ICLR 2023, Sec. 3).

    Args:
        rerank: `none`; `encoder`: a second encoder's embeddings and the same similarity function
            order the best concepts; `simulation`: the correlation of activations with those that
            the second encoder predicts, on images that the first stage doesn't use.
        reranker: the second encoder, or its name and parameters.
        candidates: best concepts per unit that are reranked.
        held_out: share of the images that only `simulation` uses.
        seed: of their choice.
        crops: whether to look at the 10 top images of a unit where it is active, instead of at
            whole images; see `crops`.
        meanings: how many meanings of a unit to look for, see `results.meanings`; 1 for none.

    Of `rerank`, `crops` and `meanings` only one can be set.
    """

    rerank: str = NONE
    reranker: Any = None
    candidates: int = 50
    held_out: float = 0.2
    seed: int = 0
    crops: bool = False
    meanings: int = 1
    name: ClassVar[str] = "clip_dissect"
    needs: ClassVar[tuple[str, ...]] = NEEDS

    def __post_init__(self) -> None:
        check_parameters(self.rerank, self.candidates, self.held_out, self.seed)
        check_most(self.meanings)
        if len(self._options) > 1:
            raise DissectError(f"{' and '.join(self._options)} can't be combined: set one of them")

    @property
    def _options(self) -> list[str]:
        """Return the options that are set, of those that exclude each other."""
        options = {
            f"method.rerank={self.rerank}": self.rerank != NONE,
            "method.crops": self.crops,
            f"method.meanings={self.meanings}": self.meanings > 1,
        }
        return [name for name, is_set in options.items() if is_set]

    @cached_property
    def second(self) -> Reranker | None:
        """The second stage; None if there is none. Its encoder is built at first use."""
        rerank = self.rerank, self.reranker, self.candidates, self.held_out, self.seed
        return reranker_of(*rerank)

    def describe(self, job: Job) -> ResultTables:
        second = self.second
        job.require(self.name, self.needs)
        if self.crops:
            check_crops(job)
            return self._named(describe_units(job, prepare=cropped_evidence))
        if second is None:
            return self._named(describe_units(job, meanings=self.meanings))
        if job.store is None:  # the target would run once for each encoder
            with TemporaryDirectory(prefix="clipdissect-") as folder:
                return self.describe(replace(job, store=Store(Path(folder))))
        second.check(job)
        return self._named(describe_units(job, prepare=second.prepare))

    def run_worker(self, job: Job) -> None:
        target, probe, _, _, similarity = job.require(self.name, self.needs)
        if job.store is None:
            raise DissectError("processes share images through the store: set a store")
        for each in self.jobs(job):
            run_worker(
                target,
                probe=probe,
                encoder=each.require(self.name, ("encoder",))[0],
                similarity=similarity,
                settings=job.settings,
                store=job.store,
                images=job.images,
                team=job.team,
            )

    def jobs(self, job: Job) -> list[Job]:
        """Return a job per encoder, in the order in which their embeddings are captured."""
        return [job, *([self.second.second_job(job)] if self.second else [])]

    def _named(self, result: ResultTables) -> ResultTables:
        """Record the parameters that are used."""
        used = ["crops"] if self.crops else []
        used += ["meanings"] if self.meanings > 1 else []
        used += [] if self.rerank == NONE else ["rerank", "candidates", "held_out", "seed"]
        values = {name: getattr(self, name) for name in used}
        result.run["method"] = {"name": self.name, **values}
        return result
