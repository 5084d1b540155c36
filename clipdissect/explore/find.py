"""Find units by meaning: by a text, or by images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipdissect import encoder as encoders
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.images.decode import UnreadableImage, open_rgb, to_rgb
from clipdissect.results.tables import ResultTables
from clipdissect.results.vectors import UnitVectors, image_digest_of
from clipdissect.utils.type_checks import shortened

ALPHA = 0.05  # the largest adjusted p-value of a unit that answers

Picture = Image.Image | str | Path


@dataclass(frozen=True)
class Query:
    """A question to the units, in the space of their vectors.

    Args:
        name: in tables and notes.
        vector: of any length.
        null: vectors of random queries of the same kind.
        kind: of them, for notes: `texts` or `images`.
    """

    name: str
    vector: Float[Tensor, " dims"]
    null: Float[Tensor, "null dims"]
    kind: str


@dataclass(frozen=True)
class Found:
    """The closest units per query, see `find`, and a note per text that no unit answers."""

    table: pd.DataFrame
    notes: tuple[str, ...]


def find(
    result: ResultTables,
    queries: Sequence[Query],
    layers: Sequence[str] | None = None,
    top: int = 10,
) -> Found:
    """Return the units that are closest to each query.

    The table has `query, layer, unit, description`; `score`, the cosine of the query and the unit's
    vector; `p_value`, the share of random queries with as large a cosine with the unit; and
    `p_adjusted`, the share of those whose largest cosine with any searched unit is as large, which
    allows for the number of units (Westfall & Young's single-step maximum). Both shares count the
    query itself, so they are above 0. A unit answers if its `p_adjusted` is at most `ALPHA`.

    Raises:
        DissectError: no vectors, an unknown layer, or `top` below 1.

    Source: Dreyer et al., SemanticLens, 2025 (search), which has no null distribution.
    """
    if not isinstance(top, int) or top < 1:
        raise DissectError(f"top must be a whole number from 1; got {shortened(top)}")
    keys, matrix = _searched(checked_vectors(result), layers)
    texts = result.descriptions[["layer", "unit", "description"]]
    tables, notes = [], []
    for query in queries:
        table = pd.concat([keys, _scores(query, matrix)], axis=1)
        table = table.sort_values("score", ascending=False, kind="stable").head(top)
        table = table.merge(texts, "left", ["layer", "unit"]).assign(query=query.name)
        tables.append(table[["query", "layer", "unit", "description", *_COLUMNS]])
        notes += _notes(query, table)
    return Found(pd.concat(tables, ignore_index=True), tuple(notes))


_COLUMNS = ("score", "p_value", "p_adjusted")


def asked(
    result: ResultTables,
    text: str | Sequence[str] | None,
    image: Picture | Sequence[Picture] | None,
    encoder: Encoder | Mapping[str, Any] | str | None,
) -> list[Query]:
    """Return the queries of a text or texts, or of an image or images.

    Raises:
        DissectError: neither or both, no encoder, or as `text_queries` and `image_query`.
    """
    if (text is None) == (image is None):
        raise DissectError("find needs either a text or an image")
    vectors = checked_vectors(result)
    if encoder is None:
        raise DissectError(
            f"find needs the run's encoder, {vectors.encoder}: give find its name, or a mapping of "
            "its name and parameters, as encoder"
        )
    built = encoders.resolve(encoder)
    if text is not None:
        return text_queries(vectors, built, [text] if isinstance(text, str) else text)
    pictures = [image] if isinstance(image, Image.Image | str | Path) else image
    return [image_query(vectors, built, list(pictures or ()))]


def checked_vectors(result: ResultTables) -> UnitVectors:
    """Return a result's vectors; raise a DissectError that says why it has none."""
    if result.vectors is not None:
        return result.vectors
    if not result.run:
        raise DissectError(
            "a file of labels, or a run that isn't complete, has no vectors of units: search a "
            "complete run of method=clip_dissect"
        )
    if not result.run.get("encoder"):
        method = (result.run.get("method") or {}).get("name", "its method")
        raise DissectError(
            f"the run has no vectors of units, as {method} uses no encoder: search a run of "
            "method=clip_dissect"
        )
    raise DissectError(
        "the run has no vectors of units: it is of an earlier version or of a method that writes "
        "none. Run method=clip_dissect again: cached features make it fast"
    )


def text_queries(vectors: UnitVectors, encoder: Encoder, texts: Sequence[str]) -> list[Query]:
    """Return different texts as queries: `E(text) - E("")`, which removes what all texts share.

    With prompt templates, `E` is the encoder's mean over them.

    Raises:
        DissectError: a blank text, another encoder than the run's, or no concepts to compare with.
    """
    blank = [text for text in texts if not isinstance(text, str) or not text.strip()]
    if blank or not texts:
        raise DissectError(f"a text to find must not be blank; got {shortened(list(texts))}")
    texts = list(dict.fromkeys(texts))
    _check_encoder(vectors, encoder, encoder.text_digest == vectors.text_digest)
    *embeds, empty = encoder.embed_texts([*texts, ""], "cpu").float()
    null = vectors.texts.sample().embeds - empty
    return [
        Query(text, embed - empty, null, "texts") for text, embed in zip(texts, embeds, strict=True)
    ]


def image_query(vectors: UnitVectors, encoder: Encoder, pictures: Sequence[Picture]) -> Query:
    """Return the mean of images' embeddings as a query.

    Raises:
        MissingResource: a file that doesn't exist.
        DissectError: an unreadable file, or another encoder than the run's.
    """
    if not pictures:
        raise DissectError("an image to find is missing: give a file or a PIL image")
    _check_encoder(vectors, encoder, image_digest_of(encoder) == vectors.image_digest)
    inputs = torch.stack([encoder.preprocess(_opened(picture)) for picture in pictures])
    with torch.inference_mode():
        embeds = F.normalize(encoder.embed_images(inputs).float().cpu(), dim=1)
    names = (str(p) if isinstance(p, str | Path) else "image" for p in pictures)
    return Query(", ".join(names), embeds.mean(0), vectors.images.sample().embeds, "images")


def _check_encoder(vectors: UnitVectors, encoder: Encoder, is_same: bool) -> None:
    if not is_same:
        raise DissectError(
            f"the run's vectors are of the encoder {vectors.encoder} with other weights, prompt "
            f"templates or preprocessing than those of {encoder.name} given: use the run's encoder"
        )


def _opened(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    path = Path(picture).expanduser()
    if not path.is_file():
        raise MissingResource("the image to find", [str(path.absolute())], "name an image file")
    try:
        return open_rgb(path)
    except UnreadableImage as error:
        raise DissectError(f"can't read the image {path}: {error.reason}") from error


def _searched(
    vectors: UnitVectors, layers: Sequence[str] | None
) -> tuple[pd.DataFrame, Float[Tensor, "units dims"]]:
    """Return `layer, unit` of all units with vectors, and these."""
    chosen = list(vectors.layers) if layers is None else list(layers)
    for layer in chosen:
        if layer not in vectors.layers:
            raise unknown("layer", layer, tuple(vectors.layers))
    tables, parts = [], []
    for layer in chosen:
        rows = vectors.layers[layer]
        live = rows.any(1).nonzero()[:, 0]
        tables.append(pd.DataFrame({"layer": layer, "unit": live.tolist()}))
        parts.append(rows[live])
    matrix = torch.cat(parts) if parts else torch.zeros(0, 0)
    if not len(matrix):
        raise DissectError("the searched layers have no unit with top images: all are dead")
    return pd.concat(tables, ignore_index=True), F.normalize(matrix, dim=1)


def _scores(query: Query, matrix: Float[Tensor, "units dims"]) -> pd.DataFrame:
    scores = matrix @ F.normalize(query.vector, dim=0)
    null = F.normalize(query.null, dim=1) @ matrix.T
    own = (null >= scores).sum(0)
    any_unit = (null.amax(1)[:, None] >= scores).sum(0)
    values = [scores, *((1 + count) / (1 + len(null)) for count in (own, any_unit))]
    columns = zip(_COLUMNS, (v.double().numpy() for v in values), strict=True)
    table: pd.DataFrame = pd.DataFrame(dict(columns))
    return table


def _notes(query: Query, table: pd.DataFrame) -> list[str]:
    least, count = table["p_adjusted"].min(), len(query.null)
    # Nearly all random images of the probe are close to some unit: their share says nothing of it.
    if least <= ALPHA or query.kind != "texts":
        return []
    if 1 / (1 + count) > ALPHA:
        return [
            f"whether any unit answers '{query.name}' is unknown: the run has only {count} "
            f"{query.kind} to compare with, too few for a p-value of {ALPHA:g}"
        ]
    return [
        f"no unit answers '{query.name}': of {count} random {query.kind}, {100 * least:.0f} % come "
        f"as close to some unit; the closest units are shown"
    ]
