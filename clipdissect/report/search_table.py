"""The report's table for searches by meaning: vectors of units, concepts and pictures."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.encoder import Encoder
from clipdissect.report.report_data import DATA, REPORT
from clipdissect.report.run import Run
from clipdissect.results.vectors import Embedded, UnitVectors, quantised, read_vectors
from clipdissect.store import Store

FILE = "search.safetensors"
DIMS = 96  # see docs/find.md for what fewer dimensions cost


def write_search_table(
    run: Path, vectors: UnitVectors | None, encoder: Encoder | None, store: Store | None
) -> None:
    """Write a run's reduced vectors, or remove an earlier run's without vectors or encoder.

    The encoder embeds the empty text, which `explore.find` subtracts from texts.
    """
    path = run / REPORT / DATA / FILE
    path.unlink(missing_ok=True)
    if vectors is not None and encoder is not None:
        empty = text_embeddings(encoder.embed_texts, vectors.text_digest, [""], store)
        small = reduced(vectors, empty[0])
        small.write(path, max(len(small.texts.names), len(small.images.names)))


def reduced(vectors: UnitVectors, empty: Float[Tensor, " dims"], dims: int = DIMS) -> UnitVectors:
    """Return unit-length queries and units, projected on the directions in which they differ most.

    Queries are the texts, less the `empty` one, and the units' top images. The directions are the
    largest eigenvectors of the mean of `X.T X / rows` of units, texts and images, so that products
    of projections approximate cosines.
    """
    texts = replace(vectors.texts, embeds=vectors.texts.embeds - empty)
    texts, images = (_unit_length(e) for e in (texts, vectors.shown))
    units = torch.cat(list(vectors.layers.values()))
    parts = [rows for rows in (units, texts.embeds, images.embeds) if len(rows)]
    moments = torch.stack([(rows.T @ rows).double() / len(rows) for rows in parts]).mean(0)
    basis = torch.linalg.eigh(moments).eigenvectors[:, -dims:].float()
    return replace(
        vectors,
        layers={layer: rows @ basis for layer, rows in vectors.layers.items()},
        texts=replace(texts, embeds=_projected(texts, basis)),
        images=replace(images, embeds=_projected(images, basis)),
        shown=Embedded(),
    )


def _unit_length(embedded: Embedded) -> Embedded:
    return replace(embedded, embeds=F.normalize(embedded.embeds, dim=1))


def _projected(embedded: Embedded, basis: Float[Tensor, "dims k"]) -> Float[Tensor, "names k"]:
    return embedded.embeds @ basis if embedded.names else torch.zeros(0, basis.shape[1])


def search_values(run: Run) -> dict[str, Any] | None:
    """Return the page's table: `units` in the page's order, `texts` and `images`; None if none.

    Each has `rows`, whole numbers of a byte, and `scales` of the rows, float32; both in base64.
    """
    vectors = read_vectors(run.folder / REPORT / DATA / FILE)
    if vectors is None or not set(run.layers) <= vectors.layers.keys():
        return None
    units = [vectors.layers[name][run.rows(name)["unit"].tolist()] for name in run.layers]
    return {
        "encoder": vectors.encoder,
        "dims": units[0].shape[1],
        "units": _encoded(torch.cat(units)),
        **{
            name: {"names": embedded.names, **_encoded(embedded.embeds)}
            for name, embedded in (("texts", vectors.texts), ("images", vectors.images))
        },
    }


def _encoded(rows: Float[Tensor, "rows dims"]) -> dict[str, str]:
    arrays = zip(("rows", "scales"), quantised(rows), strict=True)
    return {name: base64.b64encode(array.numpy().tobytes()).decode() for name, array in arrays}
