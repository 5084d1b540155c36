"""Recognise which library wrote the files of a sparse autoencoder."""

from __future__ import annotations

from collections.abc import Callable

from clipdissect.errors import DissectError
from clipdissect.models import checkpoints
from clipdissect.sae import dictionary_learning as dictionary_learning_files
from clipdissect.sae import overcomplete as overcomplete_files
from clipdissect.sae import prisma as prisma_files
from clipdissect.sae import saelens as saelens_files
from clipdissect.sae import saev as saev_files
from clipdissect.sae import sparsify as sparsify_files
from clipdissect.sae.base import Sae
from clipdissect.sae.reading import Files, locate

FORMATS = {
    "saelens": saelens_files,
    "prisma": prisma_files,
    "saev": saev_files,
    "dictionary_learning": dictionary_learning_files,
    "sparsify": sparsify_files,
}
READERS: dict[str, Callable[..., Sae]] = {
    "saelens": saelens_files.saelens,
    "prisma": prisma_files.prisma,
    "saev": saev_files.saev,
    "dictionary_learning": dictionary_learning_files.dictionary_learning,
    "sparsify": sparsify_files.sparsify,
    "overcomplete": overcomplete_files.overcomplete,
}
LOOKS = (*(file_format.LOOKS for file_format in FORMATS.values()), overcomplete_files.LOOKS)


def auto(path: str, layer: str | None = None) -> Sae:
    """Return a sparse autoencoder of any library whose files can be recognised.

    Args:
        path: the folder, or the weights file in it.
        layer: the target's layer that it encodes.

    Raises:
        MissingResource: no such files.
        DissectError: no format, or several, fit the files.
    """
    return READERS[recognise(path)](path, layer)


def recognise(path: str) -> str:
    """Return the format of the files of a path; raise as `auto` does."""
    files = locate(path)
    fitting = [name for name, file_format in FORMATS.items() if file_format.fits(files)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DissectError(
            f"{path} fits the formats {' and '.join(fitting)}: set sae=<format> to one of them, or "
            f"sae.path to the weights file"
        )
    if _is_state_dict_of_overcomplete(files):
        return "overcomplete"
    if len(files.candidates()) > 1:
        files.only_weights("")  # says which they are
    files.refuse_several("cfg.json", "ae.pt", "config.json")
    names = sorted(p.name for p in files.folder.iterdir())
    found = files.named.name if files.named else ", ".join(names[:10]) or "nothing"
    looks = "\n  ".join(LOOKS)
    raise DissectError(
        f"{path} is of no format that is known: it has {found}. Set sae.path to one of\n  {looks}\n"
        f"or use sae=module with a function that builds it"
    )


def _is_state_dict_of_overcomplete(files: Files) -> bool:
    prisma_files.refuse_pickles(files)
    candidates = files.candidates()
    if len(candidates) != 1 or files.has("config.json") or files.has("cfg.json"):
        return False
    return overcomplete_files.is_overcomplete(set(checkpoints.read(candidates[0])))
