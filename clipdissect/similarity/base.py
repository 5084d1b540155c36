"""The base class of the similarity functions: dense and streaming entry points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from clipdissect.errors import DissectError
from clipdissect.similarity import checks, kernels
from clipdissect.similarity.inputs import Best, ConceptActivations, TopActivations
from clipdissect.similarity.sources import Blocks, Dense, Factors, Source

Activations = Tensor | TopActivations
DEAD_UNITS = ("exclude", "include")


@dataclass(frozen=True)
class Plan:
    """A plan for scoring each block of concepts once; block-independent terms are computed."""

    units: int
    blocks: Blocks
    scores: Callable[[int, int], Float[Tensor, "units block"]]  # of concepts start to stop
    # Per unit, the largest of the float32 sums whose differences are its scores, valid once all
    # blocks are scored; None where it is the score itself. Two such sums are off by half a spacing
    # each, so scores closer than this times the machine epsilon (2^-23) count as tied.
    magnitudes: Float[Tensor, " units"] | None = None


@dataclass(frozen=True, kw_only=True)
class Similarity(ABC):
    """A similarity function `sim(t_m, q_k; P)`; larger is better.

    Args:
        dead: treatment of units that never vary, which are flagged either way. `exclude` gives
            them no description and omits them from the marginal over units; `include` scores
            them, as the published code does.
        memory_gb: working memory in 10^9 bytes, without inputs and results. It sets the block
            size; results change by float32 rounding at most. None: 2 on a CPU; on a GPU 8, or
            two fifths of its memory if that is less.
    """

    memory_gb: float | None = None
    dead: str = "exclude"
    name: ClassVar[str]
    needs_all: ClassVar[bool] = True  # False where every unit's top images are enough

    def __post_init__(self) -> None:
        if self.memory_gb is not None:
            checks.number("memory_gb", self.memory_gb, above=0)
        checks.choice("dead", self.dead, DEAD_UNITS)

    @property
    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return caveats to record with the results."""
        return ()

    @property
    def images_per_unit(self) -> int | None:
        """Return the number of top images that a score needs; None if not fixed."""
        return None

    def images_of(self, probe: int) -> int | None:
        """Return how many top images of a probe a score uses; None for all images."""
        return self.images_per_unit

    def __call__(
        self, P: Float[Tensor, "images concepts"], q: Float[Tensor, "images units"]
    ) -> Float[Tensor, "units concepts"]:
        """Return the scores of all units and concepts from dense P and q."""
        checks.matrix("P", P, "images", "concepts")
        with torch.no_grad():
            plan = self._plan(Dense(P), _checked(q, P.shape[0]))
            out = torch.empty(plan.units, P.shape[1], dtype=torch.float32, device=P.device)
            for start, stop in plan.blocks:
                out[:, start:stop] = plan.scores(start, stop)
        return out

    def top(
        self,
        concept_activations: ConceptActivations,
        q: Float[Tensor, "images units"] | TopActivations,
        n: int,
    ) -> Best:
        """Return the best `n` concepts per unit, without holding P or all scores.

        `q` may be top images unless `needs_all`; it is on the embeddings' device. Raises:
        DissectError for sizes that disagree, empty or non-finite inputs, or too few images.
        """
        checks.number("n", n, least=1, whole=True)
        plan = self.streaming(concept_activations, q)
        texts = concept_activations.text_embeds
        with torch.no_grad():
            best = _RunningBest(plan.units, n, len(texts), texts.device)
            for start, stop in tqdm(plan.blocks, "concept blocks", disable=None, leave=False):
                best.update(plan.scores(start, stop), start)
            return best.result(plan.magnitudes)

    def streaming(
        self,
        concept_activations: ConceptActivations,
        q: Float[Tensor, "images units"] | TopActivations,
    ) -> Plan:
        """Return the plan of `top`, for callers that need all scores block by block."""
        images, texts = concept_activations.image_embeds, concept_activations.text_embeds
        checks.matrix("image_embeds", images, "images", "dims")
        checks.matrix("text_embeds", texts, "concepts", "dims")
        checks.same("dims", images.shape[1], "image_embeds", texts.shape[1], "text_embeds")
        with torch.no_grad():
            return self._plan(Factors(images.float(), texts.float()), _checked(q, len(images)))

    @abstractmethod
    def _plan(self, source: Source, q: Activations) -> Plan:
        """Compute the block-independent terms; return the plan for the blocks."""


def all_activations(name: str, q: Activations) -> Float[Tensor, "images units"]:
    """Return the full activations; raise a DissectError if q has top images only."""
    if isinstance(q, TopActivations):
        raise DissectError(
            f"{name} needs the activations of every image; q has only the top {len(q.values)} of "
            f"{q.images} images"
        )
    return q


def _checked(q: Activations, images: int) -> Activations:
    if isinstance(q, TopActivations):
        checks.same("images", q.images, "q", images, "P")
        return q
    checks.matrix("q", q, "images", "units")
    checks.same("images", q.shape[0], "q", images, "P")
    return q


class _RunningBest:
    """The `n` best concepts per unit and the runner-up, over blocks in concept order."""

    def __init__(self, units: int, n: int, concepts: int, device: torch.device) -> None:
        self._n = min(n, concepts)
        stored = min(max(n, 2), concepts)  # the margin needs two
        self._scores = torch.full((units, stored), -torch.inf, dtype=torch.float32, device=device)
        # A number beyond every concept loses all ties.
        self._concepts = torch.full((units, stored), concepts, dtype=torch.int64, device=device)

    def update(self, scores: Float[Tensor, "units block"], start: int) -> None:
        kernels.update_best(self._scores, self._concepts, scores, start)

    def result(self, magnitudes: Float[Tensor, " units"] | None) -> Best:
        largest = self._scores[:, 0].abs() if magnitudes is None else magnitudes
        resolution = largest * torch.finfo(torch.float32).eps
        if self._scores.shape[1] > 1:
            margin = self._scores[:, 0] - self._scores[:, 1]
        else:
            margin = torch.full_like(self._scores[:, 0], torch.nan)
        n = self._n
        return Best(self._concepts[:, :n].clone(), self._scores[:, :n].clone(), margin, resolution)
