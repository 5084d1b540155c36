"""Peak memory of a capture that keeps top images doesn't grow with the images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import resource
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import to_tensor

from clipdissect.capture.capture import capture
from clipdissect.probe import Probe
from clipdissect.capture.settings import Settings
from clipdissect.store import Store
from clipdissect.targets import Target

UNITS, DIMS = 3000, 3000


class Encoder:
    name, notes, preprocess, image_digest, text_digest = "e", (), staticmethod(to_tensor), "i", "t"

    def embed_images(self, images):
        return nn.functional.normalize(images.mean((2, 3)).repeat(1, DIMS // 3 + 1)[:, :DIMS] + 0.1)


def read(index):
    return Image.new("RGB", (2, 2), (index % 251, index % 241, index % 239))


torch.manual_seed(0)
count, keep = int(sys.argv[2]), sys.argv[3]
probe = Probe("many", tuple(map(str, range(count))), read, f"many {count}")
# Pooled first: trials of large images must not be the peak.
layers = nn.AdaptiveAvgPool2d(2), nn.Conv2d(3, UNITS, 2), nn.Flatten()
target = Target("net", nn.Sequential(*layers), to_tensor, ("2",))
settings = Settings(device="cpu", workers=0, keep=keep, batch_size=250, shard=500)
capture(target, target.layers, Encoder(), probe, Store(Path(sys.argv[1])), settings)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(tmp_path: Path, images: int, keep: str = "top_k") -> int:
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(tmp_path / f"{images}-{keep}"), str(images), keep],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as on Linux")
def test_top_images_of_ten_times_the_images_take_the_same_memory(tmp_path: Path) -> None:
    few, many = peak(tmp_path, 1_000), peak(tmp_path, 10_000)
    # All activations or all embeddings would be 108 MB more.
    assert abs(many - few) < 50e6, (few, many)
