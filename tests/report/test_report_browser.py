"""Reports in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from test_report_latents import tables_of
from test_report_scores import scored_run
from tiny import ColourEncoder, preprocess, write_colours
from torch import nn

import clipdissect
from clipdissect import Settings, report
from clipdissect import probe as probes
from clipdissect.results.run_files import write_json, write_tables
from clipdissect.targets import Target

EVIL = "<script>alert('x')</script>"
WORDS = {
    "orange": (255, 128, 0),
    "lemon": (255, 255, 0),
    "grass": (0, 255, 0),
    "sky": (0, 128, 255),
    "violet": (128, 0, 255),
    EVIL: (255, 0, 0),
}
AXE = ROOT / ".venv" / "axe-core" / "package" / "axe.min.js"
SMOOTH = 20.0  # seconds that walking through 10,000 units in 60 steps may take


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium: scripts/browser installs it")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


class Network(nn.Module):
    """A layer of maps and one of classes, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 24, 3, padding=1))
        self.classifier = nn.Linear(24, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.classifier(self.blocks(images).relu().mean((2, 3)))
        return scores


@dataclass
class WordEncoder(ColourEncoder):
    """Texts by the colour that stands for them."""

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> torch.Tensor:
        rgb = torch.tensor(
            [WORDS.get(text, (255, 255, 255)) for text in texts], dtype=torch.float32
        )
        return nn.functional.normalize(rgb, dim=-1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run with its report, and another to compare it with."""
    folder = tmp_path_factory.mktemp("job")
    write_colours(folder / "images", shades=8)
    (folder / "images" / "red0.png").rename(folder / "images" / "red <b>0.png")
    images = probes.build("folder", root=str(folder / "images"))
    target = Target("tiny", Network().eval(), preprocess(32), ("blocks.1", "classifier"))
    settings = Settings(device="cpu", workers=0)
    result = clipdissect.dissect(
        target,
        probe=images,
        concepts=list(WORDS),
        encoder=WordEncoder(),
        similarity={"name": "soft_wpmi", "top_k": 5},
        settings=settings,
        store=folder / "store",
    )
    first = folder / "run"
    result.save(first)
    report.collect(first, result, target, images, settings=settings, encoder=WordEncoder())
    report.build(first)
    return [first, turned(first)]


def turned(run_folder: Path) -> Path:
    """A copy in which every second unit's best two descriptions have changed places."""
    other = run_folder.with_name("turned")
    shutil.copytree(run_folder, other)
    path = other / "descriptions.csv"
    table = pd.read_csv(path, keep_default_na=False)
    both = table.loc[::2, ["description_2", "description"]].to_numpy()
    table.loc[::2, ["description", "description_2"]] = both
    table.to_csv(path, index=False)
    return other


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a page that fails the test on an error in the console or a request elsewhere."""
    said: list[str] = []
    contexts = []

    def open_(path: Path, address: str = "", width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith(("file:", "data:")) else said.append(f"request {r.url}")
            ),
        )
        page.on("requestfailed", lambda r: said.append(f"failed {r.url}"))
        page.goto(f"file://{path}{address}")
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def count(page: Any) -> int:
    return int(page.locator("#count").inner_text().split()[0].replace(",", ""))


def shown(page: Any) -> list[str]:
    """Units on the cards, in order: `layer number`."""
    found: list[str] = page.eval_on_selector_all(
        "#list .card .name", "nodes => nodes.map((node) => node.innerText.replace(/\\s+/g, ' '))"
    )
    return found


def chosen(page: Any) -> str:
    card = "document.activeElement.closest('.card')"
    text: str = page.evaluate(f"{card}.querySelector('.name b').innerText")
    return text


def test_search_filter_sort_and_keys(runs: list[Path], open_page: Any) -> None:
    page = open_page(runs[0] / "report" / "index.html")
    table = pd.read_csv(runs[0] / "descriptions.csv", keep_default_na=False)
    assert count(page) == len(table)
    best = table.sort_values("similarity", ascending=False, kind="stable").iloc[0]
    assert shown(page)[0] == f"{best['layer']} {best['unit']}"
    page.wait_for_selector("#list .card img")

    page.select_option("#layer", label="blocks.1")
    assert count(page) == 24
    page.select_option("#layer", label="all layers")
    page.keyboard.press("/")
    page.keyboard.type("LEMON")
    page.wait_for_function("document.getElementById('count').textContent.includes('of')")
    texts = table.filter(regex=r"^description(_\d+)?$")
    assert count(page) == int((texts == "lemon").any(axis=1).sum()) > 0
    page.fill("#search", '"sky"')
    page.wait_for_timeout(200)
    assert count(page) == int((table["description"] == "sky").sum())
    page.fill("#search", "nothing like this")
    page.wait_for_selector("#none:not([hidden])")
    page.click("#reset")
    assert count(page) == len(table)

    page.select_option("#sort", "margin")
    margins = table.sort_values("margin", ascending=False, kind="stable").iloc[0]
    assert shown(page)[0] == f"{margins['layer']} {margins['unit']}"
    page.select_option("#sort", "unit")
    assert shown(page)[:2] == ["blocks.1 0", "blocks.1 1"]
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert chosen(page) == "0"
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert chosen(page) == "2"
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_selector("#one h2")
    assert page.url.endswith("#blocks.1/1?sort=unit")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.title.startsWith('blocks.1/2 ')")  # the address is earlier
    page.keyboard.press("Escape")
    page.wait_for_selector("body[data-view=list]")
    assert chosen(page) == "2"
    page.evaluate("location.hash = 'elsewhere'; new Promise((done) => setTimeout(done, 50))")
    assert chosen(page) == "2"
    page.keyboard.press("o")
    assert shown(page)[0] == "classifier 999"


def test_link_to_a_unit_theme_and_regions(runs: list[Path], open_page: Any) -> None:
    page = open_page(runs[0] / "report" / "index.html", "#blocks.1/7")
    table = pd.read_csv(runs[0] / "descriptions.csv", keep_default_na=False)
    row = table[(table["layer"] == "blocks.1") & (table["unit"] == 7)].iloc[0]
    assert page.locator("#one h2").inner_text() == row["description"]
    page.wait_for_selector("#one img")
    images = pd.read_csv(runs[0] / "top_images.csv")
    rows = images[(images["layer"] == "blocks.1") & (images["unit"] == 7) & (images["rank"] <= 5)]
    names = page.eval_on_selector_all(
        "#one figcaption > :first-child", "nodes => nodes.map((node) => node.innerText)"
    )
    assert names[:5] == rows["image"].tolist()
    assert rows["image"].iloc[0] in page.locator("#one img").first.get_attribute("alt")
    page.wait_for_function("[...document.images].every((image) => image.naturalWidth === 160)")
    assert page.locator("#one .region").count() > 0
    page.keyboard.press("r")
    assert not page.locator("#one .region").first.is_visible()

    def ground() -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    light = ground()
    page.keyboard.press("t")
    assert ground() == light
    page.keyboard.press("t")
    assert ground() != light
    for _ in range(20):  # the browser writes down what a page remembers in its own time
        page.reload()
        page.wait_for_selector("body[data-ready]")
        if ground() != light:
            break
        page.wait_for_timeout(200)
    assert ground() != light
    dark = open_page(runs[0] / "report" / "index.html", color_scheme="dark")
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == ground()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (400, 900)])
def test_units_are_on_the_first_screen(
    runs: list[Path], open_page: Any, width: int, height: int
) -> None:
    page = open_page(runs[0] / "report" / "index.html", width=width)
    card = page.locator("#list .card").first.bounding_box()
    assert card["y"] + card["height"] < height
    assert not page.locator("#overview .layer").first.is_visible()
    page.click("#overview summary")
    page.locator("#overview [data-search]").first.click()
    assert page.locator("#search").input_value().startswith('"')


def test_escape_clears_the_search_and_the_address_has_it(runs: list[Path], open_page: Any) -> None:
    page = open_page(runs[0] / "report" / "index.html")
    every = count(page)
    page.fill("#search", "lemon")
    page.wait_for_function("location.hash === '#units?search=lemon'")
    few = count(page)
    assert 0 < few < every
    page.locator("#list a.open").first.click()
    page.wait_for_function("location.hash.endsWith('?search=lemon')")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.click("#all")
    page.wait_for_function("location.hash === '#units?search=lemon'")
    assert (count(page), page.locator("#search").input_value()) == (few, "lemon")
    page.focus("#search")
    page.keyboard.press("Escape")
    assert (count(page), page.locator("#search").input_value()) == (every, "")
    assert page.url.endswith("#units")


def test_a_link_to_no_unit_says_so(runs: list[Path], open_page: Any) -> None:
    page = open_page(runs[0] / "report" / "index.html", "#blocks.1/999?search=lemon")
    assert page.locator("#absent").inner_text() == "This page has no unit blocks.1/999."
    page.evaluate("location.hash = 'units'")
    page.wait_for_selector("#absent", state="hidden")


def test_code_in_concepts_and_file_names_is_text(runs: list[Path], open_page: Any) -> None:
    page = open_page(runs[0] / "report" / "index.html")
    page.fill("#search", "<script>")
    page.wait_for_selector(f"#list >> text={EVIL}")
    assert count(page) > 0
    page.fill("#search", "")
    page.select_option("#layer", label="blocks.1")
    page.wait_for_selector("#list .card img")
    names = page.eval_on_selector_all("#list img", "nodes => nodes.map((node) => node.alt)")
    assert page.locator("#list b b, #list i b").count() == 0
    assert all("Top image" in name for name in names)


def test_phone_and_print(runs: list[Path], open_page: Any) -> None:
    page = open_page(runs[0] / "report" / "index.html", width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto(f"file://{runs[0]}/report/index.html#blocks.1/7")
    page.wait_for_selector("#one h2")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    paper = open_page(runs[0] / "report" / "index.html")
    paper.wait_for_selector("#list .card img")
    paper.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper.emulate_media(media="print")
    assert paper.locator("#list .card").count() == 200
    assert not paper.locator("#search").is_visible()
    places = paper.eval_on_selector_all("#list .card", "n => n.slice(0, 3).map((c) => c.offsetTop)")
    assert places[0] == places[1] < places[2]
    paper.evaluate("dispatchEvent(new Event('afterprint'))")
    paper.emulate_media(media="screen")
    assert paper.locator("#list .card").count() < 30


def test_single_file_needs_nothing_beside_it(
    runs: list[Path], tmp_path: Path, open_page: Any
) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(runs[0], run_folder)
    page_file = report.build(run_folder, single_file=True)
    alone = shutil.copy(page_file, tmp_path / "alone.html")
    page = open_page(alone)
    page.wait_for_selector("#list .card img")
    assert page.evaluate("[...document.images].slice(0, 3).every((i) => i.src.startsWith('data:'))")


def test_comparison_of_three(runs: list[Path], tmp_path: Path, open_page: Any) -> None:
    page = open_page(report.compare([runs[0], *runs], tmp_path / "compare"))
    assert page.locator("h1").inner_text() == "run and 2 more"
    tags = page.locator("#list .card").first.locator(".tag").all_inner_texts()
    assert tags == ["A", "B", "C"]
    assert "score of C" in page.locator("#sort").inner_text()
    page.click("#overview summary")
    pairs = page.locator("#overview table").first.locator("tbody tr").first.locator("td")
    assert pairs.all_inner_texts()[:2] == ["-", "100.0 %"]


def test_comparison_shows_changes_first(runs: list[Path], tmp_path: Path, open_page: Any) -> None:
    page = open_page(report.compare(runs, tmp_path / "compare"))
    one, other = (pd.read_csv(r / "descriptions.csv", keep_default_na=False) for r in runs)
    same = int((one["description"] == other["description"]).sum())
    assert f"{100 * same / len(one):.1f} %" in page.locator(".sum").inner_text()
    page.select_option("#show", "same")
    assert count(page) == same
    page.select_option("#show", "changed")
    assert count(page) == len(one) - same > 0
    tags = page.locator("#list .card").first.locator(".tag").all_inner_texts()
    assert tags == ["A", "B"]
    assert page.locator("h1").inner_text() == f"{runs[0].name} and turned"


class FewSentences:
    """Texts of one length point the same way."""

    name = digest = "few"

    def embed(self, texts: list[str], device: str = "cpu") -> torch.Tensor:
        return torch.eye(16)[[len(text) for text in texts]]


@pytest.mark.parametrize(
    ("sentences", "order"), [(None, [0, 1, 3, 4, 2]), (FewSentences(), [1, 3, 0, 4, 2])]
)
def test_changed_units_are_first_without_similarities(
    tmp_path: Path, open_page: Any, sentences: Any, order: list[int]
) -> None:
    """Unit 2 is the same; 1 and 3 have one description; 0's two are at right angles, 4's near."""
    sides = [["a", "", "same", "c", "de"], ["bcd", "x", "same", "", "fg"]]
    for name, texts in zip("AB", sides, strict=True):
        table = pd.DataFrame({"layer": "fc", "unit": range(5), "description": texts})
        (tmp_path / name).mkdir()
        table.to_csv(tmp_path / name / "descriptions.csv", index=False)
    made = report.compare([tmp_path / "A", tmp_path / "B"], tmp_path / "out", sentences=sentences)
    page = open_page(made)
    assert page.locator("#sort option").first.inner_text() == "changed first"
    assert page.evaluate("dissect.listed().map((item) => item.unit)") == order
    assert shown(page)[:2] == [f"fc {unit}" for unit in order[:2]]


def test_latents_are_filtered_sorted_and_linked(tmp_path: Path, open_page: Any) -> None:
    page = open_page(report.build(tables_of(tmp_path / "run")))
    order = "dissect.listed().map((item) => item.layer.name + '/' + item.unit)"
    latents = [f"fc{{sae}}/{unit}" for unit in range(4)]
    late = latents[2:]  # the rare one and the dead one
    assert page.evaluate(order) == ["fc/0", latents[1], latents[0], *late]
    page.keyboard.press("o")
    assert page.evaluate(order) == [*latents[:2], "fc/0", *late]
    for sort in ("fires", "density"):
        page.select_option("#sort", sort)
        assert page.evaluate(order) == [*latents, "fc/0"]
    page.select_option("#show", "rare")
    assert shown(page) == ["fc{sae} 2"]
    assert page.locator("#list .badge").all_inner_texts() == ["rare"]
    page.wait_for_selector("#list img")
    assert page.locator("#list .frame").count() == 2  # it fires on one image
    page.click("#list a.open")
    firing = page.locator("#one .firing")
    assert firing.inner_text() == "fires on 1 of 50,000 images, 1.0e-4 % of tokens"
    assert page.locator("#one .frame").count() == 2
    assert page.locator("#one .neighbours").count() == 0

    page.evaluate("location.hash = 'fc{sae}/0'")
    page.wait_for_selector("#one .neighbours")
    texts = page.locator("#one .neighbours li").all_inner_texts()
    assert [" ".join(text.split()) for text in texts] == ["1 dogs 0.75", "3 no description 0.50"]
    assert firing.inner_text() == "fires on 12,345 of 50,000 images, 25 % of tokens"
    # Of 2 x 2 patches, the first fires at a ninth of the largest activation, the second at it.
    page.wait_for_selector("#one .region .edge", state="attached")
    place = "(r) => ['x', 'y', 'width', 'height', 'opacity'].map((n) => Number(r.getAttribute(n)))"
    rects = page.evaluate(f"[...document.querySelectorAll('#one .region rect')].map({place})")
    assert rects == [[0, 0, 50, 50, pytest.approx(0.8 * 8 / 9)], [50, 0, 50, 50, 0]]
    silent = page.locator("#one .region path.heat").get_attribute("d")
    assert silent == "M0 0H100V100H0ZM0 0h50v50h-50ZM50 0h50v50h-50Z"
    page.click("#one .neighbours a >> nth=0")
    page.wait_for_function("document.title.startsWith('fc{sae}/1 ')")
    assert page.locator("#one h2").inner_text() == "dogs"
    page.keyboard.press("?")
    assert "neighbours" in page.locator("#help").inner_text()


def test_latents_of_two_runs(tmp_path: Path, open_page: Any) -> None:
    folders = [tables_of(tmp_path / name) for name in ("one", "two")]
    page = open_page(report.compare(folders, tmp_path / "out"), "#fc{sae}/0")
    page.wait_for_selector("#one .neighbours")
    of_first = page.locator("#one .neighbours").first
    texts = of_first.locator("li").all_inner_texts()
    # Latent 3 isn't compared: neither run describes it.
    assert [" ".join(text.split()) for text in texts] == ["1 dogs 0.75", "3 0.50"]
    assert of_first.locator("a").count() == 1
    page.keyboard.press("Escape")
    page.select_option("#show", "rare")
    page.wait_for_selector("#list img")
    assert page.locator("#list .frame").count() == 2 * page.locator("#list .strip").count()


def test_scores_on_cards_as_order_and_as_filter(tmp_path: Path, open_page: Any) -> None:
    made = report.build(scored_run(tmp_path / "run"))
    page = open_page(made)
    page.select_option("#sort", label="clarity")
    assert shown(page) == ["a 1", "b 0", "a 0", "a 2"]  # the dead unit has none
    cells = page.locator("#list .card").first.locator(".scores div:not(.unknown)").all_inner_texts()
    found = [" ".join(text.split()) for text in cells]
    assert found == [
        "clarity 0.750",
        "polysem. 0.900",
        "redundancy 0.500",
        "simulation 0.125",
        "my score 2000",
    ]
    heights = page.eval_on_selector_all("#list .card", "(n) => n.map((c) => c.offsetHeight)")
    assert len(set(heights)) == 1
    page.select_option("#sort", label="polysemanticity")  # whose smallest values are best
    assert shown(page) == ["a 0", "b 0", "a 1", "a 2"]

    page.select_option("#score", label="simulation at least")
    assert count(page) == 4  # no threshold yet
    page.fill("#threshold", "0.2")
    assert shown(page) == ["a 0", "b 0"]
    page.select_option("#score", label="polysemanticity at most")
    assert shown(page) == ["a 0"]
    assert page.url.endswith("#units?score=polysemanticity&threshold=0.2&sort=polysemanticity-0")
    page.click("#list .card a.open")
    page.wait_for_selector("#one .scores")
    assert "scores are of cats" in " ".join(page.locator("#one").inner_text().split())
    page.keyboard.press("Escape")
    page.wait_for_selector("body[data-view=list]")
    assert shown(page) == ["a 0"]
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert shown(page) == ["a 0"]
    page.fill("#threshold", "0.01")
    page.click("#reset")
    assert count(page) == 4
    # The address of any filter opens in another page; unknown values are left out.
    other = open_page(made, "#units?search=cat&layer=7&score=none&turned=yes&sort=unit")
    assert shown(other) == ["a 0"] and other.locator("#layer").input_value() == ""
    other.fill("#search", "")
    other.wait_for_function("document.querySelectorAll('#list .card').length === 4")
    assert shown(other) == ["b 0", "a 2", "a 1", "a 0"]


def test_scores_of_two_runs(tmp_path: Path, open_page: Any) -> None:
    folders = [scored_run(tmp_path / name) for name in ("one", "two")]
    (folders[1] / "scores.csv").unlink()
    page = open_page(report.compare(folders, tmp_path / "out"))
    orders = page.locator("#sort option").all_inner_texts()
    assert "simulation" in orders and "clarity of B" in orders and "simulation of B" not in orders
    page.select_option("#score", label="simulation at least")
    page.fill("#threshold", "0.2")
    assert sorted(shown(page)) == ["a 0", "b 0"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(runs: list[Path], tmp_path: Path, open_page: Any, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("no axe-core: scripts/browser gets it from npm")
    compared = report.compare(runs, tmp_path / "compare")
    for path, address in (
        (runs[0] / "report/index.html", ""),
        (compared, ""),
        (runs[0] / "report/index.html", "#blocks.1/7"),
        (report.build(tables_of(tmp_path / "latents")), "#fc{sae}/0"),
        (report.build(scored_run(tmp_path / "scores")), ""),
    ):
        page = open_page(path, address, color_scheme=scheme)
        page.wait_for_selector(".card .scores" if "scores" in path.parts else ".card img")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        each = "(v) => [v.id, v.nodes[0].html, v.nodes[0].failureSummary]"
        found = page.evaluate(
            f"axe.run({{preload: false}}).then((found) => found.violations.map({each}))"
        )
        assert found == []


def test_ten_thousand_units_scroll_smoothly(tmp_path: Path, open_page: Any) -> None:
    units, rng = 10_000, np.random.default_rng(0)
    scores = np.sort(rng.normal(3, 1, (units, 5)), axis=1)[:, ::-1]
    table: dict[str, Any] = {"layer": "layer4", "unit": np.arange(units)}
    for n in range(5):
        ending = "" if n == 0 else f"_{n + 1}"
        table[f"description{ending}"] = [f"concept {c}" for c in rng.integers(0, 20_000, units)]
        table[f"similarity{ending}"] = scores[:, n]
    table |= {"margin": scores[:, 0] - scores[:, 1], "unit_flags": ""}
    images = pd.DataFrame(
        {
            "layer": "layer4",
            "unit": np.repeat(np.arange(units), 5),
            "rank": np.tile(np.arange(1, 6), units),
            "image": "a.png",
            "activation": 1.0,
        }
    )
    write_tables(tmp_path, pd.DataFrame(table), images)
    write_json(tmp_path / "run.json", {})
    page = open_page(report.build(tmp_path))
    assert count(page) == units
    most = 0
    start = time.perf_counter()
    for step in range(1, 61):
        page.evaluate(
            "(part) => new Promise((done) => { scrollTo(0, part * document.body.scrollHeight);"
            " requestAnimationFrame(() => requestAnimationFrame(done)); })",
            step / 60,
        )
        most = max(most, page.locator("#list .card").count())
    assert time.perf_counter() - start < SMOOTH
    assert 0 < most < 40
    last = np.argmin(scores[:, 0])
    page.wait_for_selector("#list .card[data-index='9999']")
    assert shown(page)[-1] == f"layer4 {last}"


def test_a_layer_of_very_many_units_opens(tmp_path: Path, open_page: Any) -> None:
    """More units than a function takes arguments, such as a sparse autoencoder's latents."""
    few, times = 100, 1500
    table = {"layer": "sae", "unit": range(few), "description": "x", "similarity": 1.0}
    pd.DataFrame(table).to_csv(tmp_path / "descriptions.csv", index=False)
    made = report.build(tmp_path)
    data = made.parent / "data" / "units.js"
    start = json.loads(data.read_text()[len("dissect.start(") : -len(");\n")])
    (layer,) = start["layers"]
    layer["units"] *= times
    side = layer["sides"][0]
    layer["sides"] = [side | {name: side[name] * times for name in "dsmf"}]
    data.write_text(f"dissect.start({json.dumps(start)});\n")
    page = open_page(made)
    assert count(page) == few * times
    assert shown(page)[:2] == ["sae 0", "sae 1"]


def test_units_are_ordered_by_closeness_to_a_word(runs: list[Path], open_page: Any) -> None:
    page = open_page(runs[0] / "report" / "index.html")
    page.fill("#meaning", "Lemon")
    page.press("#meaning", "Enter")
    page.wait_for_selector("#meaning-note:not([hidden])")
    note = page.text_content("#meaning-note")
    assert "“Lemon”" in note
    assert "of 6 random words" in note
    shown = page.locator("#list .card .badges").all_text_contents()[:4]
    values = [float(re.search(r"closeness (-?[0-9.]+)", text)[1]) for text in shown]  # type: ignore[index]
    assert values == sorted(values, reverse=True)
    assert "meaning=Lemon&sort=meaning" in page.url
    page.fill("#meaning", "quark")
    page.press("#meaning", "Enter")
    page.wait_for_function("document.querySelector('#meaning-note').textContent.includes('quark')")
    assert "isn't one of the 6 listed words" in page.text_content("#meaning-note")
    page.press("#meaning", "Escape")
    page.wait_for_selector("#meaning-note[hidden]", state="attached")
    assert page.input_value("#meaning") == "" and "meaning" not in page.url


def test_units_are_ordered_by_closeness_to_a_picture(runs: list[Path], open_page: Any) -> None:
    page = open_page(runs[0] / "report" / "index.html", "#blocks.1/5")
    name = page.locator("#one figcaption span").first.text_content()
    page.locator("#one figcaption button").first.click()
    page.wait_for_selector("#meaning-note:not([hidden])")
    assert page.text_content("#meaning-note") == f"Closest to the picture {name} first."
    assert page.input_value("#meaning") == name


def test_a_single_file_has_the_table_within_its_limit(runs: list[Path], open_page: Any) -> None:
    page = open_page(report.build(runs[1], single_file=True))
    page.fill("#meaning", "grass")
    page.press("#meaning", "Enter")
    page.wait_for_selector("#meaning-note:not([hidden])")
    page = open_page(report.build(runs[1], single_file=True, megabytes=0))
    assert page.locator("#meaning").count() == 0
    report.build(runs[1])
