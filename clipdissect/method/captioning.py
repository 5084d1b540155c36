"""Captioning models of transformers, from local folders."""

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

from clipdissect.errors import DissectError, MissingResource
from clipdissect.utils import hashing

ENCODED = 256  # images whose features are kept
TEXTS_AT_ONCE = 64
INSTALL = "method.model takes a folder as `save_pretrained` writes it"


class ImageCaptioner(Protocol):
    """What `Captioner` needs of a model: this one method.

    Two more are used where they are there: `captions_of_mean(images, count) -> list[str]`, captions
    of the mean of the images' features, and `log_probs(texts, images)`, the natural logarithms of
    the texts' probabilities given each image, `[images, texts]`. `name` and `digest` stand in
    run.json.
    """

    def captions(self, images: Sequence[Image.Image], count: int) -> list[list[str]]:
        """Up to `count` captions of each image, best first."""
        ...


@dataclass
class HFCaptions:
    """An image-to-text model of transformers of which only captions are known, such as BLIP.

    Args:
        name: the folder's name.
        model: with `generate`.
        processor: image processor.
        tokenizer: its tokenizer.
        beams, max_tokens: of the beam search.
        device: where it runs.
        digest: of the folder's files.
    """

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
        """Captions of each image by beam search, best first, repeated ones once."""
        return [self._generated(count, pixel_values=self._pixels(image)) for image in images]

    def _generated(self, count: int, **inputs: Any) -> list[str]:
        generate: Any = self.model.generate
        found = generate(
            **inputs, num_beams=self.beams, num_return_sequences=count,
            max_new_tokens=self.max_tokens, do_sample=False,
        )  # fmt: skip
        texts = self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return list(dict.fromkeys(" ".join(text.split()) for text in texts))

    def _pixels(self, image: Image.Image) -> Float[Tensor, "one channels h w"]:
        values: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return values.to(self.device)


@dataclass
class EncoderDecoder(HFCaptions):
    """A `VisionEncoderDecoderModel`: it gives probabilities, and captions a mean of features."""

    _features: OrderedDict[int, tuple[Image.Image, Tensor]] = field(default_factory=OrderedDict)

    @torch.no_grad()
    def captions(self, images: Sequence[Image.Image], count: int) -> list[list[str]]:
        """Captions of each image by beam search, best first, repeated ones once."""
        return [self._of_features(self.features(image), count) for image in images]

    @torch.no_grad()
    def captions_of_mean(self, images: Sequence[Image.Image], count: int) -> list[str]:
        """Captions of the mean over the images of the encoder's last hidden states.

        The mean is taken at each position: patch by patch.
        """
        features = torch.cat([self.features(image) for image in images])
        return self._of_features(features.mean(0, keepdim=True), count)

    @torch.no_grad()
    def log_probs(
        self, texts: Sequence[str], images: Sequence[Image.Image]
    ) -> Float[Tensor, "images texts"]:
        """`log p(text | image)`: the sum over the text's tokens and the end token."""
        rows = []
        for image in images:
            features = self.features(image)
            parts = [
                self._log_probs(texts[start : start + TEXTS_AT_ONCE], features)
                for start in range(0, len(texts), TEXTS_AT_ONCE)
            ]
            rows.append(torch.cat(parts))
        return torch.stack(rows).cpu()

    def features(self, image: Image.Image) -> Float[Tensor, "one positions dims"]:
        """The encoder's last hidden states, kept for the images used last."""
        key = id(image)  # the entry holds the image, so that no other has its number
        if key not in self._features:
            encoder: Any = self.model.encoder
            states: Tensor = encoder(pixel_values=self._pixels(image)).last_hidden_state
            self._features[key] = image, states
            if len(self._features) > ENCODED:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return self._features[key][1]

    def _of_features(self, features: Tensor, count: int) -> list[str]:
        from transformers.modeling_outputs import BaseModelOutput

        return self._generated(count, encoder_outputs=BaseModelOutput(last_hidden_state=features))

    def _log_probs(self, texts: Sequence[str], features: Tensor) -> Float[Tensor, " texts"]:
        from transformers.modeling_outputs import BaseModelOutput

        start, end = _ends(self.model, self.tokenizer)
        wanted = [[*self.tokenizer(t, add_special_tokens=False).input_ids, end] for t in texts]
        longest = max(map(len, wanted))
        inputs = torch.full((len(wanted), longest), end)
        labels = torch.full((len(wanted), longest), -100)
        for row, ids in enumerate(wanted):
            inputs[row, : len(ids)] = torch.tensor([start, *ids[:-1]])
            labels[row, : len(ids)] = torch.tensor(ids)
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        states = BaseModelOutput(last_hidden_state=features.expand(len(wanted), -1, -1))
        # Padding stands at the end, where no earlier token looks.
        logits = self.model(encoder_outputs=states, decoder_input_ids=inputs).logits.float()
        lost = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return -lost.sum(1)


def load(model: str, beams: int, max_tokens: int, device: str) -> HFCaptions:
    """The captioning model in a folder; code that comes with it is never run.

    Args:
        model: a folder as `save_pretrained` writes it: config.json, safetensors weights, image
            processor and tokenizer.
        beams, max_tokens: of the beam search.
        device: where to run it.

    Raises:
        MissingResource: no such folder.
        DissectError: no model that turns images into text, or no safetensors weights.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise MissingResource("the captioning model", [str(folder.absolute())], INSTALL)
    try:
        with _quiet():
            network, processor, tokenizer = _parts(folder)
    except DissectError:
        raise
    except Exception as error:  # transformers raises anything
        reason = " ".join(str(error).split())[:300]
        raise DissectError(f"{folder} holds no usable captioning model: {reason}") from error
    network.name_or_path = ""  # the digest is of what it computes, wherever it lies
    kind = EncoderDecoder if network.config.model_type == "vision-encoder-decoder" else HFCaptions
    network = network.float().eval()
    files = sorted(path for path in folder.iterdir() if path.is_file())
    mark = hashing.hash_values(
        "captioner 1", [[path.name, hashing.hash_file(path)] for path in files]
    )
    found = kind(folder.name, network.to(device), processor, tokenizer, beams, max_tokens, device,
                 mark)  # fmt: skip
    if isinstance(found, EncoderDecoder):
        _ends(network, tokenizer)
    return found


def _parts(folder: Path) -> tuple[Any, Any, Any]:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageTextToText,
        AutoTokenizer,
        VisionEncoderDecoderModel,
    )

    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    config = AutoConfig.from_pretrained(folder, **safe)
    is_pair = config.model_type == "vision-encoder-decoder"
    kind: Any = VisionEncoderDecoderModel if is_pair else AutoModelForImageTextToText
    network, info = kind.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True, **safe
    )
    absent = sorted(info["missing_keys"])
    if absent:
        raise DissectError(f"the weights in {folder} lack {', '.join(absent[:3])}")
    return (network, AutoImageProcessor.from_pretrained(folder, **safe),
            AutoTokenizer.from_pretrained(folder, **safe))  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings and progress bars: what is wrong is raised."""
    from transformers.utils import logging as messages

    level = messages.get_verbosity()
    messages.set_verbosity(messages.CRITICAL)
    messages.disable_progress_bar()
    try:
        yield
    finally:
        messages.set_verbosity(level)
        messages.enable_progress_bar()


def _ends(model: Any, tokenizer: Any) -> tuple[int, int]:
    """The tokens before and after a text.

    Raises:
        DissectError: the model doesn't say which.
    """
    chosen = model.generation_config
    start = chosen.decoder_start_token_id
    start = model.config.decoder_start_token_id if start is None else start
    ends = chosen.eos_token_id if chosen.eos_token_id is not None else tokenizer.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    if start is None or end is None:
        raise DissectError(
            "the captioning model doesn't say its start and end tokens: set "
            "decoder_start_token_id and eos_token_id in its generation_config.json"
        )
    return int(start), int(end)
