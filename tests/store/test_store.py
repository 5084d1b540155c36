"""The store: whole shards or none, damage noticed, nothing lost to a full disk."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_colours

from clipdissect.errors import DissectError
from clipdissect.store import Damaged, Entry, Store, inventory, prune, shards, verify
from clipdissect.store.locks import if_free, locked

GRID = [(0, 2), (2, 4), (4, 5)]


def values(rows: tuple[int, int]) -> dict[str, torch.Tensor]:
    return {"values": torch.arange(rows[0], rows[1]).float()[:, None].repeat(1, 3)}


def written(root: Path, key: str = "ab12") -> Store:
    store = Store(root)
    series = store.series(key)
    series.begin({"what": "conv"})
    for rows in GRID:
        series.write(rows, values(rows), {"skipped": []})
    series.finish(GRID)
    return store


def test_arrays_and_facts_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get("ab12") is None
    store.put("ab12", Entry({"values": torch.eye(3), "half": torch.ones(2).bfloat16()}, {"a": 1}))
    found = store.get("ab12")
    assert found is not None
    assert found.arrays["values"].equal(torch.eye(3))
    assert found.arrays["half"].equal(torch.ones(2).bfloat16())
    assert found.about == {"a": 1}


def test_equal_contents_are_equal_bytes(tmp_path: Path) -> None:
    arrays = {"b": torch.eye(2), "a": torch.zeros(1)}
    shards.write(tmp_path / "1", arrays, {"x": 1, "y": 2})
    shards.write(tmp_path / "2", dict(reversed(arrays.items())), {"y": 2, "x": 1})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_shard_is_mapped_and_not_read(tmp_path: Path) -> None:
    shards.write(tmp_path / "big", {"values": torch.zeros(4_000_000)}, {})
    shard = shards.read(tmp_path / "big")
    before = _resident()
    array = shard.arrays()["values"]
    assert _resident() - before < 4_000_000
    assert array.sum() == 0


def test_a_verified_file_is_not_read_again_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shard"
    shards.write(path, {"values": torch.eye(30)}, {"a": 1})
    assert shards.read(path).identity is None  # its times may be those of the next write, too
    monkeypatch.setattr(shards, "SETTLED_S", 0.0)
    examine = shards._examine
    calls: list[Any] = []
    monkeypatch.setattr(shards, "_examine", lambda file: calls.append(file) or examine(file))
    first = shards.read(path)
    assert shards.read(path) is first
    assert len(calls) == 1
    assert first.is_unchanged
    raw, times = bytearray(path.read_bytes()), path.stat()
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # which leaves the time of change
    assert not first.is_unchanged
    with pytest.raises(Damaged, match="was changed"):
        shards.read(path)
    path.unlink()
    assert not first.is_unchanged
    with pytest.raises(FileNotFoundError):
        shards.read(path)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("byte", ["length", "header", "facts", "data", "cut", "empty"])
def test_every_damage_is_noticed(tmp_path: Path, byte: str) -> None:
    path = tmp_path / "shard"
    shards.write(path, {"values": torch.eye(30)}, {"skipped": [[3, "no image", False]]})
    raw = bytearray(path.read_bytes())
    if byte in ("cut", "empty"):
        raw = raw[:-10] if byte == "cut" else bytearray()
    else:
        place = {
            "length": 1,
            "header": raw.index(b"F32"),
            "facts": raw.index(b"no image"),
            "data": len(raw) - 1,
        }
        raw[place[byte]] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Damaged, match="shard"):
        shards.read(path)


def test_damaged_shard_is_named_and_the_others_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = written(tmp_path)
    series = store.series("ab12")
    assert series.complete() is not None
    broken = sorted(series.folder.glob("rows-*"))[1]
    raw = bytearray(broken.read_bytes())
    raw[-1] ^= 1
    broken.write_bytes(raw)
    assert series.complete() is None
    assert broken.name in caplog.text
    assert series.missing(GRID) == [(2, 4)]
    assert list(verify(store)) == ["ab12"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "ab12", "shards": []}'])
def test_damaged_manifest_costs_no_shard(tmp_path: Path, text: str) -> None:
    series = written(tmp_path).series("ab12")
    (series.folder / "manifest.json").write_text(text)
    assert series.complete() is None
    assert series.missing(GRID) == []
    assert len(series.finish(GRID)) == 3
    assert series.complete() is not None


def test_swapped_shards_are_noticed(tmp_path: Path) -> None:
    series = written(tmp_path).series("ab12")
    first, second, _ = sorted(series.folder.glob("rows-*"))
    contents = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(contents)
    assert series.complete() is None


def test_begin_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    series = written(tmp_path).series("ab12")
    (series.folder / ".rows-x.safetensors.abc").write_bytes(b"half")
    series.begin({})
    assert series.complete() is None
    assert not list(series.folder.glob(".*"))
    assert series.missing(GRID) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_full_disk_is_told_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = written(tmp_path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    series = store.series("cd34")
    series.begin({})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DissectError, match=r"the store can't be written .*store prune"):
            series.write((0, 2), values((0, 2)), {})
    assert [p.name for p in series.folder.iterdir()] == ["about.json"]
    series.write((0, 2), values((0, 2)), {})
    assert series.missing([(0, 2)]) == []
    assert store.series("ab12").complete() is not None


def test_inventory_and_prune(tmp_path: Path) -> None:
    store = written(tmp_path)
    written(tmp_path, "cd34")
    unfinished = store.series("ef56")
    unfinished.begin({"what": "head"})
    unfinished.write((0, 2), values((0, 2)), {})
    old = time.time() - 40 * 86_400
    os.utime(tmp_path / "ab" / "ab12" / "manifest.json", (old, old))
    items = {item.key: item for item in inventory(store)}
    assert set(items) == {"ab12", "cd34", "ef56"}
    assert [items[k].complete for k in ("ab12", "cd34", "ef56")] == [True, True, False]
    assert items["ef56"].about == {"what": "head"}
    assert items["ab12"].size == sum(f.stat().st_size for f in (tmp_path / "ab/ab12").iterdir())
    assert [i.key for i in prune(store, older_days=30, dry_run=True)] == ["ab12"]
    assert len(inventory(store)) == 3
    with locked(tmp_path, ["ab12"]):
        assert prune(store, older_days=30) == []  # somebody writes it
        assert [p.name for p in (tmp_path / "locks").iterdir()] == ["ab12.lock"]
    assert [i.key for i in prune(store, older_days=30)] == ["ab12"]
    assert [i.key for i in prune(store, incomplete=True)] == ["ef56"]
    assert prune(store, to_bytes=items["cd34"].size) == []
    assert [i.key for i in prune(store, to_bytes=items["cd34"].size - 1)] == ["cd34"]
    assert inventory(store) == []
    assert list((tmp_path / "locks").iterdir()) == []


def test_use_is_noted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("ab12", Entry({"values": torch.eye(2)}))
    old = time.time() - 40 * 86_400
    os.utime(tmp_path / "ab" / "ab12" / "manifest.json", (old, old))
    assert store.get("ab12") is not None
    assert prune(store, older_days=30) == []


def test_looking_is_no_use(tmp_path: Path) -> None:
    store = written(tmp_path)
    old = time.time() - 40 * 86_400
    os.utime(tmp_path / "ab" / "ab12" / "manifest.json", (old, old))
    for path in (tmp_path / "ab" / "ab12").iterdir():
        os.utime(path, (old, old))
        path.read_bytes()  # as a backup does, which moves the access time
    assert verify(store) == {}
    (item,) = inventory(store)
    assert abs(item.used - old) < 1
    assert [i.key for i in prune(store, older_days=30)] == ["ab12"]


def test_nothing_of_a_folder_that_is_no_store_is_pruned(tmp_path: Path) -> None:
    for name in ("ab/abba", "ab/ab12", "ca/cafe.jpg", "x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "song.mp3").touch()
    assert inventory(Store(tmp_path)) == []
    assert prune(Store(tmp_path), to_bytes=0, older_days=0, incomplete=True) == []
    assert len(list(tmp_path.rglob("song.mp3"))) == 4


def test_the_rest_of_the_user_cache_is_listed_and_pruned(tmp_path: Path, own_cache: Path) -> None:
    from clipdissect.probe import build
    from clipdissect.probe.thumbnails import Thumbnails
    from clipdissect.utils.paths import store_dir

    write_colours(tmp_path / "images")
    images = build("folder", root=str(tmp_path / "images"), identity="content")
    Thumbnails(images).file(images.images[0])
    for name in ("encoders/some/weights.bin", "synthetic_broden/abcd/1.png"):
        (own_cache / name).parent.mkdir(parents=True)
        (own_cache / name).write_bytes(b"12345")
    store = written(store_dir())
    items = {item.about["what"]: item for item in inventory(store, own_cache)}
    assert set(items) == {"conv", "thumbnails", "digests of files", "synthetic scenes", "fetched"}
    assert items["fetched"].size == 5
    assert items["thumbnails"].size > 0
    assert prune(store, cache=own_cache, older_days=30) == []
    old = time.time() - 40 * 86_400
    for item in items.values():
        if item.path:
            os.utime(item.path, (old, old))
    Thumbnails(images)  # used again
    gone = prune(store, cache=own_cache, older_days=30)
    assert {i.about["what"] for i in gone} == {"digests of files", "synthetic scenes"}
    gone = prune(store, cache=own_cache, to_bytes=0)
    assert {i.about["what"] for i in gone} == {"conv", "thumbnails"}
    assert [i.about["what"] for i in inventory(store, own_cache)] == ["fetched"]
    with pytest.raises(DissectError, match="encoders"):
        prune(store, cache=own_cache, fetched="encoder")
    prune(store, cache=own_cache, fetched="encoders")
    assert [p.name for p in own_cache.iterdir() if any(p.rglob("*.*"))] == []


def test_locks(tmp_path: Path) -> None:
    with locked(tmp_path, ["b", "a", "a"]):
        with if_free(tmp_path, "a") as free:
            assert not free
        with if_free(tmp_path, "c") as free:
            assert free
    with if_free(tmp_path, "a") as free:
        assert free
