"""What a network's modules return, seen on one blank image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipdissect.errors import DissectError
from clipdissect.forward import run_network
from clipdissect.hooks import context_of, has_class_token
from clipdissect.layers import kind_of
from clipdissect.summary import Context, Summary, describe_output, summarise
from clipdissect.target import Target

BLANK = 256  # side of the image, before the target's own preprocessing


@dataclass
class ModuleFacts:
    """One module of a network.

    Args:
        name: dotted.
        kind: its class.
        runs: how often it ran in the pass.
        output: the shape or parts of what it returned, where it ran.
        units: how many units its summary has; None where it can't be dissected.
        problem: why not.
    """

    name: str
    kind: str
    runs: int = 0
    output: str = ""
    units: int | None = None
    problem: str = ""


@torch.no_grad()
def survey(target: Target, summary: Summary | None = None) -> list[ModuleFacts]:
    """All modules of a target with their outputs and unit counts, in the network's order.

    A module can be dissected if it runs once in a pass and returns a tensor of 2 to 4 dimensions.

    Args:
        target: the network and its preprocessing.
        summary: how activations are summed up; `auto` by default.

    Raises:
        DissectError: the network fails on an image of its own preprocessing.
    """
    summary = summary or Summary()
    image = target.preprocess(Image.new("RGB", (BLANK, BLANK), (128, 128, 128)))[None]
    floating = (p for p in target.model.parameters() if p.is_floating_point())
    like = next(floating, image)
    size = (image.shape[-2], image.shape[-1])
    with _watched(target.model, summary, size) as found:
        run_network(target.model, image.to(like.device, like.dtype))
    for module in found:
        if module.runs != 1:
            module.units = None
            module.problem = "not run" if not module.runs else f"runs {module.runs} times"
    return found


@contextmanager
def _watched(
    model: nn.Module, summary: Summary, size: tuple[int, int]
) -> Iterator[list[ModuleFacts]]:
    """The modules, to be filled by a pass within the block."""
    found, handles = [], []
    with_token = has_class_token(model)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for name, module in model.named_modules(remove_duplicate=False):
            if not name:
                continue
            entry = ModuleFacts(name, kind_of(module))
            context = replace(context_of(name, module, with_token), input_size=size)
            found.append(entry)
            handles.append(module.register_forward_hook(partial(_hook, entry, summary, context)))
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training


def _hook(
    entry: ModuleFacts,
    summary: Summary,
    context: Context,
    module: nn.Module,
    inputs: Any,
    output: Any,
) -> None:
    entry.runs += 1
    entry.output = describe_output(output).removeprefix("a tensor ")
    if not isinstance(output, Tensor):
        entry.problem = f"no tensor{': select a part, such as [0]' if output else ''}"
        return
    if not output.ndim or len(output) != 1:
        entry.problem = "the first dimension isn't the images"
        return
    try:
        entry.units = summarise(output, summary, context).shape[1]
    except DissectError as error:
        entry.problem = str(error).split(" returns ")[-1]
