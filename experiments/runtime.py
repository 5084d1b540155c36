"""Seconds, images/s, units/s and memory of the methods, and of the published pipeline (Table 4).

Every method of `runtime.methods` describes all units of the target's layers, with an empty store
(cold) and with a full one (warm), after a warm-up, `runtime.rounds` times each. CLIP-Dissect and a
plain implementation of the published pipeline take turns of a second, because a machine's speed
drifts; so do microbenchmarks at several sizes, for the growth with size. Weights may be random
(target.weights=random encoder=open_clip encoder.pretrained=random): speed doesn't depend on them.
Writes runtime.csv, pieces.csv, runtime.md, runtime.png and .pdf, metrics.json and, last, run.json
to <paths.results>/runtime/<date>_<time>/, and prints the tables.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clipdissect.app.launch import launch, results_folder


def run(config: Any) -> None:
    import pandas as pd

    from clipdissect.app.build import save
    from clipdissect.app.runtime import report
    from clipdissect.app.runtime.rounds import Rounds, measure_pieces
    from clipdissect.results.run_files import begin, write_table
    from clipdissect.utils.files import write_text

    folder, facts = results_folder(), report.manifest(config)
    with TemporaryDirectory(prefix="clipdissect-runtime-") as scratch:
        measured = Rounds(config, Path(scratch))
    rounds = pd.DataFrame(measured.rows)
    begin(folder)
    write_table(folder / "runtime.csv", rounds)  # even if the pieces fail
    pieces = measure_pieces(config)
    write_table(folder / "pieces.csv", pieces)
    facts |= {"sides": measured.facts, "not_run": measured.failed}
    metrics = report.metrics(rounds, pieces, facts, measured.agreement)
    text = report.markdown(metrics, facts)
    write_text(folder / "runtime.md", text)
    report.figure(metrics, pieces, folder)
    print(text)
    save(config, folder, {}, metrics, facts)


def main() -> None:
    launch(run, "runtime")


if __name__ == "__main__":
    main()
