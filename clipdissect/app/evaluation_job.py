"""What an evaluation needs, as the config has it: the method's parts, the truth, the encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect import sentence, similarity, targets, tracking
from clipdissect.app.build import build_groups, of_group, parameters, settings_of, store_of
from clipdissect.datasets import places365
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation import ClassLabels, Resampling, Units
from clipdissect.evaluation.truth import of_source, of_target
from clipdissect.method import Job, Method
from clipdissect.sentence import SentenceEncoder
from clipdissect.utils.distributed import from_environment
from clipdissect.utils.paths import data_places

Sentences = dict[str, SentenceEncoder | MissingResource]


def job_and_truth(config: Any, method: Method) -> tuple[Job, ClassLabels]:
    """What the method needs, with the layer of classes as the one to describe; and the classes.

    Raises:
        DissectError: a mistake in the config, or one message on all that is missing.
    """
    settings = settings_of(config)
    of_group(tracking.build, config.tracking)  # a mistake there must not wait for the end
    needed: dict[str, Any] = {}
    if "similarity" in method.needs:
        needed["similarity"] = of_group(similarity.build, config.similarity)
    job = Job(settings=settings, store=store_of(config), top=config.top, images=config.images,
              null=config.null_similarity, team=from_environment())  # fmt: skip
    needed |= build_groups(config, method.needs)
    truth = truth_of(config, needed.get("target"))
    if "target" in needed:
        needed["target"] = replace(needed["target"], layers=(str(truth.layer),))
        needed["truth"] = {str(truth.layer): truth.names}
    return replace(job, **needed), truth


def truth_of(config: Any, built: targets.Target | None) -> ClassLabels:
    """The classes: of `evaluation.truth`, else the target's own, else what its name promises.

    Args:
        config: the run's.
        built: the target, where the method needs one.

    Raises:
        DissectError: nothing says what the classes are, or they can't be had.
    """
    source, layer = config.evaluation.truth, config.evaluation.layer
    if source == "auto" and built is not None:
        return of_target(built, layer)
    layer = layer or (built.class_layer if built else None)
    if built is not None and layer is None:
        raise DissectError(f"target {built.name} doesn't say which layer's units are classes: set "
                           f"evaluation.layer")  # fmt: skip
    chosen = config.target
    if source == "auto":
        source = chosen.get("classes") or (
            "places365" if "places365" in chosen.name else "imagenet"
        )
    return of_source(source, layer, chosen.get("categories"))


def sentences_of(config: Any) -> Sentences:
    """The sentence encoders of the group and of `evaluation.sentences`, by name.

    One that can't be had stands there with the reason, under the name that it would have.

    Raises:
        DissectError: an unknown name or parameter.
    """
    wanted = [parameters(config.sentence)]
    for entry in config.evaluation.sentences:
        wanted.append({"name": entry} if isinstance(entry, str) else parameters(entry))
    found: Sentences = {}
    for values in wanted:
        if "name" not in values:
            raise DissectError(f"evaluation.sentences: {values} has no name")
        try:
            encoder = sentence.build(**values)
            found[encoder.name] = encoder
        except MissingResource as error:
            found[_name(values)] = error
    return found


def resampling_of(config: Any) -> Resampling:
    """How intervals are made."""
    own = config.evaluation
    return Resampling(own.resamples, own.confidence, own.seed)


def scenes_of(config: Any) -> Sequence[str] | None:
    """Broden's scene labels; None where Broden isn't here.

    Raises:
        MissingResource: `evaluation.broden` is set, but isn't there.
    """
    if config.evaluation.broden:
        return places365.scene_labels(config.evaluation.broden)
    for place in data_places():
        try:
            return places365.scene_labels(place / "broden1_224")
        except MissingResource:
            continue
    return None


def earlier(config: Any) -> dict[str, Units]:
    """The units of the runs to compare with, by folder.

    Raises:
        MissingResource: a folder has no complete run of this runner.
    """
    found = {}
    for folder in parameters(config.evaluation)["against"]:
        path = Path(folder).expanduser()
        if not (path / "run.json").is_file() or not (path / "units.csv").is_file():
            raise MissingResource(
                "the run to compare with",
                [str((path / "units.csv").absolute())],
                "evaluation.against lists folders of complete runs of final_layer",
            )
        table = pd.read_csv(path / "units.csv", keep_default_na=False, dtype=str)
        texts = {"layer", "truth", "description"}
        numbers = {str(c): pd.to_numeric(table[c]) for c in table if c not in texts}
        found[str(folder)] = Units(table.assign(**numbers), {})
    return found


def _name(values: dict[str, Any]) -> str:
    """What an encoder that can't be had would be called."""
    if values["name"] == "clip_text":
        return str(values.get("encoder", "clip_vit_b16"))
    path = values.get("path")
    return Path(path).name if values["name"] == "local" and path else str(values["name"])
