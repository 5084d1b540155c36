"""Rounds of whole jobs per method with an empty and a full store; microbenchmarks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from clipdissect.app.runtime import microbenchmarks
from clipdissect.app.runtime.time_slicing import PausedProcess, alternate
from clipdissect.app.runtime.timing import OURS, PLAIN
from clipdissect.app.runtime.worker import PLAIN_NEEDS, job_of, with_baseline_batch
from clipdissect.errors import DissectError
from clipdissect.utils.memory import LARGE_PAGES

log = logging.getLogger(__name__)


class Rounds:
    """Measurements of all methods; `failed` says why methods can't run.

    `rows` are per method, store and round, with `stage_<name>`; `facts` are per side.
    """

    def __init__(self, config: Any, scratch: Path) -> None:
        self.options, self.scratch = config.runtime, scratch
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self.agreement: float | None = None
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        OmegaConf.save(OmegaConf.create(resolved), scratch / "config.yaml")
        for group in groups_of(config.runtime):
            try:
                self._measure(group)
            except DissectError as error:
                if PLAIN in group:
                    raise
                self.failed.update(dict.fromkeys(group, str(error)))

    def _measure(self, group: Mapping[str, str]) -> None:
        processes: list[PausedProcess] = []
        try:
            for name, side in group.items():
                arguments = [str(self.scratch / "config.yaml"), side]
                clock, environment = (
                    self.scratch / f"{name}.clock",
                    environment_of(name, self.options),
                )
                module = "clipdissect.app.runtime.worker"
                processes.append(PausedProcess(name, module, arguments, clock, environment))
                self.facts[name] = processes[-1].turn(None)  # the networks are loaded
                processes[-1].pause()
            numbers = range(1, self.options.rounds + 1)
            stores = [
                ("warm-up", 0),
                *(("cold", n) for n in numbers),
                *(("warm", n) for n in numbers),
            ]
            for store, number in stores:  # the warm-up fills the store of the warm rounds
                log.info("%s, store %s, round %d", " and ".join(group), store, number)
                self._round(processes, store, number)
        finally:
            for process in processes:
                process.close()

    def _round(self, processes: Sequence[PausedProcess], store: str, number: int) -> None:
        subfolder = f"cold{number}" if store == "cold" else "kept"
        folders = [self.scratch / process.name / subfolder for process in processes]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        messages = [{"folder": str(folder)} for folder in folders]
        answers = alternate(processes, messages, self.options.slice)
        if store == "warm-up":
            self.agreement = agreement(folders) if len(folders) > 1 else self.agreement
            return
        for process, answer in zip(processes, answers, strict=True):
            stages = answer.pop("stages")
            stages["other"] = answer["seconds"] - sum(stages.values())
            row = {"method": process.name, "store": store, "round": number}
            row |= {"images": self.facts[process.name]["images"], **answer}
            self.rows.append(row | {f"stage_{name}": value for name, value in stages.items()})
        if store == "cold":
            for folder in folders:
                rmtree(folder)


def groups_of(options: Any) -> list[dict[str, str]]:
    """Return groups of sides that take turns: CLIP-Dissect and the baseline, others alone."""
    for entry in options.methods:
        if not isinstance(entry, str) and not hasattr(entry, "get"):
            raise DissectError(f"runtime.methods lists names and {{name: ...}}; got {entry!r}")
    names = [
        entry if isinstance(entry, str) else str(entry.get("name")) for entry in options.methods
    ]
    if not names or len(set(names)) < len(names):
        raise DissectError(f"runtime.methods lists methods, each once; got {names}")
    groups = [{name: str(index)} for index, name in enumerate(names)]
    for group in groups:
        if options.baseline and OURS in group:
            group[PLAIN] = PLAIN
    return groups


def environment_of(name: str, options: Any) -> dict[str, str]:
    """Return a side's environment; huge pages for the plain pipeline only if it keeps memory."""
    environment = {key: value for key, value in os.environ.items() if key != LARGE_PAGES}
    if name != PLAIN or options.baseline_keeps_memory:
        environment[LARGE_PAGES] = "1"
    return environment


def agreement(folders: Sequence[Path]) -> float:
    """Return the share of equal descriptions among the units that the first describes."""
    tables = [pd.read_csv(folder / "descriptions.csv", keep_default_na=False) for folder in folders]
    ours, other = (t.set_index(["layer", "unit"])["description"].astype(str) for t in tables)
    ours = ours[ours != ""]  # dead units have no description
    return float((ours == other.reindex(ours.index)).mean())


def measure_pieces(config: Any) -> pd.DataFrame:
    """Run the microbenchmarks; return an empty table if none are configured."""
    options = config.runtime
    if not options.repeats:
        empty: pd.DataFrame = pd.DataFrame()
        return empty
    # The data loader logs a line per pass.
    logging.getLogger("clipdissect.capture.dataloader").setLevel(logging.WARNING)
    job = job_of(config, PLAIN_NEEDS)
    assert job.similarity and job.encoder
    dims = job.encoder.embed_texts(["a"], job.settings.torch_device).shape[1]
    sizes = {axis: list(options[axis]) for axis in microbenchmarks.AXES}
    base, repeats = dict(options.base), options.repeats
    log.info("microbenchmarks: scoring")
    scoring = microbenchmarks.scoring(job.similarity, sizes, base, dims, repeats, options.baseline)
    log.info("microbenchmarks: passes over images")
    plain = with_baseline_batch(config, job) if options.baseline else None
    passes = microbenchmarks.passes(job, list(options.pass_images), repeats, plain)
    pieces: pd.DataFrame = pd.concat([scoring, passes], ignore_index=True)
    return pieces
