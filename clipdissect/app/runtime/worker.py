"""One side of the runtime comparison in its own process, started by `runtime.rounds`.

    python -m clipdissect.app.runtime.worker CLOCK CONFIG SIDE

SIDE is `plain` or an index in `runtime.methods`. Each input line is a job, each output
line its answer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from clipdissect import method as methods
from clipdissect import similarity
from clipdissect.app.build import build_groups, of_group, settings_of
from clipdissect.app.runtime.microbenchmarks import plain_pipeline
from clipdissect.app.runtime.time_slicing import PausedClock, end_with_parent
from clipdissect.app.runtime.timing import PLAIN, peak_memory, reset_peak_memory
from clipdissect.errors import DissectError
from clipdissect.method import Job, Method
from clipdissect.results.run_files import write_table
from clipdissect.store import Store
from clipdissect.utils import timing
from clipdissect.utils.memory import keep_memory, memory_is_kept
from clipdissect.utils.timing import Timers

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
        if side != PLAIN or config.runtime.baseline_keeps_memory:
            keep_memory()  # as the command line does
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
    method = _method_of(config.runtime.methods[int(side)])
    job = job_of(config, method.needs)
    return lambda folder: _describe(method, job, folder), facts_of(job)


def _method_of(entry: Any) -> Method:
    if isinstance(entry, str):
        return methods.build(entry)
    method: Method = of_group(methods.build, entry)
    return method


def job_of(config: Any, needs: tuple[str, ...]) -> Job:
    """Build the parts in `needs`, without shuffled scores, which the plain pipeline lacks."""
    parts = build_groups(config, needs)
    if "similarity" in needs:
        parts["similarity"] = of_group(similarity.build, config.similarity)
    settings = settings_of(config)
    return Job(**parts, settings=settings, top=config.top, images=config.images, null=False)


def with_baseline_batch(config: Any, job: Job) -> Job:
    """Set the plain pipeline's batch size: `runtime.baseline_batch`, else the job's own."""
    batch = config.runtime.baseline_batch or job.settings.batch_size
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
