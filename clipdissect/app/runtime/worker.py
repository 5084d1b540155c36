"""One side of the runtime comparison, in a process of its own; `experiments.runtime` starts it.

    python -m clipdissect.app.runtime.worker CLOCK CONFIG SIDE

SIDE is `plain`, or the number of a method in `runtime.methods`. Each line of the input is a job,
each line of the output its answer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from clipdissect import method as methods
from clipdissect import similarity
from clipdissect.app.build import build_groups, of_group, settings_of
from clipdissect.app.runtime.time_slicing import PausedClock, end_with_parent
from clipdissect.errors import DissectError
from clipdissect.method import Job, Method
from clipdissect.results.run_files import write_table
from clipdissect.store import Store
from clipdissect.utils import timing as stages
from clipdissect.utils.memory import keep_memory, memory_is_kept
from clipdissect.utils.timing import Timers

PLAIN = "plain"
PLAIN_NEEDS = ("target", "probe", "concepts", "encoder", "similarity")

Do = Callable[[Path], dict[str, Any]]


def main() -> None:
    """Entry point of `python -m clipdissect.app.runtime.worker`."""
    end_with_parent()
    clock, config, side = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what else is printed must not get among the answers
    os.environ["TQDM_DISABLE"] = "1"
    stages.clock = PausedClock(Path(clock))

    def tell(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        start, given = stages.clock(), OmegaConf.load(config)
        if side != PLAIN or given.runtime.baseline_keeps_memory:
            keep_memory()  # as the command line does
        do, facts = built(given, side)
        tell({**facts, "seconds": stages.clock() - start})
        for line in sys.stdin:
            tell(timed(do, Path(json.loads(line)["folder"])))
    except DissectError as error:
        tell({"error": str(error)})


def built(config: Any, side: str) -> tuple[Do, dict[str, Any]]:
    """What a side does with a folder for its features, and facts on its parts.

    Args:
        config: the run's.
        side: as in the module's docstring.

    Raises:
        DissectError: a mistake in the config, or something isn't there.
    """
    if side == PLAIN:
        job = with_baseline_batch(config, job_of(config, PLAIN_NEEDS))
        return lambda folder: plain(job, folder), facts_of(job)
    method = method_of(config.runtime.methods[int(side)])
    job = job_of(config, method.needs)
    return lambda folder: described(method, job, folder), facts_of(job)


def method_of(given: Any) -> Method:
    """A method by name, or by `{name: ..., parameter: ...}`."""
    if isinstance(given, str):
        return methods.build(given)
    return methods.build(**OmegaConf.to_container(given, resolve=True))  # type: ignore[arg-type]


def job_of(config: Any, needs: tuple[str, ...]) -> Job:
    """The parts that are needed, built."""
    parts = build_groups(config, needs)
    if "similarity" in needs:
        parts["similarity"] = of_group(similarity.build, config.similarity)
    return Job(
        **parts, settings=settings_of(config), top=config.top, images=config.images, null=False
    )  # the plain pipeline has none


def with_baseline_batch(config: Any, job: Job) -> Job:
    """The job with the plain pipeline's batches: `runtime.baseline_batch`; where that is None,
    `capture.batch_size`, or what suits the process."""
    batch = config.runtime.baseline_batch or job.settings.batch_size
    return replace(job, settings=replace(job.settings, batch_size=batch))


def facts_of(job: Job) -> dict[str, Any]:
    """Names and sizes of the job's parts, JSON-able."""
    parts = {name: getattr(job, name) for name in PLAIN_NEEDS}
    notes = [n for p in parts.values() for n in getattr(p, "notes", ()) if p is not None]
    return {
        "names": {name: part.name for name, part in parts.items() if part is not None},
        "layers": list(job.target.layers) if job.target else [],
        "images": len(job.probe) if job.probe else None,
        "concepts": len(job.concepts) if job.concepts else None,
        "batch_size": job.settings.images_a_batch,
        "memory_kept": memory_is_kept(),
        "notes": list(dict.fromkeys(notes)),
    }


def timed(do: Do, folder: Path) -> dict[str, Any]:
    """One job: its seconds, the stages' seconds and the most memory that the process held."""
    forget_peaks()
    start = stages.clock()
    found = do(folder)
    seconds = stages.clock() - start
    write_table(folder / "descriptions.csv", found.pop("table"))
    return {"seconds": seconds, **found, **peaks()}


def described(method: Method, job: Job, folder: Path) -> dict[str, Any]:
    """Descriptions by a method, with a store in the folder."""
    result = method.describe(replace(job, store=Store(folder)))
    inner = result.run.get("seconds_of_images", {})
    spent: dict[str, float] = {}
    for name, seconds in result.run.get("seconds", {}).items():
        spent |= inner if inner and name == "images" else {name: seconds}
    return {"stages": spent, "units": len(result.descriptions), "table": result.descriptions}


def plain(job: Job, folder: Path) -> dict[str, Any]:
    """Descriptions by the plain pipeline, with its features in the folder."""
    from clipdissect.app.runtime.baseline import Plain

    assert job.target and job.probe and job.concepts and job.encoder and job.similarity
    spent = Timers()
    table = Plain(
        job.target,
        job.probe,
        job.concepts.texts,
        job.encoder,
        job.similarity,
        job.settings,
        folder,
        spent,
    ).describe()
    return {"stages": spent.seconds, "units": len(table), "table": table}


def forget_peaks() -> None:
    """Count the most memory anew from now on, where the platform can."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peaks() -> dict[str, Any]:
    """The most memory that the process held, in bytes: `ram`, and `gpu` or None."""
    import torch

    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        ram = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # not Linux: since the process began
        unit = 1 if sys.platform == "darwin" else 1024
        ram = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"ram": ram, "gpu": gpu}


if __name__ == "__main__":
    main()
