"""What a result says of the code that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from clipdissect.results.manifest import git_state


def git(folder: Path, *arguments: str) -> None:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True)


def test_results_that_a_run_writes_again_are_no_change_of_the_code(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/table.csv"):
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "both")
    state = git_state(tmp_path)
    assert state is not None and len(state["commit"]) == 40 and not state["changed"]
    (tmp_path / "results" / "table.csv").write_text("2\n")
    assert git_state(tmp_path)["changed"] is False
    (tmp_path / "code.py").write_text("2\n")
    assert git_state(tmp_path)["changed"] is True
    assert git_state(tmp_path / "results") is None
