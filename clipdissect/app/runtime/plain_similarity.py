"""Plain implementations of the similarity functions: the baseline of their benchmarks."""

from __future__ import annotations

import time
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect import similarity
from clipdissect.app.runtime.microbenchmarks import synchronize
from clipdissect.similarity import ConceptActivations


class Plain:
    """The formulas as in a straightforward port: P and its softmax, then a loop over units."""

    def __init__(self, name: str, parameters: dict[str, Any], factors: ConceptActivations) -> None:
        self.name = name
        self.p: dict[str, Any] = similarity.build(name, **parameters).parameters
        self.P = factors.dense()
        if name in ("soft_wpmi", "wpmi"):
            self.s = torch.softmax(self.p["a"] * self.P, dim=1)
        elif name == "cosine_cubed":
            self.P = (self.P - self.P.mean(0)) ** 3
        elif name == "lp":
            self.P = (self.P - self.P.mean(0)) / self.P.std(0, correction=0)
        if name in ("cosine", "cosine_cubed"):
            self.lengths = self.P.norm(dim=0).clamp_min(self.p.get("min_norm", 0.0))

    def unit(self, q: Tensor) -> Tensor:
        """Return the scores `[concepts]` of a unit, before the marginal."""
        scores: Tensor = getattr(self, f"_{self.name}")(q)
        return scores

    def finish(self, scores: Tensor) -> Tensor:
        """Subtract the marginal over units, if the function has any."""
        if self.name not in ("soft_wpmi", "wpmi"):
            return scores
        marginal = torch.logsumexp(scores, 0) - torch.tensor(float(len(scores))).log()
        return scores - marginal.mul(self.p["lam"])

    def _gathered(self, q: Tensor) -> Tensor:
        best = torch.topk(q, int(self.p["top_k"])).indices
        return self.s.gather(0, best[:, None].expand(-1, self.s.shape[1]))

    def _soft_wpmi(self, q: Tensor) -> Tensor:
        k, start, end = (self.p[key] for key in ("top_k", "p_start", "p_end"))
        p = (start - torch.arange(k, device=q.device) / k * (start - end))[:, None]
        factors: Tensor = 1 - p + p * self._gathered(q) + self.p["eps"]
        return torch.log(factors).sum(0)

    def _wpmi(self, q: Tensor) -> Tensor:
        return torch.log(self._gathered(q) + self.p["eps"]).sum(0)

    def _rank_reorder(self, q: Tensor) -> Tensor:
        values, best = torch.topk(q, int(self.p["top_fraction"] * len(q)))
        P = self.P.gather(0, best[:, None].expand(-1, self.P.shape[1]))
        ranks = torch.argsort(torch.argsort(P, dim=0, descending=True), dim=0)
        errors = (values[ranks] - values[:, None]).abs().pow(self.p["p"]).mean(0)
        baseline = (values[:, None] - values[None]).abs().pow(self.p["p"]).mean()
        return -errors / baseline / P.mean(0).clamp_min(1e-3).pow(self.p["scale_p"])

    def _cosine(self, q: Tensor) -> Tensor:
        scores: Tensor = (self.P * q[:, None]).sum(0) / self.lengths / q.norm()
        return scores

    def _cosine_cubed(self, q: Tensor) -> Tensor:
        q, least = (q - q.mean()) ** 3, self.p["min_norm"]
        scores: Tensor = (self.P * q[:, None]).sum(0) / self.lengths / q.norm().clamp_min(least)
        return scores

    def _lp(self, q: Tensor) -> Tensor:
        q = (q - q.mean()) / q.std(correction=0)
        distances: Tensor = (self.P - q[:, None]).norm(p=self.p["p"], dim=0)
        return -distances


def timed_scores(
    name: str,
    parameters: dict[str, Any],
    factors: ConceptActivations,
    q: Float[Tensor, "images units"],
) -> tuple[Float[Tensor, "units concepts"], float, float]:
    """Return the plain scores, and the seconds of preparing P and of the loop over units."""
    device = str(q.device)
    start = time.perf_counter()
    plain = Plain(name, parameters, factors)
    synchronize(device)
    middle = time.perf_counter()
    # Preallocated: a list of results scatters them among freed temporaries, which was several times
    # slower.
    scores = torch.empty(q.shape[1], len(factors.text_embeds), device=q.device)
    for unit in range(len(scores)):
        scores[unit] = plain.unit(q[:, unit])
    scores = plain.finish(scores)
    synchronize(device)
    return scores, middle - start, time.perf_counter() - middle
