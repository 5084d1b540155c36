"""Write a page, with its scripts and data, as a folder or as a single file."""

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
from clipdissect.report.report_data import THUMBNAILS, compact_json
from clipdissect.utils.files import write_text

SCRIPTS = ("dom.js", "cards.js", "list.js", "app.js")
STYLE = "report.css"
MIME_TYPES = {".webp": "image/webp", ".jpg": "image/jpeg"}
GENERATOR = b'<meta name="generator" content="clipdissect'
HEAD_BYTES = 2000  # the generator is among the first bytes of a page
DATA_FILE = re.compile(r"units\.js|\d+-\d+-\d+\.js")
DATA_PREFIX = b"dissect."  # every data file begins with a call


@dataclass(frozen=True)
class Page:
    """The contents of a page: a template with its values, and the data for its scripts.

    `start` has the data of all units; `details` maps (side, layer, chunk) to a chunk's data.
    """

    template: str
    values: Mapping[str, Any]
    start: Mapping[str, Any]
    details: Mapping[tuple[int, int, int], Mapping[str, Any]]

    def write(self, folder: Path, single_file: bool, megabytes: float) -> Path:
        """Write `index.html`, last, to a folder with thumbnails, and return its path."""
        clear(folder)
        if single_file:
            html = self._single_file(folder / THUMBNAILS, megabytes)
        else:
            for name in (*SCRIPTS, STYLE):
                write_text(folder / "assets" / name, _static(name))
            for key, values in self.details.items():
                name = "-".join(map(str, key))
                write_text(folder / "data" / f"{name}.js", _call("details", *key, values))
            write_text(folder / "data" / "units.js", _call("start", self.start))
            html = self._render([*(f"assets/{name}" for name in SCRIPTS), "data/units.js"])
        write_text(folder / "index.html", html)
        return folder / "index.html"

    def _single_file(self, thumbnails: Path, megabytes: float) -> str:
        names = self._thumbnails_by_rank()
        pictures = _data_urls(thumbnails, names, megabytes * 1e6)
        start = {**self.start, "single": True}
        if len(pictures) < len(names):
            start["cut"] = (
                f"This single file holds {len(pictures):,} of {len(names):,} pictures, the "
                f"best-ranked first: its limit is {megabytes:g} MB (report.megabytes). The folder "
                f"holds all."
            )
        scripts = [_static(name) for name in SCRIPTS]
        scripts.append(f"dissect.pictures({compact_json(pictures)});")
        scripts += [_call("details", *key, values) for key, values in self.details.items()]
        scripts.append(_call("start", start))
        # The package's own files and `compact_json` never contain `</script>`.
        inline = {"css": Markup(_static(STYLE)), "scripts": [Markup(text) for text in scripts]}
        return self._render([], inline)

    def _render(self, scripts: Sequence[str], inline: Mapping[str, Any] | None = None) -> str:
        template = _environment().get_template(self.template)
        return template.render(**self.values, version=__version__, scripts=scripts, inline=inline)

    def _thumbnails_by_rank(self) -> list[str]:
        ranked: list[tuple[int, str]] = []
        for chunk in self.details.values():
            for unit in chunk["units"]:
                for rank, number in enumerate(unit["i"]):
                    image = chunk["images"][number]
                    if len(image) > 1:
                        ranked.append((rank, image[1]))
        return list(dict.fromkeys(name for _, name in sorted(ranked, key=lambda pair: pair[0])))


def check_folder(folder: Path) -> None:
    """Raise a DissectError if the folder is a file or has a foreign `index.html`."""
    if folder.is_file():
        raise DissectError(f"{folder} is a file; a page needs a folder")
    index = folder / "index.html"
    if index.exists() and GENERATOR not in _first_bytes(index, HEAD_BYTES):
        raise DissectError(
            f"{index} isn't a report of clipdissect and would be lost: choose another folder, or "
            f"move the file away"
        )


def clear(folder: Path) -> None:
    """Remove an earlier page; report data, thumbnails and foreign files stay."""
    check_folder(folder)
    (folder / "index.html").unlink(missing_ok=True)
    for path in (folder / "data").glob("*.js"):
        is_ours = _first_bytes(path, len(DATA_PREFIX)) == DATA_PREFIX
        if DATA_FILE.fullmatch(path.name) and is_ours:
            path.unlink()
    with suppress(OSError):  # missing or not empty
        (folder / "data").rmdir()


def _first_bytes(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _data_urls(thumbnails: Path, names: Sequence[str], limit: float) -> dict[str, str]:
    urls: dict[str, str] = {}
    size = 0
    for name in names:
        path = thumbnails / name
        if not path.is_file():
            continue
        text = base64.b64encode(path.read_bytes()).decode()
        size += len(text)
        if size > limit:
            break
        urls[name] = f"data:{MIME_TYPES[path.suffix]};base64,{text}"
    return urls


def _call(function: str, *arguments: Any) -> str:
    return f"dissect.{function}({','.join(map(compact_json, arguments))});\n"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("clipdissect.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _static(name: str) -> str:
    return (files("clipdissect.report") / "static" / name).read_text(encoding="utf-8")
