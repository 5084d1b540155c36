"""Write a page, with its scripts and data, as a folder or as a single file."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipdissect._version import __version__
from clipdissect.errors import DissectError
from clipdissect.evaluation.layers import is_of_latents
from clipdissect.report.overview import low_margins
from clipdissect.report.report_data import THUMBNAILS, compact_json, rounded
from clipdissect.report.run import Meaning, Run
from clipdissect.results.describe import NULL
from clipdissect.results.flags import DEAD, FEW, RARE, SATURATED, TIED, has_flag
from clipdissect.results.run_files import contents
from clipdissect.utils.files import human_size, write_text
from clipdissect.utils.memo import Memo

_write = partial(write_text, durable=False)

SCRIPTS = ("dom.js", "meaning.js", "cards.js", "list.js", "app.js")
STYLE = "report.css"
MIME_TYPES = {".webp": "image/webp", ".jpg": "image/jpeg"}
GENERATOR = b'<meta name="generator" content="clipdissect'
HEAD_BYTES = 2000  # the generator is among the first bytes of a page
DATA_FILE = re.compile(r"units\.js|meaning\.js|\d+-\d+-\d+\.js")
DATA_PREFIX = b"dissect."  # every data file begins with a call
# Pages opened from disk can't fetch JSON, so data files are scripts that pass a value. `units.js`
# has the texts and scores that search needs; details are loaded when their cards become visible.
CHUNK = 100  # units per file of details
FLAG_BITS = {DEAD: 1, TIED: 2, FEW: 4, SATURATED: 16, RARE: 32}
LOW_MARGIN_BIT = 8


@dataclass(frozen=True)
class Chunk:
    """Details of `CHUNK` units: images of the chunk, and per unit what `_unit` returns."""

    values: Mapping[str, Any]

    @cached_property
    def text(self) -> str:
        return compact_json(self.values)


@dataclass(frozen=True)
class Page:
    """The contents of a page: a template with its values, and the data for its scripts.

    `start` has the data of all units; `details` maps (side, layer, chunk) to a chunk's data;
    `search` is the table for searches by meaning, which is loaded at the first one.
    """

    template: str
    values: Mapping[str, Any]
    start: Mapping[str, Any]
    details: Mapping[tuple[int, int, int], Chunk]
    search: Mapping[str, Any] | None = None

    def write(self, folder: Path, single_file: bool, megabytes: float) -> Path:
        """Write `index.html`, last, to a folder with thumbnails, and return its path."""
        clear(folder)
        if single_file:
            html = self.single_file(folder / THUMBNAILS, megabytes)
        else:
            for name in (*SCRIPTS, STYLE):
                _write(folder / "assets" / name, static(name))
            for key, chunk in self.details.items():
                name = "-".join(map(str, key))
                _write(folder / "data" / f"{name}.js", _details(key, chunk))
            if self._search_call:
                _write(folder / "data" / "meaning.js", self._search_call)
            start = {**self.start, "search": bool(self._search_call)}
            _write(folder / "data" / "units.js", _call("start", start))
            html = self._render([*(f"assets/{name}" for name in SCRIPTS), "data/units.js"])
        _write(folder / "index.html", html)
        return folder / "index.html"

    def single_file(self, thumbnails: Path, megabytes: float) -> str:
        """Return the page as one text, with its scripts, data and pictures."""
        names, limit = self._thumbnails_by_rank(), megabytes * 1e6
        search = self._search_call if len(self._search_call) <= limit else ""
        pictures = _data_urls(thumbnails, names, limit - len(search))
        start = {**self.start, "single": True, "search": bool(search)}
        if len(pictures) < len(names):
            start["cut"] = (
                f"This single file holds {len(pictures):,} of {len(names):,} pictures, the "
                f"best-ranked first: its limit is {megabytes:g} MB (report.megabytes). The folder "
                f"holds all."
            )
        scripts = [static(name) for name in SCRIPTS]
        scripts.append(f"dissect.pictures({compact_json(pictures)});")
        scripts += [_details(key, chunk) for key, chunk in self.details.items()]
        scripts += [search] if search else []
        scripts.append(_call("start", start))
        # The package's own files and `compact_json` never contain `</script>`.
        inline = {"css": Markup(static(STYLE)), "scripts": [Markup(text) for text in scripts]}
        return self._render([], inline)

    @cached_property
    def _search_call(self) -> str:
        return _call("meaning", self.search) if self.search else ""

    def _render(self, scripts: Sequence[str], inline: Mapping[str, Any] | None = None) -> str:
        template = environment().get_template(self.template)
        values = {**self.values, "version": __version__, "search": self._search_facts}
        return template.render(**values, scripts=scripts, inline=inline)

    @property
    def _search_facts(self) -> dict[str, str] | None:
        if self.search is None:
            return None
        words = f"{len(self.search['texts']['names']):,}"
        return {"words": words, "size": human_size(len(self._search_call))}

    def _thumbnails_by_rank(self) -> list[str]:
        ranked: list[tuple[int, str]] = []
        for chunk in self.details.values():
            for unit in chunk.values["units"]:
                for rank, number in enumerate(unit["i"]):
                    image = chunk.values["images"][number]
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
        url = data_url(path)
        size += len(url)
        if size > limit:
            break
        urls[name] = url
    return urls


def data_url(picture: Path) -> str:
    """Return a thumbnail as a URL that holds its bytes."""
    text = base64.b64encode(picture.read_bytes()).decode()
    return f"data:{MIME_TYPES[picture.suffix]};base64,{text}"


def _call(function: str, *arguments: Any) -> str:
    return f"dissect.{function}({','.join(map(compact_json, arguments))});\n"


def _details(key: tuple[int, int, int], chunk: Chunk) -> str:
    return f"dissect.details({','.join(map(str, key))},{chunk.text});\n"


@cache
def environment() -> Environment:
    """Return the templates, which escape what they show."""
    return Environment(
        loader=PackageLoader("clipdissect.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def static(name: str) -> str:
    """Return the text of a script or style."""
    return (files("clipdissect.report") / "static" / name).read_text(encoding="utf-8")


class TextTable:
    """Numbers texts, so that each is stored once in a page's data."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: Any) -> int:
        """Return a text's number; -1 for an empty text."""
        return self.numbers.setdefault(str(text), len(self.numbers)) if text else -1


def descriptions(run: Run, rows: pd.DataFrame, texts: TextTable) -> dict[str, Any]:
    """Return `d` descriptions, `s` scores, `m` margins, `f` flags and `n` null scores of rows.

    Of latents also `x`, the images on which they fire, `y`, the share of tokens, and `images`. If
    any unit has several meanings, `g` has theirs: text, score, null, share, images, and the ends
    of a range.
    """
    names = [rows[text].tolist() for text, _ in run.columns]
    scores = [rows[score].tolist() for _, score in run.columns if score in rows]
    finite = [score for column in scores for score in column if not math.isnan(score)]
    bits = LOW_MARGIN_BIT * low_margins(rows).astype(int)
    for flag, bit in FLAG_BITS.items():
        bits += bit * has_flag(rows, flag)
    null = {"n": [rounded(score) for score in rows[NULL].tolist()]} if NULL in rows else {}
    return {
        "d": [[n for n in map(texts.number, row) if n >= 0] for row in zip(*names, strict=True)],
        "s": [[rounded(s) for s in row if not math.isnan(s)] for row in zip(*scores, strict=True)],
        "m": [rounded(margin) for margin in rows["margin"].tolist()],
        "f": bits.tolist(),
        **null,
        **_firing(run, rows),
        **_meanings(run, rows, texts),
        "low": rounded(min(finite, default=0.0)),
        "high": rounded(max(finite, default=1.0)),
    }


def _firing(run: Run, rows: pd.DataFrame) -> dict[str, Any]:
    if not is_of_latents(rows):
        return {}
    fires = [None if math.isnan(n) else int(n) for n in rows["fires"].tolist()]
    density = [rounded(share) for share in rows["density"].tolist()]
    return {"x": fires, "y": density, "images": run.images}


def _rounded(meaning: Meaning) -> list[float | int | None]:
    numbers = meaning.score, meaning.null, meaning.share, meaning.images
    return [*map(rounded, (*numbers, meaning.lower, meaning.upper))]


def _meanings(run: Run, rows: pd.DataFrame, texts: TextTable) -> dict[str, Any]:
    several = run.several_meanings(str(rows["layer"].iloc[0])) if len(rows) else {}
    if not several:
        return {}
    values = {
        unit: [[texts.number(m.text), *_rounded(m)] for m in of_unit]
        for unit, of_unit in several.items()
    }
    return {"g": [values.get(unit) for unit in rows["unit"].tolist()]}


def ground_truth(
    run: Run, layer: str, texts: TextTable, units: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return `t` class names, `r` correctness (2: by a synonym), `k` ranks; empty if unknown."""
    truth = run.ground_truth(layer)
    if truth is None:
        return {}
    if units is not None:
        truth = truth.set_axis(run.rows(layer)["unit"].tolist()).loc[list(units)]
    correct = zip(truth["right"], truth["right_any_synonym"], strict=True)
    return {
        "t": [texts.number(name) for name in truth["truth"]],
        "r": [1 if exact else 2 if synonym else 0 for exact, synonym in correct],
        "k": [rounded(rank) for rank in truth["rank"]],
    }


def other_labels(run: Run, layer: str, units: Sequence[int], texts: TextTable) -> dict[str, Any]:
    """Return `o`, other methods' labels, and `a`, their agreement with the descriptions."""
    facts = run.report_data.facts
    values: dict[str, Any] = {}
    if facts.get("others"):
        values["o"] = [
            [texts.number(labels.get(layer, {}).get(str(unit), "")) for unit in units]
            for labels in facts["others"].values()
        ]
    agreement = facts.get("agreement", {}).get(layer)
    if agreement and len(agreement) == len(units):
        values["a"] = agreement
    return values


_chunks: Memo[list[Chunk]] = Memo(32)


def details(run: Run, layer: str, units: Sequence[int]) -> list[Chunk]:
    """Return the chunks of a layer's units, which jobs of a multirun on equal features share."""
    images = contents(run.top_images[run.top_images["layer"] == layer])
    limit = run.report_data.facts.get("images")
    key = (run.report_data.digest, layer, tuple(units), limit, images)
    return _chunks.get(key, lambda: list(_make_chunks(run, layer, units)))


def _make_chunks(run: Run, layer: str, units: Sequence[int]) -> Iterator[Chunk]:
    images, pictures = run.top_images_of(layer), run.report_data.pictures
    meanings = run.meanings_of_images(layer)
    for start in range(0, len(units), CHUNK):
        numbers: dict[str, int] = {}
        chunk = [
            _unit(unit, images.get(unit, []), run.report_data.layers.get(layer, {}), numbers)
            | _meanings_of_images(meanings.get(unit, []), len(images.get(unit, [])))
            for unit in units[start : start + CHUNK]
        ]
        yield Chunk(
            {"images": [[name, *pictures.get(name, [])] for name in numbers], "units": chunk}
        )


def _meanings_of_images(meanings: Sequence[int], images: int) -> dict[str, Any]:
    """Return `g`, the meanings of the pictures of a unit with several."""
    return {"g": list(meanings[:images])} if max(meanings, default=0) > 1 else {}


def _unit(
    number: int,
    images: Sequence[tuple[str, float]],
    layer: dict[str, Any],
    image_numbers: dict[str, int],
) -> dict[str, Any]:
    """Return a unit's details.

    `i` image numbers in the chunk, `v` activations, `p` outlines, `h` histogram, `nb` neighbours,
    `q` heat maps of `w` columns.
    """
    unit: dict[str, Any] = {
        "i": [image_numbers.setdefault(name, len(image_numbers)) for name, _ in images],
        "v": [rounded(activation) for _, activation in images],
    }
    if number < len(layer.get("outlines", ())):
        unit["p"] = layer["outlines"][number][: len(images)]
        unit["th"] = layer["thresholds"][number]
    if number < len(layer.get("heat", ())):
        unit["q"], unit["w"] = layer["heat"][number][: len(images)], layer["width"]
    if number < len(layer.get("counts", ())):
        for key, name in (("h", "counts"), ("lo", "low"), ("hi", "high")):
            unit[key] = layer[name][number]
    if number < len(layer.get("neighbours", ())):
        unit["nb"] = layer["neighbours"][number]
    return unit
