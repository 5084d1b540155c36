"""Seconds, images/s, units/s and memory of the methods, and of the published pipeline (Table 4).

Every method of `runtime.methods` describes all units of the target's layers, with an empty store
(cold) and with a full one (warm), after a warm-up, `runtime.rounds` times each. CLIP-Dissect and a
plain implementation of the published pipeline take turns of a second, because a machine's speed
drifts; so do short pieces at several sizes, for how the time grows. Weights may be random
(target.weights=random encoder=open_clip encoder.pretrained=random): speed doesn't depend on them.
Writes runtime.csv, pieces.csv, runtime.md, runtime.png and .pdf, metrics.json and, last, run.json
to <paths.results>/runtime/<date>_<time>/, and prints the tables.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clipdissect.app.launch import launch, results_folder

log = logging.getLogger("clipdissect.runtime")  # also where it runs as __main__

OURS, PLAIN = "clip_dissect", "plain"


def run(config: Any) -> None:
    """One measurement as configured."""
    from clipdissect.app.build import track
    from clipdissect.app.runtime import report
    from clipdissect.app.runtime.figure import figure
    from clipdissect.results.run_files import begin, write_json, write_table
    from clipdissect.utils.files import write_text

    folder, facts = results_folder(), manifest(config)
    with TemporaryDirectory(prefix="clipdissect-runtime-") as scratch:
        found = _Measured(config, Path(scratch))
    rounds = found.table()
    begin(folder)
    write_table(folder / "runtime.csv", rounds)  # kept whatever becomes of the pieces
    pieces = measured_pieces(config)
    write_table(folder / "pieces.csv", pieces)
    facts |= {"sides": found.facts, "not_run": found.failed}
    metrics = report.metrics(rounds, pieces, facts, found.agreement)
    text = report.markdown(metrics, facts)
    write_text(folder / "runtime.md", text)
    figure(metrics, pieces, folder)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", facts)
    print(text, f"files: {folder}", sep="\n")
    track(config, folder, metrics)


class _Measured:
    """All methods' rounds: what each side answered."""

    def __init__(self, config: Any, scratch: Path) -> None:
        from omegaconf import OmegaConf

        from clipdissect.errors import DissectError

        self.config, self.scratch = config, scratch
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self.agreement: float | None = None
        plain = OmegaConf.create(
            OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        )
        OmegaConf.save(plain, scratch / "config.yaml")
        for group in groups_of(config.runtime):
            try:
                self._measure(group)
            except DissectError as error:
                if PLAIN in group:
                    raise
                self.failed.update(dict.fromkeys(group, str(error)))

    def table(self) -> Any:
        """One row a method, store and round; a column `stage_<name>` for each stage."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def _measure(self, group: dict[str, str]) -> None:
        """The rounds of sides that take turns: name to the worker's side."""
        from shutil import rmtree

        from clipdissect.app.runtime.time_slicing import Side, alternate

        sides: list[Side] = []
        try:
            for name, side in group.items():
                clock = self.scratch / f"{name}.clock"
                sides.append(
                    Side(
                        name,
                        "clipdissect.app.runtime.worker",
                        [str(self.scratch / "config.yaml"), side],
                        clock,
                        environment_of(name, self.config.runtime),
                    )
                )
                self.facts[name] = sides[-1].turn(None)  # it is loaded
                sides[-1].pause()
            for store, number in rounds_of(self.config.runtime.rounds):
                log.info("%s, store %s, round %d", " and ".join(group), store, number)
                folders = [self._folder(name, store, number) for name in group]
                answers = alternate(
                    sides, [{"folder": str(f)} for f in folders], self.config.runtime.slice
                )
                self._keep(list(group), store, number, answers, folders)
                if store == "cold":
                    for folder in folders:
                        rmtree(folder)
        finally:
            for each in sides:
                each.close()

    def _folder(self, side: str, store: str, number: int) -> Path:
        """Of a side's features: one for the warm-up and the warm rounds, others for cold ones."""
        folder = self.scratch / side / (f"cold{number}" if store == "cold" else "kept")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _keep(
        self, names: list[str], store: str, number: int, answers: list[Any], folders: list[Path]
    ) -> None:
        if store == "warm-up":
            self.agreement = agreement(folders) if len(folders) > 1 else self.agreement
            return
        for name, answer in zip(names, answers, strict=True):
            spent = answer.pop("stages")
            rest = answer["seconds"] - sum(spent.values())
            each = {f"stage_{stage}": value for stage, value in {**spent, "other": rest}.items()}
            images = self.facts[name]["images"]
            self.rows.append(
                {
                    "method": name,
                    "store": store,
                    "round": number,
                    "images": images,
                    **answer,
                    **each,
                }
            )


def groups_of(runtime: Any) -> list[dict[str, str]]:
    """Sides that take turns: name to the worker's name of it. CLIP-Dissect and the baseline do.

    Raises:
        DissectError: a method is listed twice, or none is.
    """
    from clipdissect.errors import DissectError

    for one in runtime.methods:
        if not isinstance(one, str) and not hasattr(one, "get"):
            raise DissectError(f"runtime.methods lists names and {{name: ...}}; got {one!r}")
    names = [one if isinstance(one, str) else str(one.get("name")) for one in runtime.methods]
    if not names or len(set(names)) < len(names):
        raise DissectError(f"runtime.methods lists methods, each once; got {names}")
    groups = [{name: str(number)} for number, name in enumerate(names)]
    for group in groups:
        if runtime.baseline and OURS in group:
            group[PLAIN] = PLAIN
    return groups


def environment_of(name: str, runtime: Any) -> dict[str, str]:
    """The environment of a side's process: the command line's, whose large pages the plain pipeline
    doesn't take unless it is to keep memory."""
    from clipdissect.utils.memory import LARGE_PAGES

    if name != PLAIN or runtime.baseline_keeps_memory:
        return {**os.environ, LARGE_PAGES: "1"}
    return {key: value for key, value in os.environ.items() if key != LARGE_PAGES}


def rounds_of(count: int) -> list[tuple[str, int]]:
    """Store and number of each round; the first warms up and fills the store."""
    numbers = range(1, count + 1)
    return [("warm-up", 0), *(("cold", n) for n in numbers), *(("warm", n) for n in numbers)]


def agreement(folders: list[Path]) -> float:
    """The share of units to which two sides give the same description, of those that have one."""
    import pandas as pd

    tables = [pd.read_csv(folder / "descriptions.csv", keep_default_na=False) for folder in folders]
    one, other = (t.set_index(["layer", "unit"])["description"].astype(str) for t in tables)
    one = one[one != ""]  # we don't describe dead units
    return float((one == other.reindex(one.index)).mean())


def measured_pieces(config: Any) -> Any:
    """Short pieces at several sizes; an empty table where none are asked for."""
    import pandas as pd

    from clipdissect.app.runtime import microbenchmarks as pieces
    from clipdissect.app.runtime.worker import PLAIN_NEEDS, job_of, with_baseline_batch

    own = config.runtime
    if not own.repeats:
        return pd.DataFrame()
    logging.getLogger("clipdissect.capture.dataloader").setLevel(
        logging.WARNING
    )  # a line for each piece
    job = job_of(config, PLAIN_NEEDS)
    assert job.similarity and job.encoder
    dims = job.encoder.embed_texts(["a"], job.settings.torch_device).shape[1]
    sizes = {axis: list(own[axis]) for axis in pieces.AXES}
    log.info("pieces: scoring")
    scoring = pieces.scoring(job.similarity, sizes, dict(own.base), dims, own.repeats, own.baseline)
    log.info("pieces: passes over images")
    plain = with_baseline_batch(config, job) if own.baseline else None
    passes = pieces.passes(job, list(own.pass_images), own.repeats, plain)
    return pd.concat([scoring, passes], ignore_index=True)


def manifest(config: Any) -> dict[str, Any]:
    """What was run on what."""
    from datetime import datetime

    from omegaconf import OmegaConf

    from clipdissect.app.build import settings_of
    from clipdissect.results.provenance import git_state, machine, versions

    settings = settings_of(config)
    chosen: Any = OmegaConf.to_container(config, resolve=True)
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {**machine(), "processor": processor()},
        "git": git_state(Path(__file__).parents[1]),
        "device": settings.torch_device,
        "precision": settings.numeric,
        "runtime": chosen["runtime"],
        "similarity": chosen["similarity"],
        "target": chosen["target"]["name"],
        "encoder": chosen["encoder"]["name"],
    }


def processor() -> str:
    """The processor's name, as far as the platform tells it."""
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def main() -> None:
    """Entry point of `python -m experiments.runtime` and `clipdissect runtime`."""
    launch(run, "runtime")


if __name__ == "__main__":
    main()
