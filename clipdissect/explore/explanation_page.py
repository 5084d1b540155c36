"""An explanation as HTML: the image, and units with their top images as data: addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from clipdissect.explore.activations import inputs_of
from clipdissect.probe.thumbnails import Thumbnails

if TYPE_CHECKING:
    from clipdissect.explore.explain import Explanation

PICTURE, THUMBNAIL = 320, 96  # pixels: of the image's longer side, of a top image
TOP_IMAGES = 5  # per unit


def as_html(explanation: Explanation, is_page: bool = False) -> str:
    """Return the HTML of an explanation: a part of a notebook, or a page of its own."""
    pictures = _TopImages(explanation)
    layers = [
        {
            "name": str(layer),
            "units": [*pictures.rows(rows)],
            "logit": explanation.logits.get(str(layer)),
            "contributions": [*pictures.rows(_of_layer(explanation.contributions, str(layer)))],
        }
        for layer, rows in explanation.units.groupby("layer", sort=False)
    ]
    template = _environment().get_template("explanation.html")
    picture = explanation.picture.copy()
    picture.thumbnail((PICTURE, PICTURE))
    values = {"layers": layers, "is_page": is_page, "picture": _address(picture)}
    return template.render(explanation=explanation, share_in_words=share_in_words, **values)


def share_in_words(share: float, images: int) -> str:
    """Return how unusual an activation is, such as `above 99.8 % of 1,000 images`."""
    if share == 1:
        return f"above all {images:,} images"
    below = round(share * images)
    return f"above {1000 * below // images / 10:g} % of {images:,} images"  # rounded down


@cache
def _environment() -> Environment:
    loader = PackageLoader("clipdissect.explore")
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _of_layer(table: pd.DataFrame, layer: str) -> pd.DataFrame:
    return table[table["layer"] == layer] if len(table) else table


class _TopImages:
    """Rows of tables with their units' top images."""

    def __init__(self, explanation: Explanation) -> None:
        result = explanation.result
        self.table = result.top_images[result.top_images["rank"] <= TOP_IMAGES]
        self.thumbnails = Thumbnails(inputs_of(result)[1], THUMBNAIL)

    def rows(self, units: pd.DataFrame) -> Iterator[Mapping[str, Any]]:
        for _, row in units.iterrows():
            is_unit = (self.table["layer"] == row["layer"]) & (self.table["unit"] == row["unit"])
            names = self.table[is_unit].sort_values("rank")["image"]
            yield {**row, "images": [self._image(str(name)) for name in names]}

    def _image(self, name: str) -> dict[str, str]:
        file = self.thumbnails.file(name)
        return {"name": name, "address": _jpeg(file.read_bytes()) if file else ""}


def _address(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return _jpeg(file.getvalue())


def _jpeg(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
