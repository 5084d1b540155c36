"""Compare methods: every entry's descriptions of the same layers by every score.

clipdissect leaderboard experiment=leaderboard_offline
clipdissect leaderboard probe=imagenet_val scorer.encoder=NAME \\
    "+leaderboard.entries={lp: {similarity: lp}, linear: {method: linear}}"

leaderboard.entries maps a name to options of dissect; the first one is what others are compared
with. Every method describes units from 70 % of the images and is scored on 20 %, as by score, next
to control labels. Methods that lack an input are listed with the reason.

Writes leaderboard.csv (a row per method, layer and score), leaderboard.md, leaderboard.png,
index.html, metrics.json, split.csv, descriptions/<method>.csv and, last, run.json to
<paths.results>/leaderboard/<date>_<time>/, and prints a table.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import launch, results_folder

UNUSED = {
    "run": "leaderboard makes its labels by leaderboard.entries",
    "against": "leaderboard compares leaderboard.entries",
    "method": "leaderboard takes methods from leaderboard.entries",
    "objective": "only dissect has one",
    "report": "leaderboard writes a page of its own",
}


def run(config: Any) -> None:
    from clipdissect.app.build import track
    from clipdissect.app.leaderboard.board import Board
    from clipdissect.app.leaderboard.entries import describe_all, read_entries
    from clipdissect.app.leaderboard.writing import show, write
    from clipdissect.app.scoring.job import ScoringJob
    from clipdissect.scores.scoring import score_labels
    from clipdissect.utils.timing import Timers

    folder, timers = results_folder(), Timers()
    with timers.stage("load"):
        sources, missing = read_entries(config)
        job = ScoringJob.of(sources, config)
        options = job.options()
    with timers.stage("labels"):
        described, lacking = describe_all(sources, job.job, job.first)
    labels = [entry.labels for entry in described]
    with timers.stage("images"):
        held_out = job.held_out(labels)
    with timers.stage("scores"):
        scored = score_labels(labels, held_out, options)
    with timers.stage("metrics"):
        metrics = scored.metrics()
    board = Board.of(metrics, described, {**missing, **lacking})
    write(folder, board, job, scored, held_out, metrics, timers.seconds)
    show(board, folder)
    track(config, folder, metrics, job.probe)


def main() -> None:
    launch(run, "leaderboard", unused=UNUSED)


if __name__ == "__main__":
    main()
