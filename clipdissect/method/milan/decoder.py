"""The decoder of MILAN and its language model, one token at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, ...]  # each `[units, beams, ...]`
TEXTS_AT_ONCE = 256  # whose logits for the whole vocabulary are held


@dataclass(frozen=True)
class DecoderSizes:
    """Numbers of tokens and of dimensions."""

    vocabulary: int
    embedding: int
    features: int
    hidden: int
    attention: int


class Attention(nn.Module):
    """Additive attention over a unit's exemplars."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        self.query_to_hidden = nn.Linear(sizes.hidden, sizes.attention)
        self.key_to_hidden = nn.Linear(sizes.features, sizes.attention)
        self.output = nn.Sequential(nn.Linear(sizes.attention, 1))

    def forward(
        self,
        query: Float[Tensor, "units beams hidden"],
        keys: Float[Tensor, "units exemplars attention"],
        present: Bool[Tensor, "units exemplars"],
    ) -> Float[Tensor, "units beams exemplars"]:
        """Return weights that sum to 1 over the exemplars that are present."""
        energy = torch.tanh(self.query_to_hidden(query)[:, :, None] + keys[:, None])
        scores: Tensor = self.output(energy)[..., 0]
        return scores.masked_fill(~present[:, None], -torch.inf).softmax(-1)


@dataclass(frozen=True)
class Evidence:
    """What a batch of units is described by."""

    features: Float[Tensor, "units exemplars features"]
    keys: Float[Tensor, "units exemplars attention"]
    present: Bool[Tensor, "units exemplars"]  # at least one per unit


class Decoder(nn.Module):
    """An LSTM that attends to exemplars; names of weights as in the released checkpoints."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        hidden, features = sizes.hidden, sizes.features
        self.init_h = nn.Sequential(nn.Linear(features, hidden), nn.Tanh())
        self.init_c = nn.Sequential(nn.Linear(features, hidden), nn.Tanh())
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.attend = Attention(sizes)
        self.feature_gate = nn.Sequential(nn.Linear(hidden, features), nn.Sigmoid())
        self.lstm = nn.LSTMCell(sizes.embedding + features, hidden)
        self.output = nn.Sequential(nn.Dropout(0.5), nn.Linear(hidden, sizes.vocabulary))

    def evidence(
        self,
        features: Float[Tensor, "units exemplars features"],
        present: Bool[Tensor, "units exemplars"],
    ) -> Evidence:
        return Evidence(features, self.attend.key_to_hidden(features), present)

    def initial(self, evidence: Evidence) -> State:
        """Return the first hidden and cell state, of one beam, from the mean over exemplars."""
        shares = evidence.present / evidence.present.sum(1, keepdim=True)
        mean = torch.einsum("uef,ue->uf", evidence.features, shares)
        return self.init_h(mean)[:, None], self.init_c(mean)[:, None]

    def step(
        self, evidence: Evidence, tokens: Int[Tensor, "units beams"], state: State
    ) -> tuple[Float[Tensor, "units beams vocabulary"], State]:
        """Return log-probabilities of the token after `tokens`, and the new state."""
        h, c = state
        weights = self.attend(h, evidence.keys, evidence.present)
        seen = (weights @ evidence.features) * self.feature_gate(h)
        inputs = torch.cat([self.embedding(tokens), seen], -1)
        flat = self.lstm(inputs.flatten(0, 1), (h.flatten(0, 1), c.flatten(0, 1)))
        h, c = (part.unflatten(0, tokens.shape) for part in flat)
        return F.log_softmax(self.output(h), -1), (h, c)


class LanguageModel(nn.Module):
    """A two-layer LSTM over the same vocabulary, which sees no images."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.output = nn.Sequential(nn.Linear(hidden, vocabulary), nn.LogSoftmax(-1))

    def initial(self, units: int) -> State:
        """Return the zero state of one beam."""
        shape = (units, 1, self.lstm.num_layers, self.lstm.hidden_size)
        zeros = self.embedding.weight.new_zeros(shape)
        return zeros, zeros

    def step(
        self, tokens: Int[Tensor, "units beams"], state: State
    ) -> tuple[Float[Tensor, "units beams vocabulary"], State]:
        """Return log-probabilities of the token after `tokens`, and the new state."""
        inputs = self.embedding(tokens.flatten())[:, None]
        before = tuple(part.flatten(0, 1).transpose(0, 1).contiguous() for part in state)
        outputs, after = self.lstm(inputs, before)
        new = tuple(part.transpose(0, 1).unflatten(0, tokens.shape) for part in after)
        return self.output(outputs[:, 0]).unflatten(0, tokens.shape), new

    def log_prob(
        self, texts: Int[Tensor, "texts length"], start: int, stop: int
    ) -> Float[Tensor, " texts"]:
        """Compute `log p(text)` as the released code does.

        That counts one token more than the text has: the stop token after the first stop token,
        unless the first one is the last position.
        """
        parts = [self._token_log_probs(part, start) for part in torch.split(texts, TEXTS_AT_ONCE)]
        stops_before = (texts == stop).cumsum(1) - (texts == stop).long()
        return torch.cat(parts).masked_fill(stops_before > 1, 0.0).sum(1)

    def _token_log_probs(
        self, texts: Int[Tensor, "texts length"], start: int
    ) -> Float[Tensor, "texts length"]:
        before = torch.cat([torch.full_like(texts[:, :1], start), texts[:, :-1]], 1)
        outputs, _ = self.lstm(self.embedding(before))
        log_probs: Tensor = self.output(outputs)
        return log_probs.gather(2, texts[..., None])[..., 0]
