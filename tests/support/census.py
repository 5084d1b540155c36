"""A census of real architectures with random weights: what every layer gives, read twice.

`python tests/support/census.py [PATTERN]` prints the table of docs/capture.md. A second hook copies
each layer's output before anything can change it, and it is summarised by the rule of the docs;
what differs between architectures (prefix tokens, channels last) is written down here by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clipdissect.capture.hooks import recording
from clipdissect.capture.infer_layout import Trial, try_out
from clipdissect.capture.output_layout import Reading, summarise
from clipdissect.capture.pooling import Summary
from clipdissect.errors import DissectError
from clipdissect.targets import Target

IMAGES = 2
KINDS = ("auto", "max")
# Layers inside of attention and its position biases: heads or windows, no units at positions.
ATTENTION = re.compile(
    r"(q_norm|k_norm|attn_drop|rel_pos|head_norm|\.attn\b|attention|bias|softmax|pos_embed|rope)"
)


@dataclass(frozen=True)
class Net:
    """An architecture, and what a reader of its code knows of its outputs.

    Args:
        library: where it comes from.
        name: in the library.
        build: makes it with random weights.
        size: pixels of its square input.
        tokens: patterns of layer names to prefix tokens and whether `auto` means the class token;
            the first that matches counts, and layers that none matches have patches alone.
        last: pattern of layers, besides linear ones and layer norms, with channels last.
        first: pattern of layers that return `[units, positions]`.
    """

    library: str
    name: str
    build: Callable[[], nn.Module]
    size: int
    tokens: dict[str, tuple[int, bool]] = field(default_factory=dict)
    last: str = "$^"
    first: str = "$^"

    def summarised(self, layer: str, module: nn.Module, output: Tensor, kind: str) -> Tensor:
        """The rule of docs/capture.md, applied by hand."""
        values = output.float()
        how = torch.amax if kind == "max" else torch.mean
        if values.ndim == 2:
            return values
        if values.ndim == 4:
            is_last = type(module) in (nn.Linear, nn.LayerNorm) or re.search(self.last, layer)
            return how(values, (1, 2)) if is_last else how(values, (2, 3))
        if re.search(self.first, layer):
            return how(values, 2)
        if values.shape[1] == 1:
            return values[:, 0]
        found = (known for pattern, known in self.tokens.items() if re.search(pattern, layer))
        prefix, class_token = next(found, (0, False))
        return values[:, 0] if class_token and kind == "auto" else how(values[:, prefix:], 1)


def torchvision_nets() -> Iterator[Net]:
    """One small member of every classification family of torchvision."""
    from torchvision import models

    def net(name: str, size: int = 64, **known: Any) -> Net:
        arguments = known.pop("arguments", {})
        make = partial(models.get_model, name, weights=None, **arguments)
        return Net("torchvision", name, make, size, **known)

    for name in (
        "alexnet",
        "densenet121",
        "efficientnet_b0",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "resnet18",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "vgg11",
        "wide_resnet50_2",
    ):
        yield net(name)
    yield net("efficientnet_v2_s", 32)
    yield net("googlenet", arguments={"init_weights": False})
    yield net("inception_v3", 96, arguments={"init_weights": False})
    yield net("convnext_tiny", last=r"features\.[1357]\.\d+\.block\.[1-4]$")
    # The classes themselves where no member is small.
    swin = {"patch_size": [4, 4], "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]}
    for name, kind in (("swin_t", None), ("swin_v2_t", "V2")):
        yield Net(
            "torchvision",
            name,
            partial(_swin, kind, **swin),
            56,
            last=r"^features($|\.0$|\.0\.[12]|\.[1-7])|^norm",
        )
    maxvit = partial(
        models.MaxVit,
        input_size=(56, 56),
        stem_channels=16,
        partition_size=7,
        head_dim=8,
        block_channels=[16, 24],
        block_layers=[1, 1],
        stochastic_depth_prob=0.0,
    )
    yield Net(
        "torchvision",
        "maxvit_t",
        maxvit,
        56,
        last="attn_layer|mlp_layer|_swap|window_attention.partition_op",
    )
    vit = partial(models.VisionTransformer, 64, 16, 2, 2, 32, 64)
    yield Net("torchvision", "vit_b_32", vit, 64, {"^encoder": (1, True)})


def _swin(kind: str | None, **arguments: Any) -> nn.Module:
    from torchvision.models import swin_transformer as swin

    if kind == "V2":
        arguments |= {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return swin.SwinTransformer(window_size=[7, 7], **arguments)


VIT = {r"^patch_embed": (0, False), "": (1, True)}


def timm_nets() -> Iterator[Net]:
    """About forty architectures of timm, of reduced depth where they allow it."""
    import timm

    def net(name: str, size: int = 64, **known: Any) -> Net:
        arguments = known.pop("arguments", {})
        return Net("timm", name, partial(timm.create_model, name, **arguments), size, **known)

    for name in (
        "convnext_atto",
        "convnextv2_atto",
        "densenet121",
        "dpn68",
        "edgenext_xx_small",
        "efficientnet_lite0",
        "ghostnet_050",
        "hrnet_w18_small",
        "inception_next_atto",
        "mobilenetv3_small_050",
        "nf_regnet_b0",
        "poolformer_s12",
        "regnetx_002",
        "repvgg_a0",
        "resnest14d",
        "resnet18",
        "skresnet18",
        "starnet_s1",
    ):
        last = r"norm_xca|\.xca|mlp|blocks\.\d\.norm" if name == "edgenext_xx_small" else "$^"
        yield net(name, last=last)
    small = {"depth": 2, "img_size": 64}
    narrow = {**small, "embed_dim": 192, "num_heads": 3}
    for name in ("vit_tiny_patch16_224", "deit3_small_patch16_224"):
        yield net(name, arguments=small, tokens=VIT)
    yield net("deit_tiny_distilled_patch16_224", arguments=small, tokens={**VIT, "": (2, True)})
    yield net("vit_base_patch16_reg4_gap_256", arguments=narrow, tokens={**VIT, "": (4, False)})
    yield net(
        "vit_small_patch14_reg4_dinov2",
        56,
        arguments={"depth": 2, "img_size": 56},
        tokens={**VIT, "": (5, True)},
    )
    yield net("vit_base_patch16_siglip_224", arguments=narrow)
    # Class tokens are there, but what these networks return is made from the patches.
    yield net(
        "eva02_tiny_patch14_224",
        56,
        arguments={"depth": 2, "img_size": 56},
        tokens={**VIT, "": (1, False)},
    )
    yield net("beit_base_patch16_224", arguments=narrow, tokens={**VIT, "": (1, False)})
    late = {
        r"blocks_token_only\.\d\.(norm1|attn\.[kv])$|^norm|cls_attn_blocks|post_network": (1, True)
    }
    yield net("cait_xxs24_224", arguments=small, tokens=late)
    yield net("xcit_nano_12_p16_224", arguments={"depth": 2}, tokens=late)
    volo = partial(
        timm.models.volo.VOLO,
        layers=(1, 1, 1, 1),
        img_size=64,
        embed_dims=(48, 96, 96, 96),
        num_heads=(2, 4, 4, 4),
    )
    yield Net(
        "timm",
        "volo",
        volo,
        64,
        late,
        last=r"^(network(?!\.1\.proj|.*attn\.pool)|pos_drop)",
        first="unfold",
    )
    yield net(
        "coat_lite_tiny", arguments={"img_size": 64}, tokens={"serial_blocks|^norm": (1, True)}
    )
    yield net(
        "convit_tiny", arguments={"img_size": 64}, tokens={r"^(blocks\.1[01]|norm)": (1, True)}
    )
    yield net(
        "crossvit_tiny_240",
        240,
        tokens={r"^patch_embed": (0, False), "^(blocks|norm)": (1, True)},
        arguments={"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))},
    )
    yield net("pit_ti_distilled_224", 224, tokens={r"pool\.fc|^norm$": (0, True), "": (2, True)})
    shallow = {"depths": (1, 1, 1, 1)}
    inner = r"^(pixel_embed|norm1_proj|proj|norm2_proj|blocks\.\d+\.(proj|norm1_proj))$"
    yield net(
        "tnt_s_legacy_patch16_224",
        224,
        first="unfold",
        tokens={inner: (0, False), "": (1, True)},
        arguments={"depth": 2},
    )
    yield net(
        "swin_tiny_patch4_window7_224",
        224,
        last=r"^(patch_embed(?!\.proj)|layers|norm)",
        arguments=shallow,
    )
    yield net(
        "swinv2_tiny_window8_256",
        256,
        last=r"^(patch_embed(?!\.proj)|layers|norm)",
        arguments=shallow,
    )
    yield net("maxvit_rmlp_pico_rw_256", 256, last=r"attn_(block|grid)", arguments=shallow)
    gcvit = partial(
        timm.models.gcvit.GlobalContextVit,
        depths=(1, 1, 1, 1),
        embed_dim=16,
        num_heads=(2, 2, 4, 4),
        window_ratio=(32, 32, 16, 32),
    )
    yield Net("timm", "gcvit", gcvit, 224, last=r"stages\.\d\.(blocks|norm|global_norm)")
    nest = partial(
        timm.models.nest.Nest, depths=(1, 1, 1), embed_dims=(24, 48, 96), num_heads=(2, 2, 4)
    )
    yield Net("timm", "nest", nest, 224, last=r"transformer_encoder|pool\.norm|^norm")
    yield net("hiera_tiny_224", 224, arguments={"stages": (1, 1, 1, 1)})
    yield net("mobilevit_xxs", 256)
    pyramid = r"^(stages\.\d\.downsample|patch_embed)$"
    yield net("pvt_v2_b0", 224, last=pyramid, arguments=shallow)
    yield net("efficientformer_l1", 224, arguments={"depths": (1, 1, 1, 2)})
    yield net("levit_128s", 224, arguments={"depth": (1, 1, 1)})
    yield net("twins_pcpvt_small", 224, arguments=shallow)
    for name in ("mixer_s32_224", "resmlp_12_224"):
        yield net(name, 224)


@torch.no_grad()
def compared(net: Net) -> tuple[int, list[str]]:
    """How many layers were compared, and what was wrong.

    Args:
        net: the architecture.
    """
    torch.manual_seed(0)
    model = net.build().eval()
    layers = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    trial = try_out(Target(net.name, model, lambda _: torch.zeros(3, net.size, net.size)), layers)
    known, wrong = _readings(layers, trial)
    copies: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(partial(_copy, copies, name))
        for name in layers
    ]

    def both(output: Tensor, reading: Reading) -> Tensor:
        return torch.stack([summarise(output, one) for one in known[reading.layer]])

    with recording(model, {layer: own[0] for layer, own in known.items()}, both) as recorder:
        model(torch.rand(IMAGES, 3, net.size, net.size))
        found = recorder.take(list(known))
    for handle in handles:
        handle.remove()
    for layer, values in found.items():
        for kind, got, reading in zip(KINDS, values, known[layer], strict=True):
            expected = net.summarised(layer, model.get_submodule(layer), copies[layer], kind)
            if got.shape != expected.shape or not torch.allclose(got, expected, atol=1e-6):
                shape = tuple(copies[layer].shape)
                wrong.append(f"{layer} ({kind}): {shape} read as {reading.describe()}")
    return len(found), wrong


def _readings(layers: list[str], trial: Trial) -> tuple[dict[str, list[Reading]], list[str]]:
    """Of each layer, a reading for each of `KINDS`; and the layers that have none for no reason."""
    known, wrong = {}, []
    for layer in layers:
        try:
            known[layer] = [trial.read(layer, Summary(kind)) for kind in KINDS]
        except DissectError as error:
            wrong += _unexplained(layer, trial, str(error))
    return known, wrong


def _copy(copies: dict[str, Any], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        copies[name] = output.detach().clone()


def _unexplained(layer: str, trial: Trial, reason: str) -> list[str]:
    """A layer that isn't read, unless it is no tensor, runs not once, or lies inside attention."""
    seen = trial.passes[0]
    shape = seen.shapes.get(layer, ())
    folded = (bool(shape) and IMAGES not in shape) or "no axis holds the images" in reason
    explained = seen.runs[layer] != 1 or layer in seen.problems or folded
    return [] if explained or ATTENTION.search(layer) else [f"{layer} isn't read: {reason}"]


def all_nets() -> list[Net]:
    """The architectures of the census."""
    return [*torchvision_nets(), *timm_nets(), *open_clip_nets(), *transformers_nets()]


def open_clip_nets() -> Iterator[Net]:
    """The vision towers of open_clip: ViT, ResNet and one of timm's."""
    import open_clip

    text = {"layers": 1, "width": 32, "heads": 2, "vocab_size": 100, "context_length": 8}

    def tower(**vision: Any) -> nn.Module:
        config = {"image_size": 64, **vision}
        visual: nn.Module = open_clip.CLIP(embed_dim=32, vision_cfg=config, text_cfg=text).visual
        return visual

    vit = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    tokens = {"": (1, True)}
    yield Net("open_clip", "ViT", partial(tower, **vit), 64, tokens)
    yield Net(
        "open_clip",
        "ViT, patch dropout and average pool",
        partial(tower, **vit, pool_type="avg", patch_dropout=0.5),
        64,
        tokens,
    )
    yield Net("open_clip", "ModifiedResNet", partial(tower, layers=(1, 1, 1, 1), width=32), 64)
    timms = {"timm_model_name": "resnet18", "timm_model_pretrained": False}
    yield Net("open_clip", "timm resnet18", partial(tower, **timms), 64)


def transformers_nets() -> Iterator[Net]:
    """Vision towers of transformers with small configs."""
    import transformers as hf

    shared = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 64,
        "patch_size": 16,
    }

    def net(name: str, model: Any, config: Any, tokens: Any = None, **known: Any) -> Net:
        return Net("transformers", name, lambda: model(config), 64, tokens or {}, **known)

    embeds = {r"patch_embeddings": (0, False)}
    yield net("CLIPVisionModel", hf.CLIPVisionModel, hf.CLIPVisionConfig(**shared), {"": (1, True)})
    yield net("SiglipVisionModel", hf.SiglipVisionModel, hf.SiglipVisionConfig(**shared))
    yield net("ViTModel", hf.ViTModel, hf.ViTConfig(**shared), {**embeds, "": (1, True)})
    yield net("DeiTModel", hf.DeiTModel, hf.DeiTConfig(**shared), {**embeds, "": (2, True)})
    yield net("BeitModel", hf.BeitModel, hf.BeitConfig(**shared), {**embeds, "": (1, False)})
    del shared["intermediate_size"]
    yield net("Dinov2Model", hf.Dinov2Model, hf.Dinov2Config(**shared), {**embeds, "": (1, True)})
    yield net(
        "Dinov2WithRegistersModel",
        hf.Dinov2WithRegistersModel,
        hf.Dinov2WithRegistersConfig(**shared, num_register_tokens=3),
        {**embeds, "": (4, True)},
    )
    swin = hf.SwinConfig(
        image_size=64, embed_dim=24, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    yield net("SwinModel", hf.SwinModel, swin, first="pooler")
    stages = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
    yield net(
        "ConvNextModel",
        hf.ConvNextModel,
        hf.ConvNextConfig(**stages),
        last=r"layers\.\d\.(layernorm|act)",
    )
    yield net("ResNetModel", hf.ResNetModel, hf.ResNetConfig(embedding_size=16, **stages))


def main(pattern: str = "") -> None:
    """Print a row for each architecture, and what is wrong."""
    print("| library | network | layers compared |\n|---|---|---|")
    for net in all_nets():
        if re.search(pattern, f"{net.library}/{net.name}"):
            number, faults = compared(net)
            print(f"| {net.library} | {net.name} | {number} |", *faults, sep="\n    ")


if __name__ == "__main__":
    main(*sys.argv[1:])
