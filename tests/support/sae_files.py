"""Files of small random sparse autoencoders, as the libraries write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

INPUTS, LATENTS = 6, 10
THRESHOLD = 0.4  # of batch top-k


def weights(inputs: int = INPUTS, latents: int = LATENTS, seed: int = 0) -> dict[str, Tensor]:
    """Return W_enc [inputs, latents], W_dec [latents, inputs], b_enc and b_dec."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "W_enc": (inputs, latents),
        "W_dec": (latents, inputs),
        "b_enc": (latents,),
        "b_dec": (inputs,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def gates(latents: int = LATENTS, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = ("b_gate", "r_mag", "b_mag")
    return {name: torch.randn(latents, generator=generator) / 2 for name in names}


def activations(*shape: int, inputs: int = INPUTS, seed: int = 2) -> Tensor:
    return torch.randn(*shape, inputs, generator=torch.Generator().manual_seed(seed))


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def _sizes(tensors: dict[str, Tensor]) -> dict[str, int]:
    inputs, latents = tensors["W_enc"].shape
    return {"d_in": inputs, "d_sae": latents}


def saelens(
    folder: Path,
    architecture: str = "standard",
    tensors: dict[str, Tensor] | None = None,
    **config: Any,
) -> dict[str, Tensor]:
    """Write a folder of SAELens 6; `config` adds to `cfg.json`, and None removes a key."""
    tensors = tensors or weights()
    if architecture == "gated" and "b_gate" not in tensors:
        tensors = {k: v for k, v in tensors.items() if k != "b_enc"} | gates()
    if "jumprelu" in architecture and "threshold" not in tensors:
        tensors["threshold"] = torch.linspace(0, 1, len(tensors["b_enc"]))
    values: dict[str, Any] = {
        **_sizes(tensors),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": "transcoder" not in architecture,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.5.0",
            "model_name": "vit",
            "hook_name": "blocks.9.hook_resid_post",
            "hook_head_index": None,
        },
        "architecture": architecture,
        **config,
    }
    write_json(folder / "cfg.json", {k: v for k, v in values.items() if v is not None})
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(3)}, folder / "sparsity.safetensors")
    return tensors


def saelens_3(folder: Path, tensors: dict[str, Tensor] | None = None, **config: Any) -> Any:
    """Write a folder of SAELens 3 to 5, whose `cfg.json` is flat."""
    return saelens(
        folder,
        tensors=tensors,
        **{
            "metadata": None,
            "sae_lens_training_version": "5.2.0",
            "activation_fn_str": "relu",
            "activation_fn_kwargs": {},
            "model_name": "vit",
            "hook_name": "blocks.9.hook_resid_post",
            "hook_layer": 9,
            "hook_head_index": None,
            "prepend_bos": False,
            **config,
        },
    )


def prisma(
    folder: Path, tensors: dict[str, Tensor] | None = None, name: str = "weights.pt", **config: Any
) -> dict[str, Tensor]:
    """Write a folder of ViT-Prisma 2."""
    tensors = tensors or weights()
    if config.get("architecture") == "gated" and "b_gate" not in tensors:
        tensors = tensors | gates()
    inputs, latents = tensors["W_enc"].shape
    values = {
        "model_name": "open-clip:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
        "hook_point_layer": 9,
        "layer_subtype": "hook_resid_post",
        "hook_point_head_index": None,
        "context_size": 50,
        "use_patches_only": False,
        "d_in": inputs,
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "cls_token_only": False,
        "normalize_activations": "layer_norm",
        "device": {"__type__": "torch.device", "value": "cuda"},
        "dtype": {"__type__": "torch.dtype", "value": "torch.float32"},
        "architecture": "standard",
        "expansion_factor": latents / inputs if latents % inputs else latents // inputs,
        "d_sae": latents,
        "is_transcoder": False,
        **config,
    }
    write_json(folder / "config.json", {k: v for k, v in values.items() if v is not None})
    torch.save(tensors, folder / name)
    return tensors


def saev(
    file: Path,
    activation: str = "Relu",
    tensors: dict[str, Tensor] | None = None,
    schema: int | None = 4,
    **params: Any,
) -> dict[str, Tensor]:
    """Write a file of saev; `schema` None: of the version before schemas."""
    tensors = tensors or weights()
    if activation == "BatchTopK" and schema is not None and schema > 2:
        tensors = {**tensors, "activation.threshold": torch.tensor(THRESHOLD)}
    inputs, latents = tensors["W_enc"].shape
    header: dict[str, Any] = {
        "d_vit": inputs,
        "exp_factor": latents // inputs,
        "sparsity_coeff": 0.0004,
        "ghost_grads": False,
        "normalize_w_dec": True,
        "seed": 0,
    }
    if schema is not None:
        cfg = {"d_model": inputs, "d_sae": latents, "normalize_w_dec": True}
        cfg["activation"] = {"cls": activation, "params": params}
        header = {"schema": schema, "cfg": cfg, "commit": "abc1234", "lib": "0.5.0"}
    return saev_file(file, header, tensors)


def saev_file(file: Path, header: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as target:
        target.write(json.dumps(header).encode() + b"\n")
        torch.save(tensors, target)
    return tensors


def dictionary_learning(
    folder: Path, dict_class: str = "AutoEncoder", k: int = 3, **trainer: Any
) -> dict[str, Tensor]:
    """Write a trainer's folder of dictionary_learning; return the tensors as stored."""
    tensors = _stored(dict_class, weights(), k)
    values = {
        "dict_class": dict_class,
        "trainer_class": "Trainer",
        "activation_dim": INPUTS,
        "dict_size": LATENTS,
        "layer": 9,
        "lm_name": "vit",
        "submodule_name": "resid_post",
        **({"k": k} if "k" in tensors else {}),
        **trainer,
    }
    write_json(folder / "config.json", {"trainer": values, "buffer": {"d_submodule": INPUTS}})
    torch.save(tensors, folder / "ae.pt")
    return tensors


def _stored(dict_class: str, w: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    tensors = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
    }
    batch = {"k": torch.tensor(k, dtype=torch.int), "threshold": torch.tensor(THRESHOLD)}
    if dict_class == "MatryoshkaBatchTopKSAE":
        return {**w, **batch, "group_sizes": torch.tensor([4, LATENTS - 4])}
    if dict_class == "JumpReluAutoEncoder":
        return {**w, "threshold": torch.linspace(0, 1, LATENTS)}
    if dict_class == "GatedAutoEncoder":
        g = gates()
        del tensors["encoder.bias"]
        named = {"gate_bias": g["b_gate"], "mag_bias": g["b_mag"], "r_mag": g["r_mag"]}
        return {**tensors, **named, "decoder_bias": w["b_dec"]}
    others: dict[str, dict[str, Tensor]] = {
        "AutoEncoder": {"bias": w["b_dec"]},
        "AutoEncoderNew": {"decoder.bias": w["b_dec"]},
    }
    return {**tensors, **others.get(dict_class, {"b_dec": w["b_dec"], **batch})}


def sparsify(
    folder: Path, tensors: dict[str, Tensor] | None = None, **config: Any
) -> dict[str, Tensor]:
    """Write a folder of sparsify; return the tensors as `weights` does."""
    tensors = tensors or weights()
    inputs, latents = tensors["W_enc"].shape
    values = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": latents,
        "k": 3,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": inputs,
        **config,
    }
    stored = {
        "encoder.weight": tensors["W_enc"].T.contiguous(),
        "encoder.bias": tensors["b_enc"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    if values["skip_connection"]:
        stored["W_skip"] = torch.eye(inputs)
    write_json(folder / "cfg.json", values)
    save_file(stored, folder / "sae.safetensors")
    return tensors


def overcomplete(
    file: Path,
    kind: str = "relu",
    archetypal: bool = False,
    tensors: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Write a state dict of overcomplete; return its tensors."""
    w = tensors or weights()
    latents, inputs = w["W_dec"].shape
    stored = {
        "encoder.final_block.0.weight": w["W_enc"].T.contiguous(),
        "encoder.final_block.0.bias": w["b_enc"],
        "dictionary.multiplier": torch.tensor(0.5),
    }
    if archetypal:
        points = activations(7, inputs=inputs, seed=4)
        shares = activations(latents, inputs=7, seed=5)
        relaxation = torch.full((latents, inputs), 0.1)
        stored |= {
            "dictionary.C": points,
            "dictionary.W": shares,
            "dictionary.Relax": relaxation,
        }
    else:
        stored["dictionary._weights"] = w["W_dec"]
    if kind == "jump":
        stored["thresholds"] = torch.linspace(-2, 0, latents)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(stored, file)
    return stored
