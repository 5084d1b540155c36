"""Facts about networks are recalled while nothing that they depend on has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import network, register, save, write_hf
from torch import nn

from clipdissect import encoder, targets
from clipdissect.encoder.lazy import LazyEncoder, preprocess_digest
from clipdissect.errors import DissectError
from clipdissect.models import remembered
from clipdissect.models.sentence_transformers import SentenceFolder
from clipdissect.targets.lazy import LazyTarget
from clipdissect.utils import dependencies, hashing

QUICK = "ViT-B-16-quickgelu"


@pytest.fixture(autouse=True)
def all_settled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Take files for settled, however new, and forget what is known of the libraries."""
    monkeypatch.setattr(dependencies, "settled_before_ns", 1 << 62)
    remembered._environment.cache_clear()
    yield
    remembered._environment.cache_clear()


def write_state(path: Path, factor: float = 1.0) -> Path:
    from torchvision import models

    torch.manual_seed(0)
    state = models.resnet18(num_classes=5).state_dict()
    state["fc.bias"] = state["fc.bias"] * factor
    torch.save(state, path)
    return path


def is_recalled(target: targets.Target) -> bool:
    assert isinstance(target, LazyTarget)
    return target.source._built is None


def records(cache: Path) -> list[Path]:
    return sorted((cache / remembered.FOLDER).glob("*.json"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", {"weights": "random"}),
        ("torchvision", {"model": "shufflenet_v2_x0_5", "weights": "random"}),
        ("timm", {"model": "test_vit", "weights": "random", "layers": ["blocks.*"]}),
        ("timm", {"model": "test_resnet", "weights": "random"}),
    ],
)
def test_a_recalled_target_equals_the_built_one(
    name: str, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = targets.lazily(name, **parameters)
    again = targets.lazily(name, **parameters)
    real = targets.build(name, **parameters)
    assert not is_recalled(first)
    for found in (first, again):
        for attribute in ("facts", "class_layer", "class_names", "notes", "modules"):
            assert getattr(found, attribute) == getattr(real, attribute)
        assert found.digest == hashing.hash_model(real.model)
        assert found.preprocess_digest == hashing.hash_transform(real.preprocess)
    assert is_recalled(again)
    layer = again.modules[-1]
    assert replace(again, layers=(layer,)).layers == (layer,)
    assert replace(again, layers=(layer,)).digest == real.digest
    assert is_recalled(again)


def test_the_network_is_built_once_and_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    targets.lazily("resnet18", weights="random")
    built = []
    build = targets.build
    monkeypatch.setattr(targets, "build", lambda *a, **k: built.append(1) or build(*a, **k))
    found = targets.lazily("resnet18", weights="random")
    other = replace(found, layers=("layer4",))
    assert not built
    assert found.model is other.model is found.model
    assert found.preprocess is other.preprocess
    assert len(built) == 1
    assert replace(found, layers=("layer[12]", "layer?")).layers == (
        "layer[12]",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    )
    grey = found.with_preprocess(lambda image: torch.zeros(3, 8, 8))
    assert grey.model is found.model
    assert grey.facts == found.facts
    assert grey.preprocess_digest != found.preprocess_digest
    assert len(built) == 1


def test_another_checkpoint_of_the_same_size_at_the_same_path(tmp_path: Path) -> None:
    path = write_state(tmp_path / "weights.pt")
    before = path.stat()
    first = targets.lazily("resnet18", checkpoint=str(path))
    assert is_recalled(targets.lazily("resnet18", checkpoint=str(path)))
    write_state(path, 2.0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = targets.lazily("resnet18", checkpoint=str(path))
    assert not is_recalled(second)
    assert second.digest != first.digest
    assert is_recalled(targets.lazily("resnet18", checkpoint=str(path)))


def test_a_better_place_of_a_file_that_was_absent(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPDISSECT_DATA", str(tmp_path))

    def places() -> targets.Target:
        return targets.lazily("resnet18_places365")

    def write(folder: Path, seed: int) -> None:
        from torchvision import models

        torch.manual_seed(seed)
        folder.mkdir()
        torch.save(
            models.resnet18(num_classes=365).state_dict(), folder / "resnet18_places365.pth.tar"
        )

    write(own_cache / "data", 0)
    first = places()
    assert is_recalled(places())
    write(tmp_path / "places365", 1)
    assert places().digest != first.digest
    assert is_recalled(places())


def test_other_parameters(tmp_path: Path) -> None:
    targets.lazily("resnet18", weights="random")
    assert not is_recalled(targets.lazily("resnet18", weights="random", layers=["fc"]))
    assert targets.lazily("resnet18", weights="random", layers=["fc"]).layers == ("fc",)
    assert not is_recalled(targets.lazily("resnet34", weights="random"))
    with pytest.raises(DissectError, match="unknown weights"):
        targets.lazily("resnet18", weights="randm")


def test_another_version_of_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    targets.lazily("resnet18", weights="random")
    version = remembered.version
    monkeypatch.setattr(remembered, "version", lambda n: f"{version(n)}{'.1' * (n == 'timm')}")
    remembered._environment.cache_clear()
    assert not is_recalled(targets.lazily("resnet18", weights="random"))


def test_an_edit_of_this_librarys_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "library" / "models" / "code.py"
    code.parent.mkdir(parents=True)
    code.write_text("x = 1\n")
    monkeypatch.setattr(remembered, "LIBRARY", tmp_path / "library")
    targets.lazily("resnet18", weights="random")
    (code.parent / "__pycache__").mkdir()
    (code.parent / "__pycache__" / "kernel.nbi").write_text("compiled")
    remembered._environment.cache_clear()
    assert is_recalled(targets.lazily("resnet18", weights="random"))
    code.write_text("x = 23\n")
    remembered._environment.cache_clear()
    assert not is_recalled(targets.lazily("resnet18", weights="random"))


def test_an_edit_after_the_program_began_is_not_trusted(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_state(tmp_path / "weights.pt")
    changed = path.stat().st_ctime_ns
    monkeypatch.setattr(dependencies, "settled_before_ns", changed - 1)
    for _ in range(2):
        assert not is_recalled(targets.lazily("resnet18", checkpoint=str(path)))
    assert records(own_cache) == []
    monkeypatch.setattr(dependencies, "settled_before_ns", changed)
    targets.lazily("resnet18", checkpoint=str(path))
    assert is_recalled(targets.lazily("resnet18", checkpoint=str(path)))


def test_a_patched_class_and_a_replaced_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from torchvision.models.resnet import BasicBlock

    targets.lazily("resnet18", weights="random")
    with monkeypatch.context() as patches:
        patches.setattr(BasicBlock, "forward", lambda self, x: x)
        assert not is_recalled(targets.lazily("resnet18", weights="random"))
    assert is_recalled(targets.lazily("resnet18", weights="random"))

    def test_resnet(**_: Any) -> nn.Module:
        return nn.Conv2d(3, 3, 1)

    targets.lazily("timm", model="test_resnet", weights="random")
    entries = timm.models._registry._model_entrypoints
    monkeypatch.setitem(entries, "test_resnet", test_resnet)
    assert not remembered._is_original()
    found = targets.lazily("timm", model="test_resnet", weights="random")
    assert isinstance(found.model, nn.Conv2d)


def test_networks_of_users_are_always_built(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mine() -> targets.Target:
        return targets.Target("mine", nn.Conv2d(3, 3, 1), lambda image: torch.zeros(3, 4, 4))

    monkeypatch.setitem(targets.OPTIONS, "mine", mine)
    monkeypatch.setitem(targets.OPTIONS, "resnet34", mine)
    factory = {"factory": "torchvision.models:resnet18"}
    path = str(write_state(tmp_path / "weights.pt"))
    found = [
        targets.lazily("mine"),
        targets.lazily("resnet34"),
        targets.lazily("module", **factory),
        targets.lazily("checkpoint", **factory, checkpoint=path, arguments={"num_classes": 5}),
    ]
    assert [type(target) for target in found] == [targets.Target] * 4
    assert records(own_cache) == []


def test_a_wrong_record_is_detected_and_deleted(own_cache: Path) -> None:
    real = targets.lazily("resnet18", weights="random")
    (record,) = records(own_cache)
    body = json.loads(record.read_text())["body"]
    body["facts"]["digest"] = "0" * 40
    record.write_text(json.dumps({"body": body, "checksum": hashing.hash_values(body)}))
    wrong = targets.lazily("resnet18", weights="random")
    assert wrong.digest == "0" * 40
    with pytest.raises(DissectError, match=r"target resnet18 isn't .* run the job again"):
        _ = wrong.model
    assert records(own_cache) == []
    assert targets.lazily("resnet18", weights="random").digest == real.digest


@pytest.mark.parametrize("damage", [lambda t: t[: len(t) // 2], lambda t: t.replace("conv1", "x")])
def test_a_damaged_record_is_not_used(own_cache: Path, damage: Callable[[str], str]) -> None:
    targets.lazily("resnet18", weights="random")
    (record,) = records(own_cache)
    record.write_text(damage(record.read_text()))
    assert not is_recalled(targets.lazily("resnet18", weights="random"))
    assert is_recalled(targets.lazily("resnet18", weights="random"))


def encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    register(monkeypatch, QUICK, quick_gelu=True)
    checkpoint = save(tmp_path / "clip" / "weights.safetensors", network(QUICK))
    return {
        "open_clip": {"pretrained": "random"},
        "clip_vit_b16": {"checkpoint": str(checkpoint), "templates": ["a {}", "my {}"]},
        "hf": {"model": str(write_hf(tmp_path / "hf"))},
    }


@pytest.mark.parametrize("name", ["open_clip", "clip_vit_b16", "hf"])
def test_a_recalled_encoder_equals_the_built_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = encoders(tmp_path, monkeypatch)[name]
    real = encoder.build(name, **parameters)
    first = encoder.lazily(name, **parameters)
    again = encoder.lazily(name, **parameters)
    for found in (first, again):
        for attribute in ("name", "notes", "image_digest", "text_digest", "context_length"):
            assert getattr(found, attribute) == getattr(real, attribute)
        assert (found.templates, found.long_texts) == (real.templates, real.long_texts)
        assert preprocess_digest(found) == preprocess_digest(real)
        assert encoder.resolve(found) is found
    assert isinstance(again.encoder, LazyEncoder)
    assert again.encoder.source._built is None
    texts = ["cat", "a photo of a dog"]
    assert torch.equal(again.embed_texts(texts), real.embed_texts(texts))
    assert again.count_tokens(texts) == real.count_tokens(texts)
    image = torch.zeros(1, 3, 16, 16) if name == "hf" else torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.embed_images(image), real.embed_images(image))


def test_files_beside_an_encoders_weights_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(encoders(tmp_path, monkeypatch)["hf"]["model"])

    def is_known() -> bool:
        found = encoder.lazily("hf", model=str(folder)).encoder
        return isinstance(found, LazyEncoder) and found.source._built is None

    assert [is_known(), is_known()] == [False, True]
    (folder / "added_tokens.json").write_text("{}")
    assert [is_known(), is_known()] == [False, True]
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"cat"', '"cow"'))
    assert [is_known(), is_known()] == [False, True]


def test_the_digest_of_a_sentence_encoders_files_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_text("1")
    first = SentenceFolder("x", tmp_path).digest
    read: list[Path] = []
    hash_file = hashing.hash_file
    monkeypatch.setattr(hashing, "hash_file", lambda p: read.append(p) or hash_file(p))
    assert SentenceFolder("x", tmp_path).digest == first
    assert read == []
    (tmp_path / "model.safetensors").write_text("2")
    assert SentenceFolder("x", tmp_path).digest != first


def test_a_folders_identity_is_of_all_its_files(tmp_path: Path) -> None:
    def changed(change: Callable[[], object]) -> bool:
        before = dependencies.identity(tmp_path / "x")
        change()
        return dependencies.identity(tmp_path / "x") != before

    folder, other = tmp_path / "x", tmp_path / "other"
    other.write_text("1")
    assert not changed(lambda: None)
    assert changed(folder.mkdir)
    assert changed((folder / "below").mkdir) is False  # without files
    assert changed(lambda: (folder / "below" / "a").symlink_to(other))
    assert changed(lambda: other.write_text("22"))
    assert changed(lambda: other.unlink())


def test_what_changes_while_it_is_read_is_not_known(tmp_path: Path) -> None:
    with dependencies.noted() as files:
        dependencies.depends_on(tmp_path / "x")
        assert files.are_unchanged
        (tmp_path / "x").write_text("1")
        dependencies.depends_on(tmp_path / "x")
        assert not files.are_unchanged
    with dependencies.noted() as files:
        assert files.are_unchanged
        dependencies.depends_on_more()
        assert not files.are_unchanged
