"""Linear sparse autoencoders: encoder, activation and decoder, as the libraries compute them."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clipdissect.errors import DissectError

STD_EPSILON = 1e-5  # of SAELens and Prisma


class Activation(Protocol):
    """A function of pre-activations, which it may overwrite."""

    @property
    def words(self) -> str:
        """Return what it does, to follow "then"."""

    @property
    def k(self) -> int | None:
        """Return the most latents per activation that are not 0; None if unlimited."""

    def __call__(self, h: Float[Tensor, "n latents"]) -> Float[Tensor, "n latents"]: ...


class Relu(nn.Module):
    """Keep positive values."""

    words, k = "ReLU", None

    def forward(self, h: Float[Tensor, "n latents"]) -> Float[Tensor, "n latents"]:
        return h.relu_()


class TopK(nn.Module):
    """Keep the largest k; `signed`: negative values among them as well."""

    def __init__(self, k: int, signed: bool = False) -> None:
        super().__init__()
        self.k, self.signed = k, signed

    @property
    def words(self) -> str:
        return f"the largest {self.k}" + (" (negative ones too)" if self.signed else ", then ReLU")

    def forward(self, h: Float[Tensor, "n latents"]) -> Float[Tensor, "n latents"]:
        values, indices = h.topk(self.k, dim=-1, sorted=False)
        return h.zero_().scatter_(-1, indices, values if self.signed else values.relu())


class GroupMax(nn.Module):
    """Keep the largest of each of k groups of successive latents, if it is positive."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    @property
    def words(self) -> str:
        return f"the largest of each of {self.k} groups, then ReLU"

    def forward(self, h: Float[Tensor, "n latents"]) -> Float[Tensor, "n latents"]:
        groups = h.view(len(h), self.k, h.shape[1] // self.k)
        values, indices = groups.max(dim=-1, keepdim=True)
        groups.zero_().scatter_(-1, indices, values.relu())
        return h


class Threshold(nn.Module):
    """Keep positive values above a threshold per latent (JumpReLU), or above a single one.

    Args:
        inclusive: keep values that equal it as well.
    """

    k = None
    thresholds: Tensor

    def __init__(self, thresholds: Float[Tensor, "*latents"], inclusive: bool = False) -> None:
        super().__init__()
        # With thresholds of at least 0, comparing does the ReLU as well.
        self.register_buffer("thresholds", thresholds.clamp_min(0))
        self.inclusive = inclusive

    @property
    def words(self) -> str:
        limit = "each latent's threshold" if self.thresholds.ndim else f"{self.thresholds:.4g}"
        return f"ReLU, with values {'below' if self.inclusive else 'up to'} {limit} set to 0"

    def forward(self, h: Float[Tensor, "n latents"]) -> Float[Tensor, "n latents"]:
        zero = h < self.thresholds if self.inclusive else h <= self.thresholds
        return h.masked_fill_(zero, 0)


class Gated(nn.Module):
    """Magnitudes of the latents whose gate is open (Rajamanoharan et al. 2024, equations 5-7).

    Args:
        scale: of pre-activations in magnitudes, exp(r_mag).
    """

    words, k = "ReLU(exp(r_mag) h + b_mag) where h + b_gate > 0", None
    gate_bias: Tensor
    scale: Tensor
    magnitude_bias: Tensor

    def __init__(
        self,
        gate_bias: Float[Tensor, " latents"],
        scale: Float[Tensor, " latents"],
        magnitude_bias: Float[Tensor, " latents"],
    ) -> None:
        super().__init__()
        self.register_buffer("gate_bias", gate_bias)
        self.register_buffer("scale", scale)
        self.register_buffer("magnitude_bias", magnitude_bias)

    def forward(self, h: Float[Tensor, "n latents"]) -> Float[Tensor, "n latents"]:
        magnitudes = torch.addcmul(self.magnitude_bias, h, self.scale).relu_()
        return magnitudes.masked_fill_(h.add_(self.gate_bias) <= 0, 0)


class Standardise(nn.Module):
    """Subtract each activation's mean and divide by its standard deviation (`layer_norm`)."""

    words = "layer_norm(x)"

    def forward(self, x: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n inputs"]:
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / (centred.std(dim=-1, keepdim=True) + STD_EPSILON)

    def undo(
        self, y: Float[Tensor, "*n inputs"], x: Float[Tensor, "*n inputs"]
    ) -> Float[Tensor, "*n inputs"]:
        # Without the epsilon, as SAELens and Prisma do.
        return y * x.std(dim=-1, keepdim=True) + x.mean(dim=-1, keepdim=True)


class ConstantNorm(nn.Module):
    """Scale each activation to length sqrt(inputs) (`constant_norm_rescale`)."""

    words = "x sqrt(inputs)/||x||"

    def forward(self, x: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n inputs"]:
        return x * self._factor(x)

    def undo(
        self, y: Float[Tensor, "*n inputs"], x: Float[Tensor, "*n inputs"]
    ) -> Float[Tensor, "*n inputs"]:
        return y / self._factor(x)

    def _factor(self, x: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n 1"]:
        tiny = torch.finfo(x.dtype).tiny  # activations of 0 stay 0
        norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return math.sqrt(x.shape[-1]) / norms.clamp_min(tiny)


NORMALISATIONS: dict[str, type[Standardise] | type[ConstantNorm]] = {
    "layer_norm": Standardise,
    "constant_norm_rescale": ConstantNorm,
}


class LinearEncoder(nn.Module):
    """A linear encoder with an activation: codes without reconstruction, as of a transcoder.

    Args:
        weight: of the encoder.
        bias: of the encoder; None: none.
        activation: see `Activation`.
        subtracted: from the (normalised) input.
        normalisation: of the input; one of `NORMALISATIONS`, or None.
        scales: factors of pre-activations, lengths of decoder rows.
    """

    weight: Tensor
    bias: Tensor | None
    subtracted: Tensor | None
    scales: Tensor | None

    def __init__(
        self,
        weight: Float[Tensor, "inputs latents"],
        bias: Float[Tensor, " latents"] | None,
        activation: Activation,
        *,
        subtracted: Float[Tensor, " inputs"] | None = None,
        normalisation: str | None = None,
        scales: Float[Tensor, " latents"] | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.normalisation: Standardise | ConstantNorm | None = (
            NORMALISATIONS[normalisation]() if normalisation else None
        )
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("subtracted", subtracted)
        self.register_buffer("scales", scales)

    def encode(self, x: Float[Tensor, "*n inputs"]) -> Float[Tensor, "*n latents"]:
        rows = x.to(self.weight.dtype).reshape(-1, x.shape[-1])
        if self.normalisation is not None:
            rows = self.normalisation(rows)
        if self.subtracted is not None:
            rows = rows - self.subtracted
        h = functional.linear(rows, self.weight.T, self.bias)
        if self.scales is not None:
            h *= self.scales
        return self.activation(h).reshape(*x.shape[:-1], self.weight.shape[1])

    def describe(self) -> dict[str, str]:
        """Return the computation of `encode` and `decode` in words."""
        x = self.normalisation.words if self.normalisation is not None else "x"
        h = f"({x} - b_dec) W_enc" if self.subtracted is not None else f"{x} W_enc"
        if self.bias is not None:
            h = f"{h} + b_enc"
        if self.scales is not None:
            h = f"({h}) ||W_dec||"
        name = "h = " if isinstance(self.activation, Gated) else ""
        return {
            "encode": f"{name}{h}, then {self.activation.words}",
            "decode": "none: codes alone don't reconstruct its input",
        }


class LinearSae(LinearEncoder):
    """A linear encoder and a decoder that reconstructs the encoder's input.

    Args:
        decoder: directions of the latents.
        decoder_bias: None: none.
        others: see `LinearEncoder`.
    """

    decoder: Tensor
    decoder_bias: Tensor | None

    def __init__(
        self,
        weight: Float[Tensor, "inputs latents"],
        bias: Float[Tensor, " latents"] | None,
        activation: Activation,
        decoder: Float[Tensor, "latents inputs"],
        decoder_bias: Float[Tensor, " inputs"] | None,
        *,
        subtracted: Float[Tensor, " inputs"] | None = None,
        normalisation: str | None = None,
        scales: Float[Tensor, " latents"] | None = None,
    ) -> None:
        super().__init__(
            weight,
            bias,
            activation,
            subtracted=subtracted,
            normalisation=normalisation,
            scales=scales,
        )
        self.register_buffer("decoder", decoder)
        self.register_buffer("decoder_bias", decoder_bias)

    def decode(
        self, codes: Float[Tensor, "*n latents"], x: Float[Tensor, "*n inputs"] | None = None
    ) -> Float[Tensor, "*n inputs"]:
        """Return reconstructions.

        Args:
            x: the activations that were encoded, to undo a normalisation.

        Raises:
            DissectError: the input is normalised, and x is missing.
        """
        codes = codes.to(self.decoder.dtype)
        if self.scales is not None:  # of rows of 0, codes are 0 too
            codes = codes / self.scales.clamp_min(torch.finfo(codes.dtype).tiny)
        y = codes @ self.decoder
        if self.decoder_bias is not None:
            y += self.decoder_bias
        if self.normalisation is None:
            return y
        if x is None:
            raise DissectError(
                "this sparse autoencoder normalises its input: decode(codes, x) needs the "
                "activations x that were encoded, to undo it"
            )
        return self.normalisation.undo(y, x.to(y.dtype))

    def describe(self) -> dict[str, str]:
        codes = "(codes / ||W_dec||) W_dec" if self.scales is not None else "codes W_dec"
        words = f"{codes} + b_dec" if self.decoder_bias is not None else codes
        if self.normalisation is not None:
            words += f", then {self.normalisation.words} undone"
        return {**super().describe(), "decode": words}
