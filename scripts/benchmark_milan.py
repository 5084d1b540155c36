"""Write a checkpoint of the layout and sizes of MILAN's with random weights; time its parts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torchvision import models

from clipdissect.method.milan import checkpoint
from clipdissect.method.milan.captions import STRATEGIES, Decoding, captions
from clipdissect.method.milan.decoder import Decoder, DecoderSizes, LanguageModel
from clipdissect.method.milan.encoder import FEATURES, masked_means
from clipdissect.method.milan.exemplars import active_pixels

EMBEDDING, HIDDEN = 128, 512
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def stand_in(network: str, tokens: int) -> dict[str, Any]:
    """Return the checkpoint; no text of such a model says anything."""
    torch.manual_seed(0)
    vocabulary = tokens + 4
    sizes = DecoderSizes(vocabulary, EMBEDDING, FEATURES[network], HIDDEN, HIDDEN)
    state = Decoder(sizes).state_dict()
    lm = LanguageModel(vocabulary, EMBEDDING, HIDDEN).state_dict()
    state |= {f"lm.{name}": tensor for name, tensor in lm.items()}
    encoder = getattr(models, network)().state_dict()
    state |= {f"encoder.encoder.model.{name}": tensor for name, tensor in encoder.items()}
    state["encoder.mean"] = torch.tensor(MEAN).view(1, 3, 1, 1)
    state["encoder.std"] = torch.tensor(STD).view(1, 3, 1, 1)
    words = {"properties": {"tokens": tuple(f"word{n}" for n in range(tokens))}}
    properties = {
        "indexer": {"properties": {"vocab": words}},
        "encoder": {"properties": {"config": network}},
        "lm": {"properties": {}},
    }
    return {
        "properties": properties,
        "children": {"encoder": "PyramidConvEncoder"},
        "state_dict": state,
    }


@contextmanager
def cpu_seconds(what: str, count: int) -> Iterator[None]:
    """Print the seconds that all cores together take for each of `count` things."""
    start = time.process_time()
    yield
    print(f"{what}: {(time.process_time() - start) / count:.4f} s of one core", flush=True)


@torch.no_grad()
def measure(path: Path) -> None:
    model = checkpoint.load(path)
    features = torch.rand(8, 15, model.encoder.features)
    for strategy in STRATEGIES:
        with cpu_seconds(f"captions ({strategy}), per unit", len(features)):
            present = torch.ones(features.shape[:2], dtype=torch.bool)
            captions(model, features, present, Decoding(strategy))
    with cpu_seconds("maps of the encoder, per image", 8):
        maps = model.encoder(torch.randint(256, (8, 3, 224, 224), dtype=torch.uint8))
    with cpu_seconds("masks and features, per exemplar", 64):
        masks = active_pixels(torch.randn(64, 7, 7), torch.zeros(64))
        masked_means([values[0] for values in maps], masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--network", default="resnet101", choices=FEATURES)
    parser.add_argument("--tokens", type=int, default=4000)
    options = parser.parse_args()
    torch.save(stand_in(options.network, options.tokens), options.file)
    torch.set_num_threads(1)
    measure(options.file)


if __name__ == "__main__":
    main()
