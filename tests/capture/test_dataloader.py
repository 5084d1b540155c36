"""Decoding processes, where memory to share is short and where one dies."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import preprocess, write_colours
from torch import Tensor

from clipdissect import probe
from clipdissect.capture import workers as workers_module
from clipdissect.capture.dataloader import batches
from clipdissect.capture.decoding import BatchRequest
from clipdissect.capture.settings import Settings
from clipdissect.capture.workers import default_workers, workers_for
from clipdissect.errors import DissectError
from clipdissect.images.transforms import split


def workers(count: int) -> Settings:
    return Settings(device="cpu", workers=count)


linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems share otherwise")


@linux
@pytest.mark.parametrize("free", [None, 64_000_000])
def test_no_workers_where_there_is_no_memory_to_share(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: int | None
) -> None:
    if free is None:
        monkeypatch.setattr(workers_module, "SHARED", "/no/such/folder")
    else:
        monkeypatch.setattr(
            workers_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free})
        )
    assert default_workers("cuda") == 0
    assert workers_for(Settings(device="cpu", workers=2)) == 0
    assert "too little shared memory" in caplog.text
    caplog.clear()
    assert workers_for(Settings(device="cpu", workers=0)) == 0
    assert not caplog.text


@linux
def test_a_worker_that_dies_is_told(tmp_path: Path) -> None:
    write_colours(tmp_path)
    here = os.getpid()

    def die(image: Image.Image) -> Tensor:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGBUS)  # as the system does without shared memory
        return preprocess()(image)

    images = probe.build("folder", root=str(tmp_path))
    with pytest.raises(DissectError, match=r"a decoding process died .*capture\.workers=0"):
        list(
            batches(
                images,
                [split(die)],
                [BatchRequest(range(4), (0,))],
                Settings(device="cpu", workers=1),
            )
        )
