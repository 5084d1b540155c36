"""The plain side of `benchmark_similarity.py`: the formulas as a straightforward port has them.

P and its softmax over all images come first. Then one unit after another: a gather with the index
expanded over concepts, float32, the logarithm, the sum; the marginal over all units at the end.
Nothing is tuned but one thing, in the plain side's favour: `benchmark_similarity.py` writes the
scores to an array made beforehand. A list of results, as many would write it, scatters them among
freed temporaries and was several times slower.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipdissect import similarity
from clipdissect.similarity import ConceptActivations


class Plain:
    """Straightforward versions of the formulas: P first, then one unit after another."""

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
        """Scores `[concepts]` of one unit, before the marginal where there is one."""
        result: Tensor = getattr(self, f"_{self.name}")(q)
        return result

    def finish(self, scores: Tensor) -> Tensor:
        """Subtract the marginal over units, where there is one."""
        if self.name not in ("soft_wpmi", "wpmi"):
            return scores
        marginal = torch.logsumexp(scores, 0) - torch.tensor(float(len(scores))).log()
        return scores - marginal.mul(self.p["lam"])

    def _gathered(self, q: Tensor) -> Tensor:
        best = torch.topk(q, int(self.p["top_k"])).indices
        return self.s.gather(0, best[:, None].expand(-1, self.s.shape[1]))

    def _soft_wpmi(self, q: Tensor) -> Tensor:
        k, start, end = (self.p[key] for key in ("top_k", "p_start", "p_end"))
        p = (start - torch.arange(k) / k * (start - end))[:, None]
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
        return (self.P * q[:, None]).sum(0) / self.lengths / q.norm()

    def _cosine_cubed(self, q: Tensor) -> Tensor:
        q, least = (q - q.mean()) ** 3, self.p["min_norm"]
        return (self.P * q[:, None]).sum(0) / self.lengths / q.norm().clamp_min(least)

    def _lp(self, q: Tensor) -> Tensor:
        q = (q - q.mean()) / q.std(correction=0)
        return -(self.P - q[:, None]).norm(p=self.p["p"], dim=0)
