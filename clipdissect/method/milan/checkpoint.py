"""Read a released checkpoint of MILAN without executing anything in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clipdissect.errors import DissectError, unknown
from clipdissect.method.milan.decoder import Decoder, DecoderSizes, LanguageModel
from clipdissect.method.milan.encoder import FEATURES, PyramidEncoder
from clipdissect.method.milan.vocabulary import SPECIALS, Vocabulary
from clipdissect.models import checkpoints
from clipdissect.utils import hashing

REMEDY = "set method.path to a checkpoint of MILAN, as `clipdissect fetch milan` gets it"
ENCODER = "PyramidConvEncoder"
HEAD = "fc."  # the network's last layer, whose outputs aren't used
SETTINGS = ("length", "strategy", "temperature", "beam_size", "dropout")  # that run.json records
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """The networks and the vocabulary of a checkpoint."""

    encoder: PyramidEncoder
    decoder: Decoder
    lm: LanguageModel | None
    vocabulary: Vocabulary
    facts: dict[str, Any]  # for run.json
    digest: str  # SHA-256 of the file

    def to(self, device: str) -> Checkpoint:
        """Move the networks to the device, and return self."""
        for network in (self.encoder, self.decoder, self.lm):
            if network is not None:
                network.to(device)
        return self


def load(path: Path) -> Checkpoint:
    """Load a checkpoint; sizes come from its tensors.

    Raises:
        MissingResource: no such file.
        DissectError: it holds objects other than tensors and plain values, lacks a part, or has
            tensors whose names or shapes don't fit each other.
    """
    payload = _read(path)
    properties = _part(payload, path, "properties")
    state = _part(payload, path, "state_dict")
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise DissectError(f"{path}: state_dict holds other values than tensors: {REMEDY}")
    vocabulary = _vocabulary(properties, path)
    network = _network(payload, path)
    lm_state = _below(state, "lm.")
    of_encoder = _below(state, "encoder.")
    of_decoder = {n: t for n, t in state.items() if not n.startswith(("encoder.", "lm."))}
    decoder = _decoder(of_decoder, len(vocabulary), FEATURES[network], path)
    lm = _language_model(lm_state, len(vocabulary), path) if lm_state else None
    if (properties.get("lm") is None) != (lm is None):
        raise DissectError(f"{path} has a language model in one of properties and state_dict only")
    encoder = _encoder(network, of_encoder, path)
    facts = {name: properties.get(name) for name in SETTINGS}
    facts |= {
        "encoder": network,
        "tokens": len(vocabulary.tokens),
        "language_model": lm is not None,
    }
    return Checkpoint(encoder, decoder, lm, vocabulary, facts, hashing.hash_file(path))


def _read(path: Path) -> Any:
    """Unpickle only tensors, plain values and, as dicts, the tokenizer's configurations."""
    checkpoints.check_file(path, "the checkpoint of MILAN", REMEDY)
    stand_ins: Any = [_dict_named("thinc.config"), _dict_named("confection")]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format fails in its own way
        reason = checkpoints.load_failure(error)
        raise DissectError(f"{path} can't be read safely: {reason}. {REMEDY}") from error


def _dict_named(module: str) -> type:
    """Return a stand-in for spaCy's `Config`, a subclass of dict, in the tokenizer's settings.

    The safe unpickler fills no subclasses of dict, so that instances are plain ordered dicts.
    """

    def new(cls: type, *args: object, **fields: object) -> OrderedDict[Any, Any]:
        return OrderedDict()

    return type("Config", (), {"__new__": new, "__module__": module, "__qualname__": "Config"})


def _part(payload: Any, path: Path, *names: str) -> dict[str, Any]:
    """Return a nested dict by the names that lead to it."""
    for depth, name in enumerate(names):
        payload = payload.get(name) if isinstance(payload, Mapping) else None
        if not isinstance(payload, Mapping):
            where = "/".join(names[: depth + 1])
            raise DissectError(f"{path} is no checkpoint of MILAN, it has no {where}: {REMEDY}")
    return dict(payload)


def _vocabulary(properties: dict[str, Any], path: Path) -> Vocabulary:
    names = ("indexer", "properties", "vocab", "properties")
    tokens = _part(properties, path, *names).get("tokens")
    if not isinstance(tokens, (tuple, list)) or not all(isinstance(t, str) for t in tokens):
        raise DissectError(f"{path}: the tokens of its vocabulary are no texts: {REMEDY}")
    return Vocabulary(tuple(tokens))


def _network(payload: Any, path: Path) -> str:
    kind = _part(payload, path, "children").get("encoder")
    if kind != ENCODER:
        raise DissectError(f"{path}: its encoder is {kind}; only {ENCODER} is supported")
    names = ("properties", "encoder", "properties")
    network = str(_part(payload, path, *names).get("config"))
    if network not in FEATURES:
        raise unknown(f"encoder of {path}", network, FEATURES)
    return network


def _encoder(network: str, state: dict[str, Tensor], path: Path) -> PyramidEncoder:
    state = {name.replace("encoder.model.", "network.", 1): v for name, v in state.items()}
    used = {n: v for n, v in state.items() if not n.startswith(f"network.{HEAD}")}
    return _loaded(PyramidEncoder(network), used, f"{path} (its encoder)")


def _decoder(state: dict[str, Tensor], vocabulary: int, features: int, path: Path) -> Decoder:
    tokens, embedding = _matrix(state, "embedding.weight", path)
    _check_tokens(tokens, vocabulary, path)
    _, hidden = _matrix(state, "lstm.weight_hh", path)
    attention, _ = _matrix(state, "attend.query_to_hidden.weight", path)
    sizes = DecoderSizes(vocabulary, embedding, features, hidden, attention)
    return _loaded(Decoder(sizes), state, f"{path} (its decoder)")


def _language_model(state: dict[str, Tensor], vocabulary: int, path: Path) -> LanguageModel:
    tokens, embedding = _matrix(state, "embedding.weight", path)
    _check_tokens(tokens, vocabulary, path)
    _, hidden = _matrix(state, "lstm.weight_hh_l0", path)
    layers = sum(name.startswith("lstm.weight_hh_l") for name in state)
    model = LanguageModel(vocabulary, embedding, hidden, layers)
    return _loaded(model, state, f"{path} (its language model)")


def _check_tokens(rows: int, vocabulary: int, path: Path) -> None:
    if rows != vocabulary:
        raise DissectError(
            f"{path}: its embedding has {rows} rows, but its vocabulary has "
            f"{vocabulary - SPECIALS} tokens and {SPECIALS} special ones"
        )


def _matrix(state: dict[str, Tensor], name: str, path: Path) -> tuple[int, int]:
    if name not in state or state[name].ndim != 2:
        raise DissectError(f"{path}: its state_dict has no matrix {name}: {REMEDY}")
    rows, columns = state[name].shape
    return rows, columns


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _loaded(network: N, state: dict[str, Tensor], source: str) -> N:
    checkpoints.load(network, state, source)
    network.eval().requires_grad_(False)
    return network
