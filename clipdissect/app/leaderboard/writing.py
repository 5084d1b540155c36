"""Write and print a leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipdissect.app.console import console, print_lines, text_table
from clipdissect.app.leaderboard.board import Board
from clipdissect.app.leaderboard.figure import draw
from clipdissect.app.leaderboard.page import write_page
from clipdissect.app.scoring.job import ScoringJob
from clipdissect.app.scoring.writing import facts_of
from clipdissect.results.manifest import run_manifest
from clipdissect.results.run_files import begin, write_json, write_table
from clipdissect.scores.held_out import HeldOut
from clipdissect.scores.scoring import Scored
from clipdissect.scores.splits import write_split
from clipdissect.utils.files import write_text

WIDE = 190  # characters of a table in a file or pipe
SHOWN = 3  # scores in the printed table


def write(
    folder: Path,
    board: Board,
    job: ScoringJob,
    scored: Scored,
    held_out: HeldOut,
    metrics: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> None:
    """Write tables, figure, page, descriptions and metrics, then `run.json`."""
    run = _manifest(board, job, scored, held_out) | {"seconds": dict(seconds)}
    begin(folder)
    write_table(folder / "leaderboard.csv", board.table)
    write_text(folder / "leaderboard.md", board.markdown())
    for labels in scored.labels:
        write_table(folder / "descriptions" / f"{labels.name}.csv", labels.descriptions)
    write_split(folder, job.probe.images, job.split)
    draw(board, folder)
    write_page(folder / "index.html", board, run)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", run)


def _manifest(board: Board, job: ScoringJob, scored: Scored, held_out: HeldOut) -> dict[str, Any]:
    features, target, probe = held_out.features, held_out.target, held_out.probe
    of_scorers = [note for scorer in scored.scorers for note in scorer.facts.get("notes", ())]
    notes = dict.fromkeys([*target.notes, *probe.notes, *features.notes, *of_scorers])
    return run_manifest(
        target,
        probe,
        held_out.settings,
        images_used=len(features.images),
        skipped=features.skipped,
        notes=notes,
        digests=features.digests,
        computed=features.computed,
        fits=features.fits,
        scores=facts_of(job, scored, held_out),
        entries={
            labels.name: {key: labels.result.run.get(key) for key in ("method", "similarity")}
            for labels in scored.labels
            if labels.result
        },
        missing=board.missing,
    )


def show(board: Board, folder: Path) -> None:
    """Print a table of all layers together, or of the only one."""
    layer = board.layers[0]
    scores = board.scores(layer)[:SHOWN]
    rows = []
    for name in board.methods(layer):
        requires, seconds = board.about[name]
        texts = [board.text_of(board.cells.get((layer, name, score))) for score in scores]
        rows.append([name, requires, f"{seconds:.1f}", *texts])
    out = console(WIDE)
    headers = ("method", "takes", "seconds", *scores)
    out.print(text_table({name: {"no_wrap": True} for name in headers}, rows, layer))
    missing = [f"missing: {name}: {why}" for name, why in board.missing.items()]
    print_lines(out, [*missing, f"files: {folder}", f"page: {folder / 'index.html'}"])
