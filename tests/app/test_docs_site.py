"""The documentation's site: its navigation, and links of its sources. `scripts/docs` builds it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts" / "docs_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(nav: Any) -> Iterator[str]:
    for entry in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(entry, str):
            yield entry
        else:
            yield from pages_of(entry)


def test_the_navigation_has_every_page_once(site: ModuleType) -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    files = [*DOCS.glob("*.md"), *DOCS.glob("notebooks/*.py")]
    assert sorted(pages_of(nav)) == sorted(site.uri(file) for file in files)


def test_links_of_the_documents_lead_to_files(site: ModuleType) -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]
    found = {(p, link) for p in pages for link in site.links(p.read_text("utf-8"))}
    broken = [(page.name, link) for page, link in found if not (page.parent / link).exists()]
    assert broken == []
    assert (DOCS / "adding.md", "../CONTRIBUTING.md") in found


@pytest.mark.parametrize(
    ("page", "link", "in_the_site"),
    [
        ("docs/scores.md", "[a](../results/offline)", "[a](results/offline/README.md)"),
        ("docs/scores.md", "[a](../results/tables)", "[a](results/tables/index.md)"),
        ("docs/adding.md", "[a](../CONTRIBUTING.md#rules)", "[a](CONTRIBUTING.md#rules)"),
        ("CONTRIBUTING.md", "![a](docs/images/sae.webp)", "![a](images/sae.webp)"),
        ("results/offline/README.md", "[a](../../docs/faq.md)", "[a](../../faq.md)"),
        ("docs/faq.md", "[a](notebooks/own_model.py)", "[a](notebooks/own_model.md)"),
        ("docs/notebooks/own_model.py", "[a](../faq.md)", "[a](../faq.md)"),
        ("docs/scores.md", "[a](confidence.md)", "[a](confidence.md)"),
        ("docs/scores.md", "[a](https://arxiv.org)", "[a](https://arxiv.org)"),
        ("docs/scores.md", "[a](missing.md)", "[a](missing.md)"),
        (
            "docs/scores.md",
            "```\n[a](../results/offline)\n```",
            "```\n[a](../results/offline)\n```",
        ),
    ],
)
def test_links_across_the_border_of_docs(
    site: ModuleType, page: str, link: str, in_the_site: str
) -> None:
    assert site.with_links_of_the_site(ROOT / page, link) == in_the_site


def test_a_folder_without_readme_is_a_list_of_its_files(site: ModuleType) -> None:
    page = site.listing(ROOT / "results" / "offline" / "table1")
    assert page.startswith("# results/offline/table1\n\nFiles in the repository:\n\n- `")
    assert "- `run.json`\n" in page


def test_help_texts_name_no_folder_of_this_machine(site: ModuleType) -> None:
    text = site.help_text(("dissect",))
    assert text.startswith("usage: clipdissect dissect [option=value ...]")
    assert str(ROOT) not in text


def test_every_command_has_a_section(site: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "help_text", lambda name: f"help of {' '.join(name)}")
    sections = site.help_of_every_command()
    assert sections.startswith("### clipdissect\n\n```text\nhelp of \n```\n")
    assert "### clipdissect show\n\n```text\nhelp of show\n```\n" in sections
    assert "### clipdissect metric_checks\n" in sections
    assert site.HELP in Path(DOCS / "command_line.md").read_text("utf-8")


def test_outputs_of_cells(site: ModuleType) -> None:
    html = site.output_as_html({"data": {"text/plain": "x", "text/html": "<b>x</b>"}})
    assert html == '<div class="output">\n<b>x</b>\n</div>'
    html = site.output_as_html({"name": "stdout", "text": "a < b\n"})
    assert html == '<div class="output">\n<pre>a &lt; b\n</pre>\n</div>'
    html = site.output_as_html({"data": {"text/plain": "<Figure>", "image/png": "iVBO\n"}})
    assert 'src="data:image/png;base64,iVBO"' in html
