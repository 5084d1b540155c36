"""Two processes under torchrun: one store, the same bytes, and one's death stops the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
from clipdissect.dissection import run_worker, dissect
from clipdissect.utils.distributed import from_environment
from clipdissect.errors import DissectError
from clipdissect.capture.settings import Settings
from clipdissect.store import Store
from clipdissect.targets import Target


class Noise(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5)


images, folder, keep = sys.argv[1:4]
team = from_environment()
net = ColourNet()
if "draw" in sys.argv:
    net.relu = torch.nn.Sequential(net.relu, Noise())
if "differ" in sys.argv and not team.leads:
    net.head.weight.data *= 2
if "die" in sys.argv:
    net.conv.register_forward_hook(
        lambda *_: sys.exit("killed by itself") if os.environ["RANK"] == "1" else None
    )
parts = dict(
    probe=probe.build("folder", root=images), encoder=ColourEncoder(),
    similarity=similarity.build("soft_wpmi", top_k=4), store=Store(Path(folder) / "store"),
    settings=Settings(device="cpu", workers=0, keep=keep, shard=3, batch_size=2), images=3,
    team=team,
)
target = Target("net", net, preprocess(), ("conv", "head"))
try:
    if team.leads:
        dissect(target, concepts=["red", "green", "blue"], **parts).save(Path(folder) / "run")
    else:
        run_worker(target, **parts)
except DissectError as error:
    print("error:", error, flush=True)
    sys.exit(2)
"""


def launch(tmp_path: Path, name: str, keep: str, *more: str, processes: int = 2) -> tuple[int, str]:
    script = tmp_path / "job.py"
    script.write_text(
        JOB.format(tests=str(Path(__file__).parents[1] / "support")), encoding="utf-8"
    )
    if not (tmp_path / "images").exists():
        write_colours(tmp_path / "images")
    run = [sys.executable]
    if processes > 1:
        run += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*run, str(script), str(tmp_path / "images"), str(tmp_path / name), keep, *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def files(folder: Path) -> dict[str, bytes]:
    kept = [*folder.rglob("*.safetensors"), *folder.rglob("manifest.json"), *folder.rglob("*.csv")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


@pytest.mark.parametrize("keep", ["full", "top_k"])
def test_two_processes_give_the_bytes_of_one(tmp_path: Path, keep: str) -> None:
    code, said = launch(tmp_path, "two", keep)
    assert code == 0, said
    assert launch(tmp_path, "one", keep, processes=1)[0] == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert len(files(tmp_path / "one")) > 5


def test_a_death_stops_the_others_and_the_next_run_goes_on(tmp_path: Path) -> None:
    code, said = launch(tmp_path, "job", "full", "die")
    assert code != 0
    assert "killed by itself" in said
    assert not (tmp_path / "job" / "run" / "run.json").exists()
    code, said = launch(tmp_path, "job", "full")
    assert code == 0, said


def test_processes_that_disagree_are_refused(tmp_path: Path) -> None:
    code, said = launch(tmp_path, "job", "full", "differ")
    assert code != 0
    assert "don't agree on the network" in said


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


def test_what_draws_goes_to_a_temporary_store_that_all_see(tmp_path: Path) -> None:
    code, said = launch(tmp_path, "job", "full", "draw")
    assert code == 0, said
    notes = json.loads((tmp_path / "job" / "run" / "run.json").read_text())["notes"]
    assert any("activations of head" in note and "not cached" in note for note in notes)
    store = tmp_path / "job" / "store"
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
