"""Made-up checkpoints with the structure of MILAN's, and its formulas in plain loops."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision import models

Array = Float[np.ndarray, "..."]
TOKENS = ("a", "dog", ".", "red", "-", "haired", ",", "sky")
START, STOP, PAD, UNKNOWN = 8, 9, 10, 11
E, H, A, LM_E, LM_H, F = 3, 5, 4, 2, 6, 1024
TOKENIZER = {"lemmatize": False, "lowercase": True, "ignore_stop": False, "ignore_punct": False}


class Config(dict):  # type: ignore[type-arg]
    """As thinc's: a dict with an attribute of its own."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.is_interpolated = True


def indexer(module: str) -> dict[str, Any]:
    config: Any = sys.modules[module].Config
    tokenizer = TOKENIZER | {"nlp": (config({"nlp": config({"lang": "en"})}), b"\x00spacy\xff")}
    vocab = {"properties": {"tokens": TOKENS}, "children": {}}
    properties = {"vocab": vocab, "tokenize": {"properties": tokenizer, "children": {}}}
    flags = {"start": True, "stop": True, "pad": True, "unk": True, "length": None}
    return {"properties": properties | flags, "children": {}}


@cache
def resnet18() -> dict[str, Tensor]:
    return dict(models.resnet18().state_dict())


def decoder_state(scale: float = 1.0) -> dict[str, Tensor]:
    vocabulary = len(TOKENS) + 4
    shapes = {
        "init_h.0": (H, F),
        "init_c.0": (H, F),
        "attend.query_to_hidden": (A, H),
        "attend.key_to_hidden": (A, F),
        "attend.output.0": (1, A),
        "feature_gate.0": (F, H),
        "output.1": (vocabulary, H),
        "lm.output.0": (vocabulary, LM_H),
    }
    state = {}
    for name, (rows, columns) in shapes.items():
        state[f"{name}.weight"] = torch.randn(rows, columns) / columns**0.5 * scale
        state[f"{name}.bias"] = torch.randn(rows)
    state |= {"embedding.weight": torch.randn(vocabulary, E)}
    state |= {"lm.embedding.weight": torch.randn(vocabulary, LM_E)}
    state |= lstm_state("lstm.{}", E + F, H)
    state |= lstm_state("lm.lstm.{}_l0", LM_E, LM_H)
    return state | lstm_state("lm.lstm.{}_l1", LM_H, LM_H)


def lstm_state(name: str, inputs: int, hidden: int) -> dict[str, Tensor]:
    return {
        name.format("weight_ih"): torch.randn(4 * hidden, inputs) / inputs**0.5,
        name.format("weight_hh"): torch.randn(4 * hidden, hidden) / hidden**0.5,
        name.format("bias_ih"): torch.randn(4 * hidden),
        name.format("bias_hh"): torch.randn(4 * hidden),
    }


def payload(lm: bool = True, module: str = "thinc.config", scale: float = 4.0) -> dict[str, Any]:
    """A checkpoint with a ResNet-18, random weights, and texts that end."""
    torch.manual_seed(2)
    state = decoder_state(scale)
    state["output.1.bias"][STOP] += 1.5
    state |= {f"encoder.encoder.model.{n}": t for n, t in resnet18().items()}
    state["encoder.mean"] = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    state["encoder.std"] = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    sizes = {"embedding_size": LM_E, "hidden_size": LM_H, "layers": 2, "dropout": 0.5}
    lm_properties = {"indexer": indexer(module), **sizes}
    if not lm:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("lm.")}
    properties = {
        "indexer": indexer(module),
        "encoder": {"properties": {"config": "resnet18", "pretrained": True}, "children": {}},
        "lm": {"properties": lm_properties, "children": {}} if lm else None,
        "embedding_size": E,
        "hidden_size": H,
        "attention_hidden_size": A,
        "dropout": 0.5,
        "length": 15,
        "strategy": "rerank",
        "temperature": None,
        "beam_size": 50,
    }
    children = {"encoder": "PyramidConvEncoder"}
    return {"properties": properties, "children": children, "state_dict": OrderedDict(state)}


class Modules:
    """The modules that the pickled `Config` claims to be of, while the block runs."""

    def __init__(self, module: str) -> None:
        self.names = [module] if "." not in module else [module.partition(".")[0], module]

    def __enter__(self) -> None:
        for name in self.names:
            sys.modules[name] = ModuleType(name)
        module: Any = sys.modules[self.names[-1]]
        module.Config = Config
        Config.__module__ = self.names[-1]

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            del sys.modules[name]
        Config.__module__ = __name__


def write(path: Path, module: str = "thinc.config", lm: bool = True, **changes: Any) -> Path:
    """Write a checkpoint; `changes` replace tensors, a None removes one."""
    with Modules(module):
        made = payload(lm, module)
        state = made["state_dict"] | changes
        made["state_dict"] = OrderedDict((n, t) for n, t in state.items() if t is not None)
        torch.save(made, path)
    return path


def log_softmax(values: Array) -> Array:
    shifted = values - values.max()
    result: Array = shifted - math.log(np.exp(shifted).sum())
    return result


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


class Plain:
    """The decoder and its language model in float64, from scratch for each token."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name: tensor.double().numpy() for name, tensor in state.items()}

    def linear(self, name: str, values: Array) -> Array:
        result: Array = self.state[f"{name}.weight"] @ values + self.state[f"{name}.bias"]
        return result

    def cell(self, name: str, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gates = self.state[name.format("weight_ih")] @ x + self.state[name.format("bias_ih")]
        gates = gates + self.state[name.format("weight_hh")] @ h
        i, f, g, o = np.split(gates + self.state[name.format("bias_hh")], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    def next_token(self, exemplars: Array, before: list[int]) -> Array:
        """`log p` of each token after those `before` it, for one unit's features."""
        mean = np.mean(exemplars, 0)
        h, c = np.tanh(self.linear("init_h.0", mean)), np.tanh(self.linear("init_c.0", mean))
        for token in [START, *before]:
            query = self.linear("attend.query_to_hidden", h)
            energy = [
                self.linear(
                    "attend.output.0",
                    np.tanh(query + self.linear("attend.key_to_hidden", features)),
                )[0]
                for features in exemplars
            ]
            alpha = np.exp(log_softmax(np.array(energy)))
            seen = sum(a * features for a, features in zip(alpha, exemplars, strict=True))
            seen = seen * sigmoid(self.linear("feature_gate.0", h))
            x = np.concatenate([self.state["embedding.weight"][token], seen])
            h, c = self.cell("lstm.{}", x, h, c)
        return log_softmax(self.linear("output.1", h))

    def next_of_language(self, before: list[int]) -> Array:
        states = [(np.zeros(LM_H), np.zeros(LM_H)) for _ in range(2)]
        for token in [START, *before]:
            x = self.state["lm.embedding.weight"][token]
            for layer in range(2):
                states[layer] = self.cell(f"lm.lstm.{{}}_l{layer}", x, *states[layer])
                x = states[layer][0]
        return log_softmax(self.linear("lm.output.0", states[1][0]))

    def prior(self, text: list[int]) -> float:
        """The language model's score: up to one token after the first stop token."""
        total, stopped = 0.0, False
        for n, token in enumerate(text):
            total += self.next_of_language(text[:n])[token]
            if stopped:
                break
            stopped = token == STOP
        return total

    def search(
        self, exemplars: Array, beam: int, length: int, mi: float = 0.0
    ) -> list[tuple[list[int], float]]:
        """The texts of a beam search, best first."""
        texts: list[tuple[list[int], float]] = [([], 0.0)]
        for _ in range(length):
            longer = []
            for text, score in texts:
                if text and text[-1] == STOP:
                    longer.append(([*text, STOP], score))
                    continue
                values = self.next_token(exemplars, text)
                if mi:
                    values = values - mi * self.next_of_language(text)
                order = np.argsort(-values)[:beam]
                longer += [([*text, int(n)], score + values[n]) for n in order]
            texts = sorted(longer, key=lambda pair: -pair[1])[:beam]
        return texts
