"""Well-known encoders: each a model of open_clip with the weights that belong to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from clipdissect.encoder.open_clip import open_clip
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.errors import MissingResource
from clipdissect.utils.dependencies import depends_on
from clipdissect.utils.paths import cache_dir


class Preset(NamedTuple):
    """A model of open_clip, with its activation function, and the tag of its weights."""

    model: str
    tag: str
    about: str


PRESETS: dict[str, Preset] = {
    "clip_vit_b16": Preset(
        "ViT-B-16-quickgelu", "openai", "The paper's encoder: OpenAI's CLIP ViT-B/16."
    ),
    "clip_vit_b32": Preset("ViT-B-32-quickgelu", "openai", "OpenAI's CLIP ViT-B/32."),
    "clip_vit_l14": Preset("ViT-L-14-quickgelu", "openai", "OpenAI's CLIP ViT-L/14."),
    "clip_vit_l14_336": Preset(
        "ViT-L-14-336-quickgelu", "openai", "OpenAI's CLIP ViT-L/14 at 336 pixels."
    ),
    "clip_rn50": Preset("RN50-quickgelu", "openai", "OpenAI's CLIP ResNet-50."),
    "clip_rn101": Preset("RN101-quickgelu", "openai", "OpenAI's CLIP ResNet-101."),
    "clip_rn50x4": Preset("RN50x4-quickgelu", "openai", "OpenAI's CLIP ResNet-50x4, 288 pixels."),
    "clip_rn50x16": Preset(
        "RN50x16-quickgelu", "openai", "OpenAI's CLIP ResNet-50x16, 384 pixels."
    ),
    "clip_rn50x64": Preset(
        "RN50x64-quickgelu", "openai", "OpenAI's CLIP ResNet-50x64, 448 pixels."
    ),
    "siglip2_b16": Preset("ViT-B-16-SigLIP2", "webli", "Google's SigLIP 2 ViT-B/16."),
    "siglip2_l16": Preset(
        "ViT-L-16-SigLIP2-256", "webli", "Google's SigLIP 2 ViT-L/16, 256 pixels."
    ),
    "siglip2_so400m": Preset("ViT-SO400M-14-SigLIP2", "webli", "Google's SigLIP 2 SO400M/14."),
    "mobileclip2_s0": Preset("MobileCLIP2-S0", "dfndr2b", "Apple's MobileCLIP 2 S0."),
    "mobileclip2_s2": Preset("MobileCLIP2-S2", "dfndr2b", "Apple's MobileCLIP 2 S2."),
    "mobileclip2_s4": Preset("MobileCLIP2-S4", "dfndr2b", "Apple's MobileCLIP 2 S4."),
    "eva02_b16": Preset("EVA02-B-16", "merged2b_s8b_b131k", "BAAI's EVA-02 CLIP B/16."),
    "eva02_l14": Preset("EVA02-L-14", "merged2b_s4b_b131k", "BAAI's EVA-02 CLIP L/14."),
    "metaclip_b16": Preset(
        "ViT-B-16-quickgelu", "metaclip_fullcc", "Meta's MetaCLIP ViT-B/16, 2.5 billion pairs."
    ),
    "metaclip_l14": Preset(
        "ViT-L-14-quickgelu", "metaclip_fullcc", "Meta's MetaCLIP ViT-L/14, 2.5 billion pairs."
    ),
    "dfn_b16": Preset("ViT-B-16-quickgelu", "dfn2b", "Apple's DFN CLIP ViT-B/16."),
    "dfn_l14": Preset("ViT-L-14-quickgelu", "dfn2b", "Apple's DFN CLIP ViT-L/14."),
    "dfn_h14": Preset("ViT-H-14-quickgelu", "dfn5b", "Apple's DFN CLIP ViT-H/14."),
}


def preset(name: str) -> Callable[..., PromptEncoder]:
    """Return the function that builds an encoder of `PRESETS`."""
    model, tag, about = PRESETS[name]

    def build(
        checkpoint: str | None = None,
        cache: str | None = None,
        templates: Any = "none",
        long_texts: str = "report",
    ) -> PromptEncoder:
        fetched = cache_dir() / "encoders" / name
        depends_on(fetched)
        own = checkpoint or (str(fetched) if fetched.is_dir() else None)
        try:
            return open_clip(model, tag, own, cache, templates, long_texts)
        except MissingResource as error:
            if own or tag != "openai":  # only OpenAI's can be fetched
                raise
            raise MissingResource(
                error.what,
                [str(fetched), *error.looked],
                f"clipdissect fetch {name}; {error.remedy}",
            ) from error

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{about} See `open_clip` for the arguments and errors."
    return build
