"""Known image sets in small: CIFAR, ImageNet, Broden."""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sets import picture, write_broden, write_cifar

from clipdissect import probe
from clipdissect.datasets import cifar
from clipdissect.errors import DissectError, MissingResource

TENCH = "tench, Tinca tinca"
GOLDFISH = "goldfish, Carassius auratus"


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_files_of_old_and_new_python(tmp_path: Path, protocol: int) -> None:
    write_cifar(tmp_path, protocol)
    found = probe.build("cifar100_test", root=str(tmp_path))
    assert found.images == ("test/00000", "test/00001", "test/00002", "test/00003")
    assert found.labels == ("apple", "aquarium fish", "baby", "apple")
    with (tmp_path / "cifar-100-python" / "test").open("rb") as source:
        data = pickle.load(source)["data"]  # noqa: S301 - of the test's own making
    assert np.array_equal(np.asarray(found.read(2)), data[2].reshape(3, 32, 32).transpose(1, 2, 0))
    fast = probe.build("cifar100_test", root=str(tmp_path), decode="fast")
    assert torch.equal(fast.read(2), torch.from_numpy(data[2].reshape(3, 32, 32).copy()))
    assert fast.digest != found.digest
    assert found.path(0) is None


def test_cifar_splits_and_the_folder_itself(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    train = probe.build("cifar10_train", root=str(tmp_path / "cifar-10-batches-py"))
    assert len(train) == 20
    assert set(train.labels or ()) == {"airplane", "automobile", "bird"}
    sizes = {n: len(probe.build(n, root=str(tmp_path))) for n in ("cifar10_test", "cifar100_train")}
    assert sizes == {"cifar10_test": 4, "cifar100_train": 4}


def test_cifar_is_found_in_the_data_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingResource, match=r"cifar-10-batches-py.*probe\.download=true"):
        probe.build("cifar10_test")
    write_cifar(tmp_path)
    monkeypatch.setenv("CLIPDISSECT_DATA", str(tmp_path))
    assert len(probe.build("cifar10_test")) == 4
    os.remove(tmp_path / "cifar-10-batches-py" / "data_batch_3")
    with pytest.raises(MissingResource, match="data_batch_3"):
        probe.build("cifar10_train")


def test_cifar_that_cannot_be_downloaded_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(MissingResource, match=r"refused[^$]*127\.0\.0\.1") as caught:
        probe.build("cifar10_test", root=str(tmp_path), download=True)
    assert "unpack cifar-10-python.tar.gz" in caught.value.remedy


def test_cifar_is_downloaded_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    write_cifar(tmp_path / "made")
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
        found = probe.build("cifar10_test", root=str(tmp_path / "new"), download=True)
        monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
        with pytest.raises(MissingResource, match="corrupt"):
            probe.build("cifar10_test", root=str(tmp_path / "newer"), download=True)
        server.shutdown()
    assert len(found) == 4


class Evil:
    """Would make a folder if it were unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_cifar_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    file = tmp_path / "cifar-100-python" / "test"
    file.write_bytes(pickle.dumps({"data": Evil(tmp_path / "made"), "fine_labels": []}))
    with pytest.raises(DissectError, match=r"it references posix\.mkdir"):
        probe.build("cifar100_test", root=str(tmp_path))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", pickle.dumps([1]), pickle.dumps({"data": 3})]
)
def test_damaged_cifar_file(tmp_path: Path, content: bytes) -> None:
    write_cifar(tmp_path)
    (tmp_path / "cifar-100-python" / "test").write_bytes(content)
    with pytest.raises(DissectError, match="cifar-100-python"):
        probe.build("cifar100_test", root=str(tmp_path))


def test_arrays_of_other_types_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps({"data": np.zeros(3)}, protocol=2))
    with pytest.raises(DissectError, match="aren't uint8"):
        cifar.load(tmp_path / "x")


@pytest.mark.parametrize(
    "names", [("n01440764", "n01443537"), ("tench", "Goldfish"), ("tench,_Tinca_tinca", GOLDFISH)]
)
def test_imagenet_in_class_folders(tmp_path: Path, names: Sequence[str]) -> None:
    for name in names:
        picture(tmp_path / "val" / name / "x.JPEG")
    found = probe.build("imagenet_val", root=str(tmp_path))
    assert dict(zip(found.images, found.labels or (), strict=True)) == {
        f"{names[0]}/x.JPEG": TENCH,
        f"{names[1]}/x.JPEG": GOLDFISH,
    }
    assert found.path(0) == tmp_path / "val" / found.images[0]
    assert not found.notes


def test_imagenet_folder_that_names_no_class(tmp_path: Path) -> None:
    picture(tmp_path / "goldfisch" / "x.png")
    with pytest.raises(DissectError, match=r"'goldfisch'.*Did you mean goldfish"):
        probe.build("imagenet_val", root=str(tmp_path))


def test_imagenet_class_name_of_two_classes_is_no_name(tmp_path: Path) -> None:
    picture(tmp_path / "crane" / "x.png")
    with pytest.raises(DissectError, match="crane"):
        probe.build("imagenet_val", root=str(tmp_path))
    (tmp_path / "crane").rename(tmp_path / "crane, bird")
    assert probe.build("imagenet_val", root=str(tmp_path)).labels == ("crane, bird",)


def flat(root: Path) -> Path:
    for number in (1, 2):
        picture(root / f"ILSVRC2012_val_{number:08d}.JPEG")
    return root


def devkit(folder: Path) -> None:
    """Numbers 490 and 489 for the two fish, as the devkit numbers classes by no visible rule."""
    folder.mkdir(parents=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n489\n")
    kind = np.dtype([("ILSVRC2012_ID", object), ("WNID", object)])
    rows = np.array([(489, "n01440764"), (490, "n01443537"), (1001, "n00000001")], dtype=kind)
    savemat(folder / "meta.mat", {"synsets": rows.reshape(-1, 1)})


def test_flat_imagenet_with_the_devkit(tmp_path: Path) -> None:
    flat(tmp_path / "ILSVRC2012_img_val")
    devkit(tmp_path / "ILSVRC2012_devkit_t12" / "data")
    found = probe.build("imagenet_val", root=str(tmp_path))
    assert found.labels == (GOLDFISH, TENCH)
    (tmp_path / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").unlink()
    with pytest.raises(MissingResource, match=r"meta\.mat"):
        probe.build("imagenet_val", root=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("synset_labels.txt", "n01443537\nn01440764\n"),
        ("val.txt", "ILSVRC2012_val_00000002.JPEG 0\nILSVRC2012_val_00000001.JPEG 1\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n"
            "ILSVRC2012_val_00000002,n01440764 1 2 3 4\n"
            "ILSVRC2012_val_00000001,n01443537 1 2 3 4 \n",
        ),
    ],
)
def test_flat_imagenet_with_other_ground_truth(tmp_path: Path, name: str, text: str) -> None:
    root = flat(tmp_path / "images")
    (tmp_path / name).write_text(text)
    assert probe.build("imagenet_val", root=str(root)).labels == (GOLDFISH, TENCH)
    given = probe.build("imagenet_val", root=str(root), ground_truth=str(tmp_path / name))
    assert given.labels == (GOLDFISH, TENCH)


def test_flat_imagenet_with_ids_in_file_names(tmp_path: Path) -> None:
    picture(tmp_path / "ILSVRC2012_val_00000001_n01440764.JPEG")
    picture(tmp_path / "n01443537_7.JPEG")
    assert probe.build("imagenet_val", root=str(tmp_path)).labels == (TENCH, GOLDFISH)


def test_flat_imagenet_without_ground_truth_has_no_labels_and_says_so(tmp_path: Path) -> None:
    root = flat(tmp_path / "images")
    found = probe.build("imagenet_val", root=str(root))
    assert found.labels is None
    assert "ground_truth" in found.notes[0]
    with pytest.raises(MissingResource, match="ground truth"):
        probe.build("imagenet_val", root=str(root), ground_truth=str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello\n", "is not an ImageNet ground truth"),
        ("n01443537\n", "no class for 1 of the images"),
        ("ILSVRC2012_val_00000001 1000\n", "class number 1000"),
    ],
)
def test_ground_truth_that_does_not_fit(tmp_path: Path, text: str, says: str) -> None:
    root = flat(tmp_path / "images")
    (tmp_path / "truth.txt").write_text(text)
    with pytest.raises(DissectError, match=says):
        probe.build("imagenet_val", root=str(root), ground_truth=str(tmp_path / "truth.txt"))


def test_imagenet_is_looked_for_in_the_data_folders() -> None:
    with pytest.raises(MissingResource, match="ImageNet's validation images"):
        probe.build("imagenet_val")


def test_imagenet_mixed_layout(tmp_path: Path) -> None:
    picture(tmp_path / "n01440764" / "x.png")
    picture(tmp_path / "y.png")
    with pytest.raises(DissectError, match="both directly in it and in subfolders"):
        probe.build("imagenet_val", root=str(tmp_path))


def test_sample_images_are_labelled(shared: Path) -> None:
    root = shared / "data" / "images" / "imagenet_sample"
    found = probe.build("imagenet_val", root=str(root), limit=2)
    assert found.labels == (TENCH, GOLDFISH)


def test_broden_knows_labels_of_whole_images(tmp_path: Path) -> None:
    write_broden(tmp_path)
    found = probe.build("broden", root=str(tmp_path))
    assert dict(zip(found.images, found.labels or (), strict=True)) == {
        "ade/scene.jpg": "mountain path-outdoor",
        "dtd/dots.jpg": "dotted",
        "pascal/dog.jpg": None,
    }


def test_broden_is_found_where_it_is_fetched_to(own_cache: Path) -> None:
    write_broden(own_cache / "data" / "broden1_224")
    assert len(probe.build("broden", sample=2)) == 2


def test_imagenet_broden_is_a_union(tmp_path: Path) -> None:
    write_broden(tmp_path / "broden")
    picture(tmp_path / "imagenet" / "n01440764" / "x.png")
    roots = {"imagenet": str(tmp_path / "imagenet"), "broden": str(tmp_path / "broden")}
    found = probe.build("imagenet_broden", **roots)
    assert [p.name for p in found.parts] == ["imagenet_val", "broden"]
    assert found.images[0] == "imagenet_val/n01440764/x.png"
    assert found.labels == (TENCH, "mountain path-outdoor", "dotted", None)
    assert found.parts[1].digest == probe.build("broden", root=roots["broden"]).digest
