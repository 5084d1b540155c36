"""Read sparse autoencoders of saev: one file with a line of JSON before the state dict."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.models import checkpoints
from clipdissect.sae.base import Sae
from clipdissect.sae.modules import Activation, LinearSae, Relu, Threshold, TopK
from clipdissect.sae.reading import Config, Files, Tensors, as_sae, check_k, locate

LOOKS = "saev: one file, such as sae.pt, whose first line is JSON"
SCHEMAS = range(1, 6)
MAX_HEADER = 1 << 20  # bytes
ACTIVATIONS = ("Relu", "TopK", "BatchTopK")
DEFAULT_K = 32  # of saev
OLD_NOTE = (
    "the file is of saev before its schema 1: the decoder's bias is subtracted from activations, "
    "as that version did in training; later versions of saev read such files without it "
    "(sae=saev sae.subtract_bias=false)"
)


def fits(files: Files) -> bool:
    candidates = files.candidates()
    return len(candidates) == 1 and _first_line(candidates[0]) is not None


def saev(path: str, layer: str | None = None, subtract_bias: bool | None = None) -> Sae:
    """Return a sparse autoencoder that saev saved.

    Args:
        path: the file, or a folder with no other weights.
        layer: the target's layer that it encodes; the file doesn't say.
        subtract_bias: whether the decoder's bias is subtracted from activations; default: only
            for files without a schema, whose version of saev did so.

    Raises:
        MissingResource: no such file.
        DissectError: no header, an activation or schema that isn't supported, or sizes that don't
            agree.
    """
    files = locate(path)
    file = files.only_weights(LOOKS)
    checkpoints.check_file(file, "the file of saev")
    line = _first_line(file)
    if line is None:
        raise DissectError(f"{file} doesn't start with a line of JSON, as files of saev do")
    header = Config(_json(line, file), f"the header of {file}")
    schema = header.whole("schema")
    if schema is not None and schema not in SCHEMAS:
        raise DissectError(
            f"{file}: schema {schema} of saev isn't supported; {SCHEMAS[0]} to {SCHEMAS[-1]} are"
        )
    config = header if schema is None else header.part("cfg")
    name, top_k = _activation_of(header, config)
    tensors = Tensors(_state(file, len(line)), file, f"sparse autoencoder of saev ({name})")
    is_old = schema is None
    module = _module(
        name, top_k, config, tensors, is_old if subtract_bias is None else subtract_bias
    )
    facts = {"architecture": name, "k": top_k if name != "Relu" else None}
    versions = {"schema": schema, "version": header.text("lib"), "commit": header.text("commit")}
    notes = (OLD_NOTE,) if is_old and subtract_bias is None else ()
    return as_sae(files, "saev", module, layer, facts=facts | versions, notes=notes)


def _first_line(file: Path) -> bytes | None:
    """Return the first line if it may be JSON, with its end."""
    with file.open("rb") as source:
        line = source.readline(MAX_HEADER) if source.read(1) == b"{" else b""
    return b"{" + line if line.endswith(b"\n") else None


def _json(line: bytes, file: Path) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DissectError(f"{file}: its first line isn't valid JSON: {error}") from error


def _state(file: Path, start: int) -> dict[str, Tensor]:
    with file.open("rb") as source:
        source.seek(start)
        data = io.BytesIO(source.read())
    try:
        state = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds
        raise DissectError(
            f"{file}: no state dict that can be read safely follows its first line: "
            f"{checkpoints.load_failure(error)}. Download or copy it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DissectError(f"{file}: its first line isn't followed by a state dict")
    return state


def _activation_of(header: Config, config: Config) -> tuple[str, int]:
    """Return the activation's name and k, which early files of schema 1 have in other places."""
    activation = config.part("activation")
    if activation.values:
        name, k = activation.text("cls"), activation.part("params").whole("top_k")
    else:
        name, k = header.text("cls") or "Relu", config.whole("top_k")
    if name not in ACTIVATIONS:
        raise DissectError(
            f"{header.source}: the activation {name} isn't supported; {', '.join(ACTIVATIONS)} are"
        )
    return name, DEFAULT_K if k is None else k


def _module(
    name: str, top_k: int, config: Config, tensors: Tensors, subtract_bias: bool
) -> LinearSae:
    weight, bias = tensors.take("W_enc", "inputs", "latents"), tensors.take("b_enc", "latents")
    decoder, decoder_bias = tensors.decoder()
    key = "d_model" if "d_model" in config.values else "d_vit"
    inputs, factor = config.whole(key), config.whole("exp_factor")
    tensors.agree("inputs", inputs, f"{key} in {config.source}")
    tensors.agree("latents", config.whole("d_sae"), f"d_sae in {config.source}")
    if inputs and factor and "d_sae" not in config.values:
        tensors.agree("latents", inputs * factor, f"exp_factor {factor} in {config.source}")
    activation = _activation(name, top_k, tensors, config)
    tensors.finish()
    subtracted = decoder_bias if subtract_bias else None
    return LinearSae(weight, bias, activation, decoder, decoder_bias, subtracted=subtracted)


def _activation(name: str, top_k: int, tensors: Tensors, config: Config) -> Activation:
    if name == "Relu":
        return Relu()
    # Before schema 3, batch top-k had no threshold for inference.
    if name == "BatchTopK" and "activation.threshold" in tensors:
        return Threshold(tensors.take("activation.threshold"))
    return TopK(check_k(top_k, tensors, config.source), signed=True)
