"""Captioning models of transformers, loaded from local folders."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from clipdissect.errors import DissectError, MissingResource, one_line
from clipdissect.utils import hashing

ENCODED_IMAGES = 256  # size of the cache of features
TEXT_BATCH_SIZE = 64
INSTALL = "method.model takes a folder as `save_pretrained` writes it"


class ImageCaptioner(Protocol):
    """The model of a `Captioner`; `name` and `digest`, if any, are recorded in run.json.

    Optional: `captions_of_mean(images, count) -> list[str]`, captions of the mean of the images'
    features, and `log_probs(texts, images)`, natural log-probabilities `[images, texts]`.
    """

    def captions(self, images: Sequence[Image.Image], count: int) -> list[list[str]]:
        """Return up to `count` captions per image, best first."""
        ...


@dataclass
class HFCaptions:
    """An image-to-text model of transformers that only gives captions, such as BLIP."""

    name: str
    model: nn.Module
    processor: Any
    tokenizer: Any
    beams: int
    max_tokens: int
    device: str
    digest: str

    @torch.no_grad()
    def captions(self, images: Sequence[Image.Image], count: int) -> list[list[str]]:
        return [self._generate(count, pixel_values=self._pixels(image)) for image in images]

    def _generate(self, count: int, **inputs: Any) -> list[str]:
        generate: Any = self.model.generate
        tokens = generate(
            **inputs,
            num_beams=self.beams,
            num_return_sequences=count,
            max_new_tokens=self.max_tokens,
            do_sample=False,
        )
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return list(dict.fromkeys(" ".join(text.split()) for text in texts))

    def _pixels(self, image: Image.Image) -> Float[Tensor, "one channels h w"]:
        values: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return values.to(self.device)


@dataclass
class EncoderDecoder(HFCaptions):
    """A `VisionEncoderDecoderModel`, with log-probabilities and captions of mean features."""

    _features: OrderedDict[int, tuple[Image.Image, Tensor]] = field(default_factory=OrderedDict)

    @torch.no_grad()
    def captions(self, images: Sequence[Image.Image], count: int) -> list[list[str]]:
        return [self._of_features(self.features(image), count) for image in images]

    @torch.no_grad()
    def captions_of_mean(self, images: Sequence[Image.Image], count: int) -> list[str]:
        """Caption the mean over images of the encoder's last hidden states, per patch."""
        features = torch.cat([self.features(image) for image in images])
        return self._of_features(features.mean(0, keepdim=True), count)

    @torch.no_grad()
    def log_probs(
        self, texts: Sequence[str], images: Sequence[Image.Image]
    ) -> Float[Tensor, "images texts"]:
        """Compute `log p(text | image)`, summed over the text's tokens and the end token."""
        rows = []
        for image in images:
            features = self.features(image)
            parts = [
                self._log_probs(texts[start : start + TEXT_BATCH_SIZE], features)
                for start in range(0, len(texts), TEXT_BATCH_SIZE)
            ]
            rows.append(torch.cat(parts))
        return torch.stack(rows).cpu()

    def features(self, image: Image.Image) -> Float[Tensor, "one positions dims"]:
        """Return the encoder's last hidden states, cached for the most recent images."""
        key = id(image)  # unique: the cache entry keeps the image alive
        if key not in self._features:
            encoder: Any = self.model.encoder
            states: Tensor = encoder(pixel_values=self._pixels(image)).last_hidden_state
            self._features[key] = image, states
            if len(self._features) > ENCODED_IMAGES:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return self._features[key][1]

    def _of_features(self, features: Tensor, count: int) -> list[str]:
        from transformers.modeling_outputs import BaseModelOutput

        return self._generate(count, encoder_outputs=BaseModelOutput(last_hidden_state=features))

    def _log_probs(self, texts: Sequence[str], features: Tensor) -> Float[Tensor, " texts"]:
        from transformers.modeling_outputs import BaseModelOutput

        start, end = _start_and_end(self.model, self.tokenizer)
        tokens = [[*self.tokenizer(t, add_special_tokens=False).input_ids, end] for t in texts]
        longest = max(map(len, tokens))
        inputs = torch.full((len(tokens), longest), end)
        labels = torch.full((len(tokens), longest), -100)  # ignored by the cross entropy
        for row, ids in enumerate(tokens):
            inputs[row, : len(ids)] = torch.tensor([start, *ids[:-1]])
            labels[row, : len(ids)] = torch.tensor(ids)
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        states = BaseModelOutput(last_hidden_state=features.expand(len(tokens), -1, -1))
        # Padding is at the end; with causal attention it changes no earlier token.
        logits = self.model(encoder_outputs=states, decoder_input_ids=inputs).logits.float()
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return -loss.sum(1)


def load(model: str, beams: int, max_tokens: int, device: str) -> HFCaptions:
    """Load a captioning model from a folder (`save_pretrained`), without running its code."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise MissingResource("the captioning model", [str(folder.absolute())], INSTALL)
    try:
        with _silenced():
            network, processor, tokenizer = _load_parts(folder)
    except DissectError:
        raise
    except Exception as error:  # transformers raises many types
        reason = one_line(error)
        raise DissectError(f"{folder} holds no usable captioning model: {reason}") from error
    network.name_or_path = ""  # the digest must not depend on where the folder is
    network = network.float().eval().to(device)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    hashes = [[path.name, hashing.hash_file(path)] for path in files]
    digest = hashing.hash_values("captioner 1", hashes)
    is_pair = network.config.model_type == "vision-encoder-decoder"
    if is_pair:
        _start_and_end(network, tokenizer)
    kind = EncoderDecoder if is_pair else HFCaptions
    return kind(folder.name, network, processor, tokenizer, beams, max_tokens, device, digest)


def _load_parts(folder: Path) -> tuple[Any, Any, Any]:
    import transformers

    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    config = transformers.AutoConfig.from_pretrained(folder, **safe)
    kind: Any = transformers.AutoModelForImageTextToText
    if config.model_type == "vision-encoder-decoder":
        kind = transformers.VisionEncoderDecoderModel
    network, info = kind.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True, **safe
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise DissectError(f"the weights in {folder} lack {', '.join(missing[:3])}")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **safe)
    return network, processor, transformers.AutoTokenizer.from_pretrained(folder, **safe)


@contextmanager
def _silenced() -> Iterator[None]:
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity(hf_logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        hf_logging.enable_progress_bar()


def _start_and_end(model: Any, tokenizer: Any) -> tuple[int, int]:
    """Return the tokens before and after a text; raise a DissectError if unknown."""
    config = model.generation_config
    start = config.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    end = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    end = end[0] if isinstance(end, list) else end
    if start is None or end is None:
        raise DissectError(
            "the captioning model doesn't define its start and end tokens: set "
            "decoder_start_token_id and eos_token_id in its generation_config.json"
        )
    return int(start), int(end)
