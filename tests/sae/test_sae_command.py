"""`clipdissect sae`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sae_files
import torch

from clipdissect.app.commands import sae as command


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> str:
    monkeypatch.setattr(sys, "argv", ["clipdissect sae", *map(str, arguments)])
    command.main()
    return capsys.readouterr().out


def failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> str:
    monkeypatch.setattr(sys, "argv", ["clipdissect sae", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_a_folder_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = sae_files.weights()
    tensors["W_dec"] = torch.nn.functional.normalize(tensors["W_dec"], dim=1) * 2
    tensors["W_dec"][3] = 0
    folder = tmp_path / "my sae"
    sae_files.saelens(
        folder, "topk", tensors, k=4, normalize_activations="expected_average_only_in"
    )
    text = shown(monkeypatch, capsys, folder, "--layer", "blocks.9")
    lines = {line[2:].partition("  ")[0]: line.split("  ")[-1] for line in text.splitlines()}
    expected = {
        "format": "saelens",
        "layer": "blocks.9.hook_resid_post",
        "inputs": "6",
        "latents": "10",
        "encode": "(x - b_dec) W_enc + b_enc, then the largest 4, then ReLU",
        "decode": "codes W_dec + b_dec",
        "L0": "at most 4 per activation",
        "decoder": "norms of rows 2; 1 row of 0 (dead latents)",
        "architecture": "topk",
        "version": "6.5.0",
    }
    assert expected.items() <= {key: value.strip() for key, value in lines.items()}.items()
    assert "note: the sparse autoencoder was trained on activations scaled" in text
    assert text.endswith(
        f"  clipdissect dissect target=<network> sae=saelens 'sae.path={folder}' "
        f"sae.layer=blocks.9\n"
    )


def test_class_tokens_and_files_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sae_files.prisma(tmp_path, cls_token_only=True)
    text = shown(monkeypatch, capsys, tmp_path)
    assert "blocks.9.hook_resid_post (class tokens)" in text
    size = (tmp_path / "config.json").stat().st_size
    assert f"config.json {size} B, weights.pt" in text
    assert "sae.layer=<its layer>" in text
    assert "L0             not limited" in text


def test_settings_that_the_files_lack_are_given_as_to_dissect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sae.pt"
    sae_files.overcomplete(file)
    assert "set sae.kind=relu, sae.kind=topk" in failure(monkeypatch, capsys, file)
    arguments = ["sae=overcomplete", f"sae.path={file}", "sae.kind=batch_topk", "sae.threshold=0.5"]
    text = shown(monkeypatch, capsys, *arguments)
    assert "x W_enc + b_enc, then ReLU, with values below 0.5 set to 0" in text
    assert text.endswith(f"target=<network> {' '.join(arguments)} sae.layer=<its layer>\n")


def test_a_transcoder_has_no_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sae_files.sparsify(tmp_path / "layers.9.mlp", transcode=True)
    text = shown(monkeypatch, capsys, tmp_path / "layers.9.mlp")
    assert "none: codes alone don't reconstruct its input" in text
    assert "norms of rows" not in text


def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "missing: the sparse autoencoder" in failure(monkeypatch, capsys, tmp_path / "absent")
    assert "one folder, or sae=<format>" in failure(monkeypatch, capsys, "a", "b")
    assert "one folder, or sae=<format>" in failure(monkeypatch, capsys, "a", "sae=saelens")
    assert "sae=none has nothing to show" in failure(monkeypatch, capsys, "sae=none")
    assert "Did you mean prisma" in failure(monkeypatch, capsys, "sae=prisms", "sae.path=x")
    assert "missing: the sparse autoencoder" in failure(monkeypatch, capsys, "sae.pt")
