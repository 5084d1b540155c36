"""Runtime rounds of whole jobs per method, each side in its own process; microbenchmarks.

    python -m clipdissect.app.runtime.rounds CLOCK CONFIG SIDE

SIDE is `plain` or an index in `runtime.methods`. Each input line is a job, each output
line its answer."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd
import torch
from omegaconf import OmegaConf

from clipdissect import method as methods
from clipdissect import similarity
from clipdissect.app.build import build_group, build_groups, settings_of
from clipdissect.app.runtime import microbenchmarks
from clipdissect.app.runtime.microbenchmarks import (
    OURS,
    PLAIN,
    peak_memory,
    plain_pipeline,
    reset_peak_memory,
)
from clipdissect.app.runtime.time_slicing import (
    PausedClock,
    PausedProcess,
    alternate,
    end_with_parent,
)
from clipdissect.capture.settings import batch_on_cpu
from clipdissect.errors import DissectError
from clipdissect.method import Job, Method
from clipdissect.results.run_files import write_table
from clipdissect.store import Store
from clipdissect.utils import timing
from clipdissect.utils.memory import kept_memory, memory_is_kept
from clipdissect.utils.timing import Timers

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
                clock = self.scratch / f"{name}.clock"
                module = "clipdissect.app.runtime.rounds"
                processes.append(PausedProcess(name, module, arguments, clock))
                self.facts[name] = processes[-1].turn(None)  # the networks are loaded
                processes[-1].pause()
            numbers = range(1, self.options.rounds + 1)
            stores = [("warm-up", 0), *product(("cold", "warm"), numbers)]
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
        frame: pd.DataFrame = pd.DataFrame()
        return frame
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
    return pd.concat([scoring, passes], ignore_index=True)


PLAIN_NEEDS = ("target", "probe", "concepts", "encoder", "similarity")

Work = Callable[[Path], dict[str, Any]]


def main() -> None:
    end_with_parent()
    clock, config_file, side = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # other output must not get among the answers
    os.environ["TQDM_DISABLE"] = "1"
    timing.clock = PausedClock(Path(clock))

    def answer(values: Mapping[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        start, config = timing.clock(), OmegaConf.load(config_file)
        keeps = side != PLAIN or config.runtime.baseline_keeps_memory
        with kept_memory() if keeps else nullcontext():  # as the command line does
            work, facts = build_side(config, side)
            answer({**facts, "seconds": timing.clock() - start})
            for line in sys.stdin:
                answer(timed(work, Path(json.loads(line)["folder"])))
    except DissectError as error:
        answer({"error": str(error)})


def build_side(config: Any, side: str) -> tuple[Work, dict[str, Any]]:
    """Return a side's function of a folder for its features, and facts on its parts."""
    if side == PLAIN:
        job = with_baseline_batch(config, job_of(config, PLAIN_NEEDS))
        return lambda folder: _describe_plainly(job, folder), facts_of(job)
    entry = config.runtime.methods[int(side)]
    method: Method = (
        methods.build(entry) if isinstance(entry, str) else build_group(methods.build, entry)
    )
    job = job_of(config, method.needs)
    return lambda folder: _describe(method, job, folder), facts_of(job)


def job_of(config: Any, needs: tuple[str, ...]) -> Job:
    """Build the parts in `needs`, without shuffled scores, which the plain pipeline lacks."""
    parts = build_groups(config, needs)
    for name in {"target", "encoder"} & parts.keys():
        _ = parts[name].preprocess  # builds a lazy one: loading isn't counted
    if "similarity" in needs:
        parts["similarity"] = build_group(similarity.build, config.similarity)
    settings = settings_of(config)
    return Job(**parts, settings=settings, top=config.top, images=config.images, null=False)


def with_baseline_batch(config: Any, job: Job) -> Job:
    """Set the plain pipeline's batch size: `runtime.baseline_batch`, else the job's own."""
    batch = config.runtime.baseline_batch or job.settings.batch_size
    if batch is None and torch.device(job.settings.torch_device).type == "cpu":
        batch = batch_on_cpu(memory_is_kept())
    return replace(job, settings=replace(job.settings, batch_size=batch))


def facts_of(job: Job) -> dict[str, Any]:
    parts = {name: part for name in PLAIN_NEEDS if (part := getattr(job, name)) is not None}
    notes = [note for part in parts.values() for note in getattr(part, "notes", ())]
    return {
        "names": {name: part.name for name, part in parts.items()},
        "layers": list(job.target.layers) if job.target else [],
        "images": len(job.probe) if job.probe else None,
        "concepts": len(job.concepts) if job.concepts else None,
        "batch_size": job.settings.images_a_batch,
        "memory_kept": memory_is_kept(),
        "notes": list(dict.fromkeys(notes)),
    }


def timed(work: Work, folder: Path) -> dict[str, Any]:
    """Return a job's peak memory, and its seconds in all and by stage."""
    reset_peak_memory()
    start = timing.clock()
    answer = work(folder)
    seconds = timing.clock() - start
    write_table(folder / "descriptions.csv", answer.pop("table"))
    return {"seconds": seconds, **answer, **peak_memory()}


def _describe(method: Method, job: Job, folder: Path) -> dict[str, Any]:
    result = method.describe(replace(job, store=Store(folder)))
    of_images = result.run.get("seconds_of_images", {})
    stages: dict[str, float] = {}
    for name, seconds in result.run.get("seconds", {}).items():
        stages |= of_images if of_images and name == "images" else {name: seconds}
    table = result.descriptions
    return {"stages": stages, "units": len(table), "table": table}


def _describe_plainly(job: Job, folder: Path) -> dict[str, Any]:
    timers = Timers()
    table = plain_pipeline(job, folder, timers).describe()
    return {"stages": timers.seconds, "units": len(table), "table": table}


if __name__ == "__main__":
    main()
