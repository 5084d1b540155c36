"""Read state dicts of overcomplete, which has no file format of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.sae.base import Sae
from clipdissect.sae.modules import Activation, LinearSae, Relu, Threshold, TopK
from clipdissect.sae.reading import Tensors, as_sae, check_k, locate, read_tensors
from clipdissect.utils.type_checks import check_choice

LOOKS = (
    "overcomplete: a state dict, torch.save(sae.state_dict(), FILE), with sae=overcomplete and "
    "sae.kind"
)
KINDS = ("relu", "topk", "batch_topk", "jump")
NORMALISATIONS = ("l2", "max_l2", "l1", "max_l1", "identity")
EPSILON = 1e-8  # of overcomplete
ADVICE = (
    "overcomplete's state dicts don't have it: set sae.kind=relu, sae.kind=topk with sae.k=<top_k>,"
    " or sae.kind=batch_topk with sae.threshold=<running_threshold>"
)


def is_overcomplete(names: set[str]) -> bool:
    return {"dictionary._weights", "dictionary.C"} & names != set()


def overcomplete(
    path: str,
    layer: str | None = None,
    kind: str | None = None,
    k: int | None = None,
    threshold: float | None = None,
    normalization: str = "l2",
) -> Sae:
    """Return a sparse autoencoder of overcomplete with a linear encoder, from its state dict.

    Args:
        path: the file: `torch.save(sae.state_dict(), path)`, or safetensors.
        layer: the target's layer that it encodes.
        kind: relu (`SAE`), topk (`TopKSAE`, `RATopKSAE`), batch_topk (`BatchTopKSAE`) or jump
            (`JumpSAE`, `RAJumpSAE`; recognised by its tensor `thresholds`).
        k: of topk (`top_k`).
        threshold: of batch_topk (`running_threshold`).
        normalization: of the dictionary's rows: l2, max_l2, l1, max_l1 or identity.

    Raises:
        MissingResource: no such file.
        DissectError: a pickled model, an encoder that isn't linear, `kind`, `k` or `threshold`
            missing or contradicting the tensors.
    """
    files = locate(path)
    file = files.only_weights(LOOKS)
    check_choice("sae.normalization", normalization, NORMALISATIONS)
    tensors = read_tensors(file, "sparse autoencoder of overcomplete with a linear encoder")
    kind = _kind(kind, k, threshold, tensors)
    dictionary = _dictionary(tensors, normalization)
    weight, bias = _encoder(tensors, dictionary)
    activation = _activation(kind, k, threshold, tensors)
    # Tied encoders list the dictionary twice.
    tensors.finish(*(name for name in tensors.tensors if name.startswith("encoder.tied_to.")))
    module = LinearSae(weight, bias, activation, dictionary, None)
    facts = {"architecture": kind, "k": k, "threshold": threshold}
    return as_sae(files, "overcomplete", module, layer, facts=facts)


def _kind(kind: str | None, k: int | None, threshold: float | None, tensors: Tensors) -> str:
    """Return the kind, which must have its parameter and no other."""
    if kind is None and "thresholds" not in tensors:
        raise DissectError(f"{tensors.file}: the activation of the encoder is unknown. {ADVICE}")
    kind = kind or "jump"
    check_choice("sae.kind", kind, KINDS)
    if (kind == "jump") != ("thresholds" in tensors):
        has = "has" if "thresholds" in tensors else "doesn't have"
        raise DissectError(
            f"sae.kind is {kind}, but {tensors.file} {has} the tensor thresholds of jump"
        )
    for name, value, user in (("k", k, "topk"), ("threshold", threshold, "batch_topk")):
        if (value is None) == (kind == user):
            verb = "needs" if value is None else "doesn't use"
            raise DissectError(f"sae.kind={kind} {verb} sae.{name}")
    return kind


def _dictionary(tensors: Tensors, normalization: str) -> Float[Tensor, "latents inputs"]:
    """Return the directions as overcomplete's `eval()` computes them."""
    if "dictionary.C" in tensors:  # archetypes: convex combinations of points, and a relaxation
        points = tensors.take("dictionary.C", "points", "inputs")
        shares = tensors.take("dictionary.W", "latents", "points").relu()
        shares /= shares.sum(dim=1, keepdim=True) + EPSILON
        rows = shares @ points + tensors.take("dictionary.Relax", "latents", "inputs")
    else:
        rows = _normalised(tensors.take("dictionary._weights", "latents", "inputs"), normalization)
    return rows * tensors.take("dictionary.multiplier").exp()


def _normalised(
    rows: Float[Tensor, "latents inputs"], normalization: str
) -> Float[Tensor, "latents inputs"]:
    if normalization == "identity":
        return rows
    norms: Tensor = torch.linalg.vector_norm(rows, ord=int(normalization[-1]), dim=1, keepdim=True)
    return rows / (norms.max() if "max" in normalization else norms + EPSILON)


def _encoder(
    tensors: Tensors, dictionary: Float[Tensor, "latents inputs"]
) -> tuple[Float[Tensor, "inputs latents"], Float[Tensor, " latents"] | None]:
    linear = "encoder.final_block.0"
    if f"{linear}.weight" in tensors:
        weight = tensors.take(f"{linear}.weight", "latents", "inputs")
        return weight.T.contiguous(), tensors.take(f"{linear}.bias", "latents")
    bias = tensors.take("encoder.bias", "latents") if "encoder.bias" in tensors else None
    is_tied = any(name.startswith("encoder.tied_to.") for name in tensors.tensors)
    if is_tied:
        return dictionary.T.contiguous(), bias
    return tensors.take("encoder.weight", "latents", "inputs").T.contiguous(), bias


def _activation(kind: str, k: int | None, threshold: float | None, tensors: Tensors) -> Activation:
    if kind == "topk":
        return TopK(check_k(k, tensors, "sae.k"))
    if kind == "batch_topk":
        return Threshold(torch.tensor(threshold, dtype=torch.float32), inclusive=True)
    if kind == "jump":
        return Threshold(tensors.take("thresholds", "latents").exp(), inclusive=True)
    return Relu()
