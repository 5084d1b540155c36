"""What the similarity functions share: two ways in, one loop over blocks of concepts."""

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
from clipdissect.similarity import checks
from clipdissect.similarity.blocks import Blocks
from clipdissect.similarity.inputs import Best, ConceptActivations, TopActivations
from clipdissect.similarity.running import RunningBest
from clipdissect.similarity.sources import Dense, Factors, Source

Activations = Tensor | TopActivations
DEAD_UNITS = ("exclude", "include")


@dataclass(frozen=True)
class Plan:
    """How to score: everything that doesn't depend on the block is done.

    Args:
        units: rows of the result.
        blocks: ranges of concepts, in order, each to be scored once.
        scores: `(start, stop) -> [units, stop - start]`, float32.
        magnitudes: of each unit, the largest of the float32 sums that its scores are differences
            of, right once all blocks are scored; None where that is the scores' own size. Two
            sums rounded to float32 are off by half a spacing each, so scores nearer to each other
            than the magnitude times the machine epsilon (2^-23) aren't told apart.
    """

    units: int
    blocks: Blocks
    scores: Callable[[int, int], Float[Tensor, "units block"]]
    magnitudes: Float[Tensor, " units"] | None = None


@dataclass(frozen=True, kw_only=True)
class Similarity(ABC):
    """A similarity function `sim(t_m, q_k; P)`; larger is better.

    Args:
        dead: what descriptions do with units that never vary: `exclude` leaves them without a
            description and out of the marginal over units; `include` scores them as any other, as
            the published code does, for comparisons with it. They are flagged either way.
        memory_gb: working memory in units of 10^9 bytes, beside inputs and results. It decides how
            many concepts are worked on at once, and changes results by float32 rounding at most.
    """

    memory_gb: float = 2.0
    dead: str = "exclude"
    name: ClassVar[str]
    needs_all: ClassVar[bool] = True  # or only every unit's top images

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            DissectError: a value out of its range; names the value and the range.
        """
        checks.number("memory_gb", self.memory_gb, above=0)
        checks.choice("dead", self.dead, DEAD_UNITS)

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters as plain values."""
        return asdict(self)

    @property
    def images_per_unit(self) -> int | None:
        """Number of top images that a unit's score needs; None without a fixed number."""
        return None

    def __call__(
        self, P: Float[Tensor, "images concepts"], q: Float[Tensor, "images units"]
    ) -> Float[Tensor, "units concepts"]:
        """Scores of every unit and concept from a dense P.

        Args:
            P: concept activations `[images, concepts]`.
            q: activations `[images, units]`, on the same device.

        Returns:
            Scores `[units, concepts]`, float32.

        Raises:
            DissectError: sizes that disagree, empty or non-finite inputs, too few images.
        """
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
        """The best concepts of every unit, without holding P or the scores whole.

        Args:
            concept_activations: the embeddings whose products are P.
            q: activations `[images, units]`, or, for the functions that look at a unit's top
                images only, those; on the embeddings' device.
            n: how many concepts to return; more than there are gives all.

        Returns:
            The best concepts of every unit, their scores and the margin to the runner-up.

        Raises:
            DissectError: sizes that disagree, empty or non-finite inputs, too few images,
                `n` below 1, or top images given to a function that needs all activations.
        """
        checks.number("n", n, least=1, whole=True)
        plan = self.streaming(concept_activations, q)
        texts = concept_activations.text_embeds
        with torch.no_grad():
            running = RunningBest(plan.units, n, len(texts), texts.device)
            for start, stop in tqdm(plan.blocks, "concept blocks", disable=None, leave=False):
                running.update(plan.scores(start, stop), start)
            return running.best(plan.magnitudes)

    def streaming(
        self,
        concept_activations: ConceptActivations,
        q: Float[Tensor, "images units"] | TopActivations,
    ) -> Plan:
        """The plan by which `top` scores: for those who need all scores, a block at a time.

        Args:
            concept_activations, q: as for `top`.

        Raises:
            DissectError: as `top`.
        """
        images, texts = concept_activations.image_embeds, concept_activations.text_embeds
        checks.matrix("image_embeds", images, "images", "dims")
        checks.matrix("text_embeds", texts, "concepts", "dims")
        checks.same("dims", images.shape[1], "image_embeds", texts.shape[1], "text_embeds")
        with torch.no_grad():
            return self._plan(Factors(images.float(), texts.float()), _checked(q, len(images)))

    @abstractmethod
    def _plan(self, source: Source, q: Activations) -> Plan:
        """Do what concerns all concepts at once, and say how a block is scored."""


def all_activations(name: str, q: Activations) -> Float[Tensor, "images units"]:
    """The full activations, for the functions that look at every image.

    Raises:
        DissectError: only the top images were kept.
    """
    if isinstance(q, TopActivations):
        raise DissectError(
            f"{name} needs the activations of every image; q keeps the top {len(q.values)} of "
            f"{q.images} images only"
        )
    return q


def _checked(q: Activations, images: int) -> Activations:
    """The activations, after checks that all functions need."""
    if isinstance(q, TopActivations):
        checks.same("images", q.images, "q", images, "P")
        return q
    checks.matrix("q", q, "images", "units")
    checks.same("images", q.shape[0], "q", images, "P")
    return q
