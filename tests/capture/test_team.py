"""Two processes under torchrun: one store, the same bytes, and one's death stops the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_colours

from clipdissect.utils import distributed
from clipdissect.utils.distributed import ALONE, Team

JOB = """
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, {tests!r})
from tiny import ColourEncoder, ColourNet, preprocess

from clipdissect import probe, similarity
from clipdissect.api import dissect
from clipdissect.dissection import run_worker
from clipdissect.utils.distributed import from_environment
from clipdissect.errors import DissectError
from clipdissect.capture.settings import Settings
from clipdissect.store import Store
from clipdissect.targets import Target


class Noise(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5)


def job_of(kind, team):
    net = ColourNet()
    if kind == "draw":
        net.relu = torch.nn.Sequential(net.relu, Noise())
    if kind == "differ" and not team.leads:
        net.head.weight.data *= 2
    if kind == "die":
        net.conv.register_forward_hook(
            lambda *_: sys.exit("killed by itself") if team.rank == 1 else None
        )
    return Target("net", net, preprocess(), ("conv", "head"))


images, folder = sys.argv[1:3]
team = from_environment()
for job in sys.argv[3:]:  # as kind/folder/keep
    kind, name, keep = job.split("/")
    parts = dict(
        probe=probe.build("folder", root=images), encoder=ColourEncoder(),
        similarity=similarity.build("soft_wpmi", top_k=4), images=3, team=team,
        store=Store(Path(folder) / name / "store"),
        settings=Settings(device="cpu", workers=0, keep=keep, shard=3, batch_size=2),
    )
    target = job_of(kind, team)
    try:
        if team.leads:
            result = dissect(target, concepts=["red", "green", "blue"], **parts)
            result.save(Path(folder) / name / "run", report=False)
            print("saved", Path(folder) / name / "run", flush=True)
        else:
            run_worker(target, **parts)
    except DissectError as error:
        print("error:", error, flush=True)
        sys.exit(2)
"""


def launch(folder: Path, *jobs: str, processes: int = 2) -> tuple[int, str]:
    """Run jobs `kind/folder/keep` one after another in the same processes."""
    script = folder / "job.py"
    script.write_text(
        JOB.format(tests=str(Path(__file__).parents[1] / "support")), encoding="utf-8"
    )
    if not (folder / "images").exists():
        write_colours(folder / "images")
    run = [sys.executable]
    if processes > 1:
        run += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*run, str(script), str(folder / "images"), str(folder), *jobs],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """A folder, and the exit codes and output of what ran there.

    First a job in which a process dies. Then it again, and others, of which the last is refused.
    """
    folder = tmp_path_factory.mktemp("team")
    others = ("plain/two/full", "plain/two_top/top_k", "draw/draw/full", "differ/differ/full")
    ends = [launch(folder, "die/died/full"), launch(folder, "plain/died/full", *others)]
    ends.append(launch(folder, "plain/one/full", "plain/one_top/top_k", processes=1))
    return folder, ends


def files(folder: Path) -> dict[str, bytes]:
    kept = [*folder.rglob("*.safetensors"), *folder.rglob("manifest.json"), *folder.rglob("*.csv")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def test_two_processes_give_the_bytes_of_one(launched: Any) -> None:
    folder, ends = launched
    assert ends[2][0] == 0, ends[2][1]
    for name in ("one", "one_top"):
        kept = files(folder / name)
        assert kept == files(folder / name.replace("one", "two")), ends[1][1]
        assert len(kept) > 5


def test_a_death_stops_the_others_and_the_next_run_goes_on(launched: Any) -> None:
    folder, ((code, said), (_, again), _) = launched
    assert code != 0
    assert "killed by itself" in said
    assert f"saved {folder / 'died' / 'run'}" not in said
    assert files(folder / "died" / "run") == files(folder / "one" / "run"), again


def test_processes_that_disagree_are_refused(launched: Any) -> None:
    folder, (_, (code, said), _) = launched
    assert code != 0
    assert "don't agree on the network" in said
    assert not (folder / "differ" / "run").exists()


def test_other_numbers_of_threads_are_mentioned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(distributed, "_cores", lambda: torch.get_num_threads() + 1)
    for team, device in ((ALONE, "cpu"), (Team(1, 2), "cpu"), (Team(0, 2), "cuda")):
        distributed.mention_threads(team, device)
    assert not caplog.text
    distributed.mention_threads(Team(0, 2), "cpu")
    assert "OMP_NUM_THREADS" in caplog.text


def test_what_draws_goes_to_a_temporary_store_that_all_see(launched: Any) -> None:
    folder, (_, (_, said), _) = launched
    assert (folder / "draw" / "run" / "run.json").is_file(), said
    notes = json.loads((folder / "draw" / "run" / "run.json").read_text())["notes"]
    assert any("activations of head" in note and "not cached" in note for note in notes)
    store = folder / "draw" / "store"
    kept = [json.loads(path.read_text())["what"] for path in store.rglob("about.json")]
    assert "conv" in kept
    assert "head" not in kept
    assert not list(store.glob("clipdissect-*"))  # gone with the run


def test_shares_are_runs_of_neighbours() -> None:
    jobs = list(range(10))
    shares = [list(Team(rank, 3).partition(jobs)) for rank in range(3)]
    assert [job for share in shares for job in share] == jobs
    assert sorted(map(len, shares)) == [3, 3, 4]
    assert list(ALONE.partition(jobs)) == jobs
