"""What a method gets and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from clipdissect.capture.settings import Settings
from clipdissect.concepts import Concepts
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.results.result import Result
from clipdissect.similarity import Similarity
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils.distributed import ALONE, Team


@dataclass(frozen=True)
class Job:
    """What a method may need; what it doesn't need may be None.

    Args:
        target: the network; its `layers` are the ones to describe.
        probe: the images.
        concepts: the texts to describe by.
        encoder: the image-text encoder.
        similarity: the similarity function.
        settings: how to run the networks.
        store: the feature store.
        top: descriptions a unit.
        images: top images a unit.
        team: processes that share the images.
        truth: a layer's right descriptions, one a unit, for `truth_rank` where a method ranks.
        null: whether to score with shuffled images too, for `null_similarity` where a method can.
    """

    target: Target | None = None
    probe: Probe | None = None
    concepts: Concepts | None = None
    encoder: Encoder | None = None
    similarity: Similarity | None = None
    settings: Settings = field(default_factory=Settings)
    store: Store | None = None
    top: int = 5
    images: int = 10
    team: Team = ALONE
    truth: Mapping[str, Sequence[str]] = field(default_factory=dict)
    null: bool = True

    def parts(self, method: Method) -> dict[str, Any]:
        """The parts that a method needs, by name.

        Raises:
            DissectError: one isn't there.
        """
        found = {name: getattr(self, name) for name in method.needs}
        absent = [name for name, part in found.items() if part is None]
        if absent:
            raise DissectError(f"method {method.name} needs: {', '.join(absent)}")
        return found


class Method(ABC):
    """A way to describe units.

    `needs` names the parts of a `Job` that it uses, so that no network or image set is loaded in
    vain.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def describe(self, job: Job) -> Result:
        """Descriptions `layer, unit, description, similarity, ...`, one row a unit.

        The similarity is the method's own score, larger is better; NaN where it has none. Further
        columns may be `description_2, similarity_2, ...`, `truth_rank`, and the method's own. There
        may be no top images. `run` tells what the result depends on.

        Raises:
            DissectError: a part that it needs isn't there, or doesn't suit it.
        """

    def run_worker(self, job: Job) -> None:  # noqa: B027 - most methods have nothing to share
        """What the other processes of `job.team` do while the leader describes; mostly nothing."""
