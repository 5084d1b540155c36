"""Similarity functions of users' own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError, one_line
from clipdissect.similarity import checks
from clipdissect.similarity.base import Activations, Plan, Similarity, all_activations
from clipdissect.similarity.sources import Source, concept_blocks, working_memory

PlainFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`f(P [images, concepts], q [images, units]) -> scores [units, concepts]`, larger is better."""


@dataclass(frozen=True)
class Function(Similarity):
    """A plain function of all concept activations and activations; the result can't be rebuilt.

    It gets float32 copies on the device of scoring, and is called again with shuffled images for
    `null_similarity`. Manifests hold its name alone, which a note says.

    Args:
        function: `f(P [images, concepts], q [images, units]) -> scores [units, concepts]`.
        blockwise: whether a concept's scores don't depend on other concepts, so that P may be
            given in blocks of concepts; otherwise P and all scores must fit into `memory_gb`.

    Raises:
        DissectError: P doesn't fit; or the function fails, or returns another shape or NaNs.
    """

    function: PlainFunction
    blockwise: bool = False
    name: ClassVar[str] = "function"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag("blockwise", self.blockwise)
        if isinstance(self.function, type) or not callable(self.function):
            raise DissectError(
                f"similarity's function must be a function of P and q; got {self.function!r}"
            )

    @property
    def function_name(self) -> str:
        named: Any = self.function
        name = getattr(named, "__qualname__", type(named).__qualname__)
        return f"{getattr(named, '__module__', None)}.{name}"

    @property
    def parameters(self) -> dict[str, Any]:
        plain = {"memory_gb": self.memory_gb, "dead": self.dead, "blockwise": self.blockwise}
        return {"function": self.function_name, **plain}

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            f"the similarity is the Python function {self.function_name}, of which only the name "
            f"is recorded: these files don't suffice to repeat the run",
        )

    def _plan(self, source: Source, q: Activations) -> Plan:
        full = all_activations(self.function_name, q)
        images, units = full.shape
        if self.blockwise:
            floats = images + units
            blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)
        else:
            self._check_memory(source, units)
            blocks = [(0, source.concepts)]

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            return self._scores(source.block(start, stop), full.to(torch.float32, copy=True))

        return Plan(units, blocks, scores)

    def _check_memory(self, source: Source, units: int) -> None:
        images, concepts = source.images, source.concepts
        needed = 4 * (images * concepts + images * units + units * concepts)
        if needed > working_memory(self.memory_gb, source.device):
            raise DissectError(
                f"the similarity {self.function_name} needs all {images} x {concepts} concept "
                f"activations at once, {needed / 1e9:.3g} GB with the scores of {units} units: use "
                f"clipdissect.similarity.Function(f, memory_gb={needed / 1e9 * 1.01:.3g}), or "
                f"blockwise=True if no concept's scores depend on other concepts"
            )

    def _scores(
        self, P: Float[Tensor, "images block"], q: Float[Tensor, "images units"]
    ) -> Float[Tensor, "units block"]:
        expected = (q.shape[1], P.shape[1])
        try:
            returned = self.function(P, q)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the user's own code
            raise DissectError(
                f"the similarity {self.function_name} failed on P {tuple(P.shape)} and q "
                f"{tuple(q.shape)} with {type(error).__name__}: {one_line(error)}"
            ) from error
        if not isinstance(returned, Tensor) or tuple(returned.shape) != expected:
            is_tensor = isinstance(returned, Tensor)
            got = tuple(returned.shape) if is_tensor else type(returned).__name__
            raise DissectError(
                f"the similarity {self.function_name} must return a tensor of scores [units, "
                f"concepts] {expected}; got {got}"
            )
        if not bool(torch.isfinite(returned).all()):
            raise DissectError(f"the similarity {self.function_name} returned NaN or infinities")
        return returned.to(P.device, torch.float32)
