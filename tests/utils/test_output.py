"""What people see when the system gets in the way: closed pipes, full disks, odd folders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipdissect.app import launch
from clipdissect.app.cli import Forgiving
from clipdissect.app.commands import store
from clipdissect.errors import DissectError
from clipdissect.results.run_files import write_json
from clipdissect.store import Entry, Store, inventory
from clipdissect.utils.files import write_text


def test_a_pipe_that_nobody_reads_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        out = Forgiving(stream)
        for _ in range(3):
            print("a line" * 10_000, file=out)
            out.flush()
        assert not out.isatty()
        stream.write("what is left in the buffer goes nowhere, too")


@pytest.mark.parametrize("arguments", [["--help"], ["store"], ["nonsense"]])
def test_commands_end_quietly_when_their_reader_goes(arguments: list[str], own_cache: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "clipdissect.app.cli", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    os.close(writer)
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == (2 if arguments == ["nonsense"] else 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_while_results_are_written_is_no_fault_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))  # as writing raises it: without a name

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        write_json(tmp_path / "run.json", {})
    failure = launch.of_error(caught.value)
    assert failure.code == launch.MISTAKE
    assert failure.trace is None
    assert failure.message.startswith(f"{tmp_path / 'run.json'}: {os.strerror(number)}")
    assert ("free space" in failure.message) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_without_a_name_is_told_too() -> None:
    failure = launch.of_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert failure.trace is None
    assert failure.message.startswith("No space left on device; free space")


def test_a_file_in_the_place_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "file", "no folder")
    with (
        pytest.raises(DissectError, match="the store can't be written"),
        Store(tmp_path / "file").locked(["ab12"]),
    ):
        pass
    with pytest.raises(DissectError, match="the store can't be written"):
        Store(tmp_path / "file").put("ab12", Entry({}))
    for name, said in (("file", "is a file; a store is a folder"), ("none", "there is no store")):
        monkeypatch.setattr(sys, "argv", ["store", "--store", str(tmp_path / name)])
        with pytest.raises(SystemExit) as ended:
            store.main()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_a_store_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path).put("ab12", Entry({}))

    def refuse(self: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DissectError, match=f"can't read {tmp_path}: Permission denied"):
        inventory(Store(tmp_path))
    monkeypatch.setattr(sys, "argv", ["store", "--store", str(tmp_path)])
    with pytest.raises(SystemExit):
        store.main()
    assert "Permission denied" in capsys.readouterr().err
