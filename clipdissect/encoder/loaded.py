"""Encoders from open_clip models that are loaded already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clipdissect.encoder.open_clip import OpenClip
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.errors import DissectError, one_line
from clipdissect.utils.hashing import Transform
from clipdissect.utils.type_checks import shortened

CLIP_VOCABULARY = 49408  # of open_clip's own tokenizer, and of no other of its networks' tokenizers
TUPLE = "(model, preprocess, tokenizer), with open_clip.get_tokenizer(<the model's name>)"


def is_open_clip(model: Any) -> bool:
    """Return whether a network has the methods of open_clip's models."""
    methods = ("encode_image", "encode_text")
    return isinstance(model, nn.Module) and all(hasattr(model, name) for name in methods)


def loaded(
    model: nn.Module, preprocess: Transform | None = None, tokenizer: Any = None
) -> PromptEncoder:
    """Return the encoder of a model of open_clip, which is put into evaluation mode.

    Args:
        preprocess: PIL image to the model's input; by default that of the model's
            `visual.preprocess_cfg`.
        tokenizer: from `open_clip.get_tokenizer`; by default CLIP's, if the model has its
            vocabulary.

    Raises:
        DissectError: not such a model, preprocessing or tokenizer, or a default isn't known.
    """
    if not is_open_clip(model):
        raise DissectError(
            f"an encoder's network must be an open_clip model with encode_image and encode_text; "
            f"got {shortened(model)}"
        )
    preprocess = _preprocess(model) if preprocess is None else preprocess
    if not callable(preprocess):
        raise DissectError(
            f"an encoder's preprocess must be a function of PIL images; got {shortened(preprocess)}"
        )
    tokenizer = _tokenizer(model) if tokenizer is None else tokenizer
    _check_tokenizer(tokenizer)
    model.eval()
    name = f"open_clip/{type(model).__name__}"
    note = f"the encoder {name} was given as a loaded network, which doesn't record its weights"
    return PromptEncoder(OpenClip(name, model, preprocess, tokenizer, (note,)))


def _preprocess(model: Any) -> Transform:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if not isinstance(config, Mapping):
        raise DissectError(
            f"the {type(model).__name__} doesn't record its preprocessing: set encoder to {TUPLE}"
        )
    transform: Transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    return transform


def _tokenizer(model: Any) -> Any:
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import TextTransformer

    text: Any = model if type(model) is CLIP else getattr(model, "text", None)
    is_own = isinstance(text, (CLIP, TextTransformer))
    if not is_own or text.vocab_size != CLIP_VOCABULARY:
        raise DissectError(
            f"the {type(model).__name__} doesn't record its tokenizer: set encoder to {TUPLE}"
        )
    return SimpleTokenizer(context_length=model.context_length)


def _check_tokenizer(tokenizer: Any) -> None:
    reason = f"got {shortened(tokenizer)}"
    try:
        tokens = tokenizer(["cat"])
        is_text = isinstance(tokens, Tensor) and tokens.dtype == torch.long and tokens.ndim == 2
    except Exception as error:  # of any object
        is_text, reason = False, f"{reason}, which failed with {one_line(error, 100)}"
    parts = ("tokenizer", "encoder")  # which its digest is of
    if not is_text or not any(hasattr(tokenizer, part) for part in parts):
        raise DissectError(
            f"an encoder's tokenizer must be open_clip's: set encoder to {TUPLE}; {reason}"
        )
