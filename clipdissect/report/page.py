"""Pages: templates, scripts and data written into a folder, or into one file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipdissect._version import __version__
from clipdissect.errors import DissectError
from clipdissect.report.material import THUMBNAILS, compact
from clipdissect.utils.files import write_text

SCRIPTS = ("dom.js", "cards.js", "list.js", "app.js")
STYLE = "report.css"
TYPES = {".webp": "image/webp", ".jpg": "image/jpeg"}
OURS = b'<meta name="generator" content="clipdissect'
HEAD = 2000  # bytes of a page, in which that stands
DATA = re.compile(r"units\.js|\d+-\d+-\d+\.js")
CALL = b"dissect."  # how every file of data begins


@dataclass(frozen=True)
class Page:
    """What a page is made of.

    Args:
        template: its file's name.
        values: of the template.
        start: the data of all units.
        details: (side, layer's number, chunk's number) to the chunk.
    """

    template: str
    values: Mapping[str, Any]
    start: Mapping[str, Any]
    details: Mapping[tuple[int, int, int], Mapping[str, Any]]


def write(page: Page, folder: Path) -> Path:
    """Write a page as a folder that opens from disk; `index.html` is written last.

    Args:
        page: what to write.
        folder: thumbnails lie in `thumbnails` below it.

    Returns:
        The path of `index.html`.

    Raises:
        DissectError: the folder has an `index.html` of something else.
    """
    clear(folder)
    for name in (*SCRIPTS, STYLE):
        write_text(folder / "assets" / name, _static(name))
    for (side, layer, chunk), values in page.details.items():
        write_text(
            folder / "data" / f"{side}-{layer}-{chunk}.js", _details(side, layer, chunk, values)
        )
    write_text(folder / "data" / "units.js", _start(page.start))
    scripts = [*(f"assets/{name}" for name in SCRIPTS), "data/units.js"]
    html = _render(page, scripts=scripts, inline=None)
    write_text(folder / "index.html", html)
    return folder / "index.html"


def write_single(page: Page, folder: Path, megabytes: float) -> Path:
    """Write a page as one file; pictures beyond the limit are left out, and the page says so.

    Args:
        page: what to write.
        folder: where thumbnails lie, and where `index.html` goes.
        megabytes: of pictures, as they stand in the file.

    Returns:
        The path of `index.html`.

    Raises:
        DissectError: the folder has an `index.html` of something else.
    """
    clear(folder)
    pictures, wanted = _embedded(page, folder / THUMBNAILS, megabytes * 1e6)
    start = {**page.start, "single": True}
    if len(pictures) < wanted:
        start["cut"] = (
            f"This single file holds {len(pictures):,} of {wanted:,} pictures, the best-ranked "
            f"first: its limit is {megabytes:g} MB (report.megabytes). The folder holds all."
        )
    texts = [_static(name) for name in SCRIPTS]
    texts.append(f"dissect.pictures({compact(pictures)});")
    texts += [_details(*key, values) for key, values in page.details.items()]
    texts.append(_start(start))
    inline = {"css": Markup(_static(STYLE)), "scripts": [Markup(text) for text in texts]}
    write_text(folder / "index.html", _render(page, scripts=[], inline=inline))
    return folder / "index.html"


def check(folder: Path) -> None:
    """See that a page may be written into a folder.

    Raises:
        DissectError: it is a file, or has an `index.html` that isn't a report.
    """
    if folder.is_file():
        raise DissectError(f"{folder} is a file; a page needs a folder")
    index = folder / "index.html"
    if index.exists() and OURS not in _begins(index, HEAD):
        raise DissectError(
            f"{index} isn't a report of clipdissect and would be lost: choose another folder, or "
            f"move the file away"
        )


def clear(folder: Path) -> None:
    """Take away an earlier page and its data; material, thumbnails and files of others stay.

    Raises:
        DissectError: the folder has an `index.html` of something else.
    """
    check(folder)
    (folder / "index.html").unlink(missing_ok=True)
    for path in (folder / "data").glob("*.js"):
        if DATA.fullmatch(path.name) and _begins(path, len(CALL)) == CALL:
            path.unlink()
    with suppress(OSError):  # not there, or not empty
        (folder / "data").rmdir()


def _begins(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _embedded(page: Page, thumbnails: Path, limit: float) -> tuple[dict[str, str], int]:
    """Files as data URLs, best ranks first, up to a limit; and how many there were."""
    found: dict[str, str] = {}
    size, full = 0, False
    names = _by_rank(page)
    for name in names:
        path = thumbnails / name
        if full or not path.is_file():
            continue
        text = base64.b64encode(path.read_bytes()).decode()
        size += len(text)
        full = size > limit
        if not full:
            found[name] = f"data:{TYPES[path.suffix]};base64,{text}"
    return found, len(names)


def _by_rank(page: Page) -> list[str]:
    """Thumbnails' files, those that are a unit's best image first."""
    ranked: list[tuple[int, str]] = []
    for chunk in page.details.values():
        for unit in chunk["units"]:
            for rank, number in enumerate(unit["i"]):
                image = chunk["images"][number]
                if len(image) > 1:
                    ranked.append((rank, image[1]))
    return list(dict.fromkeys(name for _, name in sorted(ranked, key=lambda pair: pair[0])))


def _details(side: int, layer: int, chunk: int, values: Mapping[str, Any]) -> str:
    return f"dissect.details({side},{layer},{chunk},{compact(values)});\n"


def _start(values: Mapping[str, Any]) -> str:
    return f"dissect.start({compact(values)});\n"


def _render(page: Page, scripts: Sequence[str], inline: Mapping[str, Any] | None) -> str:
    template = _environment().get_template(page.template)
    return template.render(**page.values, version=__version__, scripts=scripts, inline=inline)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("clipdissect.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


@cache
def _static(name: str) -> str:
    """One of the package's own files; none holds `</script>`."""
    return (files("clipdissect.report") / "static" / name).read_text(encoding="utf-8")
