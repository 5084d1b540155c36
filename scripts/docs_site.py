"""Hooks of the documentation's site: notebooks, help texts, and files outside `docs/`.

Notebooks are kept as text (`docs/notebooks/*.py`, by jupytext) and executed for the site. Markdown
links may lead to any file of the repository, as they do in the repository's own view: the hooks
add such files to the site, under their path in the repository, and rewrite the links.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = DOCS / "notebooks"
HELP = "<!-- help of every command -->"
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the notebooks' pages, and files outside `docs/` that its pages, or these, link to."""
    from mkdocs.structure.files import File

    for notebook in sorted(NOTEBOOKS.glob("*.py")):
        files.remove(files.get_file_from_path(notebook.relative_to(DOCS).as_posix()))
        files.append(File.generated(config, uri(notebook), content=notebook_page(notebook)))
    waiting = sorted(DOCS.glob("**/*.md"))
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for file in {target(page, link) for link in links(page.read_text("utf-8"))} - seen - {None}:
            seen.add(file)
            if file.is_dir():
                files.append(File.generated(config, uri(file), content=listing(file)))
            elif not file.is_relative_to(DOCS):
                files.append(File.generated(config, uri(file), abs_src_path=str(file)))
            waiting += [file] if file.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite links across the border of `docs/`; insert the help texts."""
    if HELP in markdown:
        markdown = markdown.replace(HELP, help_of_every_command())
    return with_links_of_the_site(DOCS / (page.file.abs_src_path or page.file.src_uri), markdown)


def with_links_of_the_site(page: Path, markdown: str) -> str:
    """Return a page's text with links that fit the places of files in the site."""
    parts = FENCE.split(markdown)  # odd ones are code
    parts[::2] = [LINK.sub(lambda match: rewritten(page, match), part) for part in parts[::2]]
    return "".join(parts)


def links(markdown: str) -> Iterator[str]:
    """Yield the relative links of a page, without fragments, outside its code."""
    for part in FENCE.split(markdown)[::2]:
        yield from (match[2] for match in LINK.finditer(part))


def target(page: Path, link: str) -> Path | None:
    """Return what a page's link leads to in the repository; of a folder the README, if any."""
    path = Path(os.path.normpath(page.parent / link))
    path = path / "README.md" if (path / "README.md").is_file() else path
    return path if path.is_relative_to(ROOT) and path.exists() else None


def uri(file: Path) -> str:
    """Return a file's path in the site's sources; a notebook's or a folder's is its page's."""
    if file.is_dir():
        file = file / "index.md"
    elif file.parent == NOTEBOOKS:
        file = file.with_suffix(".md")
    return file.relative_to(DOCS if file.is_relative_to(DOCS) else ROOT).as_posix()


def listing(folder: Path) -> str:
    """Return a page with the names of a folder's files."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))
    shown = [name for name in names if (folder / name).is_file() and not name.startswith(".")]
    lines = "\n".join(f"- `{name}`" for name in shown)
    return f"# {folder.relative_to(ROOT).as_posix()}\n\nFiles in the repository:\n\n{lines}\n"


def rewritten(page: Path, match: re.Match[str]) -> str:
    file = target(page, match[2])
    if file is None:
        return match[0]  # the build complains
    link = os.path.relpath(uri(file), Path(uri(page)).parent)
    return f"{match[1]}{link}{match[3] or ''}{match[4]}"


def notebook_page(file: Path) -> str:
    """Execute a notebook and return it as Markdown, with its outputs as HTML.

    Raises:
        CellExecutionError: a cell fails.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(file)
    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}  # the working folder
        quiet = ["--log-level=ERROR"]
        NotebookClient(notebook, timeout=600, resources=resources, extra_arguments=quiet).execute()
    return "\n\n".join(cell_as_markdown(cell) for cell in notebook.cells)


def cell_as_markdown(cell: Any) -> str:
    if cell.cell_type == "markdown":
        return str(cell.source)
    # Standard error has logs and progress bars.
    shown = [output_as_html(o) for o in cell.outputs if o.get("name") != "stderr"]
    return "\n\n".join([f"```python\n{cell.source}\n```", *shown])


def output_as_html(output: Any) -> str:
    """Return the richest form of a cell's output that a page can show."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "text/html" in data:
        html = data["text/html"]
    elif "image/png" in data:
        html = f'<img alt="figure" src="data:image/png;base64,{data["image/png"].strip()}">'
    else:
        html = f"<pre>{escape(data['text/plain'])}</pre>"
    return f'<div class="output">\n{html}\n</div>'


def help_of_every_command() -> str:
    """Return a section per runner and command with its `--help`."""
    from clipdissect.app.help import COMMANDS, RUNNERS

    with ThreadPoolExecutor(2) as pool:
        texts = pool.map(help_text, [(), *((name,) for name in (*RUNNERS, *COMMANDS))])
    titles = ["clipdissect", *(f"clipdissect {name}" for name in (*RUNNERS, *COMMANDS))]
    return "\n".join(
        f"### {title}\n\n```text\n{text}\n```\n" for title, text in zip(titles, texts, strict=True)
    )


def help_text(name: tuple[str, ...]) -> str:
    command = [sys.executable, "-m", "clipdissect", *name, "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"}
    )
    return done.stdout.strip().replace(f"{ROOT}{os.sep}", "")
