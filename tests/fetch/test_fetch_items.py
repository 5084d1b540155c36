"""Every item of `clipdissect fetch`: from a tiny stand-in to what its last line says it is for."""

from __future__ import annotations

import io
import re
import struct
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sets import jpeg, write_broden, write_cifar
from test_fetch_unpack import make_deb
from test_hypernyms import DATA, INDEX
from test_probe_sets import devkit

from clipdissect import concepts, encoder, method, probe, sentence
from clipdissect import targets as target
from clipdissect.app.commands import fetch as command
from clipdissect.encoder import presets
from clipdissect.errors import DissectError, MissingResource
from clipdissect.fetch import ITEMS, run
from clipdissect.fetch.items import torch_hub
from clipdissect.fetch.sources import File, Item
from clipdissect.fetch.user_sources import file_url

STAMPS = "usr/share/tuxpaint/stamps"
BUILDERS: Mapping[str, Callable[..., Any]] = {
    "concepts": concepts.build,
    "encoder": encoder.build,
    "method": method.build,
    "probe": probe.build,
    "sentence": sentence.build,
    "target": target.build,
}
USE = re.compile(r"clipdissect dissect((?: [\w.]+=\S+)+)(?: \(after clipdissect fetch (\w+)\))?")


def packed(folder: Path, files: Mapping[str, bytes], name: str) -> Path:
    with tarfile.open(folder / name, "w") as out:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return folder / name


def folder_of(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def saved(state: Mapping[str, torch.Tensor]) -> bytes:
    out = io.BytesIO()
    torch.save(dict(state), out)
    return out.getvalue()


def network(classes: int) -> bytes:
    from torchvision.models import resnet18

    return saved(resnet18(num_classes=classes).state_dict())


def files_of(name: str, work: Path) -> dict[str, bytes]:
    """The files of a tiny stand-in, as in the item's archives or by themselves."""
    work.mkdir()
    if name == "broden":
        write_broden(work / "broden1_224")
    elif name in ("cifar10", "cifar100"):
        write_cifar(work)
    elif name == "imagenet_devkit":
        devkit(work / "ILSVRC2012_devkit_t12" / "data")
        truth = work / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
        truth.write_text("490\n" * 50_000)
    if name == "imagenet_val":
        numbers = (1, 50_000)
        return {f"ILSVRC2012_val_{n:08d}.JPEG": jpeg((9, 9, 9)) for n in numbers}
    if name == "places365":
        return {"places365_val.txt": b"x 1\n", "val_256/a.jpg": jpeg((9, 9, 9))}
    if name == "stamps":
        return {f"./{STAMPS}/animals/a.png": jpeg((9, 9, 9))}
    if name == "wordnet":
        where = "./usr/share/wordnet"
        return {f"{where}/data.noun": DATA.encode(), f"{where}/index.noun": INDEX.encode()}
    return folder_of(work)


def ways_of(item: Item, tmp_path: Path) -> tuple[tuple[File, ...], ...]:
    """Every way of an item, with stand-ins at its addresses and no digests."""
    inside = files_of(item.name, tmp_path / "inside")
    ways = []
    for number, way in enumerate(item.ways):
        place = tmp_path / str(number)
        place.mkdir()
        if isinstance(way, tuple):
            ways.append(tuple(stand_in(file, item, place, inside) for file in way))
        elif item.name in ("stamps", "wordnet"):
            package = make_deb(place / "x.deb", dict(inside))
            ways.append((File("x.deb", (file_url(str(package)),), archive=True),))
    return tuple(ways)


def stand_in(file: File, item: Item, place: Path, inside: Mapping[str, bytes]) -> File:
    name = Path(file.name).name
    if file.archive:
        path = packed(place, inside, name)
    else:
        path = place / name
        path.write_bytes(content_of(item, file))
    return replace(file, urls=(file_url(str(path)),), digest=None, size=None)


def content_of(item: Item, file: File) -> bytes:
    if file.name == "categories_places365.txt":
        return "".join(f"/a/place{n} {n}\n" for n in range(365)).encode()
    if item.name in ("resnet18", "resnet18_places365"):
        return network(365 if "places" in item.name else 1000)
    if file.name.endswith(".safetensors"):
        return struct.pack("<Q", 2) + b"{}"
    if file.name.endswith((".pt", ".pth")):
        return saved({"w": torch.ones(1)})
    return b"one\ntwo\n"


def fetched(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: int = 0,
) -> str:
    """What `clipdissect fetch` says at the end about an item that comes from a stand-in."""
    item = ITEMS[name]
    tmp_path.mkdir(exist_ok=True)
    ways = ways_of(item, tmp_path)[way:]
    monkeypatch.setitem(ITEMS, name, replace(item, ways=ways, counts=(), digests=(), also=()))
    monkeypatch.setattr(sys, "argv", ["clipdissect fetch", name])
    with pytest.raises(SystemExit) as end:
        command.main()
    said = capsys.readouterr()
    assert not end.value.code, said.err
    return said.out.strip().splitlines()[-1].strip().removeprefix("to use it: ")


@pytest.mark.parametrize("name", ITEMS)
def test_what_was_fetched_is_where_its_reader_looks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    given: list[str] = []
    monkeypatch.setattr(presets, "open_clip", lambda *args: given.append(args[2]))
    use = fetched(name, tmp_path / name, monkeypatch, capsys)
    match = USE.fullmatch(use)
    assert match, use
    if match[2]:
        fetched(match[2], tmp_path / match[2], monkeypatch, capsys)
    if "target=resnet18_places365" in use and name != "resnet18_places365":
        fetched("resnet18_places365", tmp_path / "net", monkeypatch, capsys)
    if ITEMS[name].bases is torch_hub and name != "resnet18":
        # Building it would take a whole network's weights: that torch finds the file is enough.
        from torchvision import models

        from clipdissect.targets.torchvision import _download

        assert list(_download(models.get_model_weights(name)["IMAGENET1K_V1"])) == ["w"]
        return
    built = built_of(match[1])
    if name == "imagenet_devkit":
        assert set(built["probe"].labels) == {"goldfish, Carassius auratus"}
    if name.startswith("clip_"):
        assert [Path(folder) for folder in given] == [ITEMS[name].find()]


def built_of(words: str) -> dict[str, Any]:
    """What the options on a command line stand for, built as the runner builds them."""
    groups, parameters = {}, {}
    for key, value in (word.split("=", 1) for word in words.split()):
        if "." in key:
            parameters[key.partition(".")[2]] = value
        else:
            groups[key] = value
    return {group: BUILDERS[group](option, **parameters) for group, option in groups.items()}


def test_the_safetensors_of_an_encoder_are_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from clipdissect.encoder.open_clip_weights import in_folder

    fetched("clip_vit_b16", tmp_path / "x", monkeypatch, capsys, way=1)
    folder = ITEMS["clip_vit_b16"].find()
    assert folder is not None
    assert in_folder(folder).name == "open_clip_model.safetensors"


def test_a_devkit_alone_is_no_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched("imagenet_devkit", tmp_path / "x", monkeypatch, capsys)
    with pytest.raises(MissingResource, match="clipdissect fetch imagenet_val"):
        probe.build("imagenet_val")


def test_another_folder_is_said_in_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    item = ITEMS["cifar10"]
    ways = ways_of(item, tmp_path / "x")
    monkeypatch.setitem(ITEMS, "cifar10", replace(item, ways=ways, digests=()))
    folder = tmp_path / "my data"
    monkeypatch.setattr(sys, "argv", ["clipdissect fetch", "cifar10", "--folder", str(folder)])
    with pytest.raises(SystemExit):
        command.main()
    use = f"to use it: CLIPDISSECT_DATA='{folder}' clipdissect dissect probe=cifar10_test"
    assert use in capsys.readouterr().out
    with pytest.raises(MissingResource, match="clipdissect fetch cifar10"):
        probe.build("cifar10_test")
    monkeypatch.setenv("CLIPDISSECT_DATA", str(folder))
    assert len(probe.build("cifar10_test")) == 4


def small(name: str, work: Path) -> Path:
    """A file of the right kind that holds too little of an item, or something else."""
    content = files_of(name, work / "inside")
    if name == "imagenet_devkit":
        content["ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"] = b"490\n"
    if name == "mpnet":
        content = dict.fromkeys(ITEMS[name].required, b"{}")
    if name == "places365":
        content["categories_places365.txt"] = b"/a/airfield 0\n"
    if name in ("stamps", "wordnet"):
        return make_deb(work / "own.deb", content)
    if content:
        return packed(work, content, "own.tar")
    suffix = ".txt" if "concepts" in ITEMS[name].place else ".pt"
    (work / f"own{suffix}").write_bytes(b"one\ntwo\nthree\nfour\nfive\n")
    return work / f"own{suffix}"


@pytest.mark.parametrize("name", ITEMS)
def test_a_file_that_is_not_the_item_is_refused(
    name: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(own_cache / "torch"))
    item = replace(ITEMS[name], also=())
    with pytest.raises(MissingResource, match=r"the download has|its digest isn't") as caught:
        run.get(item, urls=[file_url(str(small(name, tmp_path)))])
    assert item.manual in str(caught.value)
    assert [p for p in own_cache.rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_five_words_are_not_google_20k(tmp_path: Path) -> None:
    (tmp_path / "20k-words.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    with pytest.raises(MissingResource, match=r"has 5 words, but google_20k has 19,900 to 20,100"):
        run.get(ITEMS["google_20k"], urls=[file_url(str(tmp_path / "20k-words.txt"))])


@pytest.mark.parametrize("content", [b"", b"no header", struct.pack("<Q", 9) + b"no json!!"])
def test_safetensors_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.safetensors").write_bytes(content)
    with pytest.raises(DissectError, match="is no safetensors file"):
        run.get(ITEMS["clip_rn50"], urls=[file_url(str(tmp_path / "own.safetensors"))])


def test_a_refused_file_is_not_remembered(tmp_path: Path) -> None:
    """The next file of the same name is read anew."""
    item = replace(ITEMS["cifar100"], digests=())
    (tmp_path / "x").mkdir()
    wrong = packed(tmp_path, {"readme": b""}, "own.tar")
    with pytest.raises(MissingResource, match="lacks"):
        run.get(item, urls=[file_url(str(wrong))])
    right = packed(tmp_path, files_of("cifar100", tmp_path / "in"), "own.tar")
    assert run.get(item, urls=[file_url(str(right))]).path.name == "cifar-100-python"


def test_a_devkits_ground_truth_is_counted(tmp_path: Path) -> None:
    devkit(tmp_path / "kit" / "data")
    archive = packed(tmp_path, folder_of(tmp_path / "kit"), "own.tar")
    with pytest.raises(MissingResource, match="has 2 lines of ground truth"):
        run.get(ITEMS["imagenet_devkit"], urls=[file_url(str(archive))])


def test_lists_of_the_paper_pass_the_check(shared: Path, tmp_path: Path) -> None:
    """Under a name of the user's own, so that it isn't the digest that lets them in."""
    for name in ("google_20k", "google_10k", "ef_3k", "broden_labels", "places365_names"):
        copy = tmp_path / f"{name}-copy.txt"
        copy.write_bytes((shared / "data" / ITEMS[name].place).read_bytes())
        assert run.get(ITEMS[name], urls=[file_url(str(copy))]).path.is_file()
