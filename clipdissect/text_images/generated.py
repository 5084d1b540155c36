"""Images of texts by a local text-to-image pipeline of diffusers, generated once."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from clipdissect.errors import DissectError, MissingResource, one_line
from clipdissect.probe import Probe
from clipdissect.probe.folder import of_files
from clipdissect.probe.image_files import file_identities
from clipdissect.probe.options import ProbeOptions
from clipdissect.utils import hashing
from clipdissect.utils.extras import install
from clipdissect.utils.files import atomic, note_use, write_text
from clipdissect.utils.paths import cache_dir
from clipdissect.utils.type_checks import check_range

log = logging.getLogger(__name__)

FOLDER = "generated"  # below the user cache
GENERATED_VERSION = 1  # increment when the same settings give other images
PLACEHOLDER = "{text}"
PROMPT = "realistic photo of a close up of {text}"  # CoSy's (Kopf et al., NeurIPS 2024)
INDEX = "model_index.json"  # of a pipeline's components
PICKLED = frozenset((".bin", ".ckpt", ".pkl", ".pt", ".pth"))
LIBRARIES = ("diffusers", "transformers")  # whose classes components may have
HALF = "fp16"  # variant of weights files


@dataclass(frozen=True)
class PipelineFolder:
    """A folder written by `save_pretrained` of a pipeline, checked to run no code of its own."""

    path: Path

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The files below the folder, without hidden ones."""
        files = (file.relative_to(self.path) for file in self.path.rglob("*") if file.is_file())
        visible = (file for file in files if not any(part[0] == "." for part in file.parts))
        return tuple(sorted(file.as_posix() for file in visible))

    @cached_property
    def digest(self) -> str:
        """A hash of the names and contents of all files."""
        identities = file_identities(self.path, self.files, "content")
        return hashing.hash_values(list(zip(self.files, identities, strict=True)))

    def check(self) -> None:
        """Raise a DissectError for pickled weights, code, or components of other libraries."""
        paths = [Path(file) for file in self.files]
        safe = {path.parent for path in paths if path.suffix == ".safetensors"}
        for path in paths:
            if path.suffix == ".py":
                raise DissectError(f"{self.path / path} is code, which is never run: remove it")
            # Files in the folder itself belong to no component and are never read.
            if path.suffix in PICKLED and path.parent not in {*safe, Path()}:
                raise DissectError(
                    f"{self.path / path} is pickled and could run code; only safetensors are read. "
                    f"Convert a pipeline that you trust once, with "
                    f"save_pretrained(FOLDER, safe_serialization=True)"
                )
        self._check_components()

    def _check_components(self) -> None:
        """Raise a DissectError if a component is of a module that isn't of diffusers."""
        index = self.path / INDEX
        try:
            components = json.loads(index.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DissectError(f"{index} can't be read: {one_line(error)}") from error
        if not isinstance(components, dict) or not isinstance(components.get("_class_name"), str):
            raise DissectError(f"{index} names no pipeline of diffusers")
        for name, component in components.items():
            if isinstance(component, list) and not _is_known(component[0] if component else None):
                raise DissectError(
                    f"{index}: component {name} is of {component[0]!r}, not of "
                    f"{' or '.join(LIBRARIES)}; other code is never run"
                )

    def load(self, device: str) -> Any:
        """Return the pipeline on the device: in half precision on CUDA, as CoSy runs it."""
        self.check()
        has_halves = any(f".{HALF}." in Path(file).name for file in self.files)
        variant = {"variant": HALF} if has_halves else {}
        try:
            pipeline = _library().DiffusionPipeline.from_pretrained(
                str(self.path), local_files_only=True, use_safetensors=True, **variant
            )
        except Exception as error:  # each component fails in its own way
            raise DissectError(
                f"{self.path} can't be loaded as a pipeline of diffusers: {one_line(error)}"
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        is_cuda = torch.device(device).type == "cuda"
        return pipeline.to(device, torch.float16 if is_cuda else torch.float32)


def _is_known(library: Any) -> bool:
    if library is None or library in LIBRARIES:
        return True
    # Some components, such as safety checkers, are in a pipeline's own module.
    is_name = isinstance(library, str) and library.isidentifier() and library[0] != "_"
    return is_name and hasattr(_library().pipelines, library)


def _library() -> Any:
    try:
        import diffusers as library
    except ImportError as error:
        raise _not_installed() from error
    return library


def _not_installed() -> MissingResource:
    return MissingResource("the package diffusers", ["the installed packages"], install("generate"))


@dataclass(frozen=True)
class Generated:
    """Images of a text by a pipeline, kept as PNG files in the user cache."""

    folder: PipelineFolder
    prompt: str
    images: int
    seed: int
    steps: int | None
    size: int | None
    batch_size: int
    device: str
    name: ClassVar[str] = "diffusers"

    @cached_property
    def digest(self) -> str:
        # Not the batch size and the number of images: each image has a seed of its own.
        settings = (self.prompt, self.seed, self.steps, self.size)
        return hashing.hash_values(
            "text images", self.name, GENERATED_VERSION, self.folder.digest, settings
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return (
            f"the images of texts are generated by {self.folder.path.name}, prompt "
            f"'{self.prompt}', seed {self.seed}",
        )

    def images_of(self, text: str) -> Probe | None:
        """Return the text's images, generating those that are missing; None for no text."""
        if not text.strip():
            return None
        base = cache_dir() / FOLDER
        folder = base / hashing.hash_values(self.digest, text)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            note_use(folder)
            with FileLock(base / f".{folder.name}.lock"):
                self._complete(folder, text)
        except OSError as error:
            raise DissectError(f"can't write the images to {folder}: {one_line(error)}") from error
        files = [file for file in map(folder.joinpath, self._names) if file.is_file()]
        return of_files(text, base, files, ProbeOptions()) if files else None

    @property
    def _names(self) -> list[str]:
        return [f"{number:05d}.png" for number in range(self.images)]

    def _complete(self, folder: Path, text: str) -> None:
        """Generate the images that the folder lacks."""
        missing = [n for n, name in enumerate(self._names) if not (folder / name).is_file()]
        if not missing:
            return
        prompt = self.prompt.replace(PLACEHOLDER, text)
        log.info("generating %d images: %s", len(missing), prompt)
        write_text(folder / "prompt.txt", prompt, durable=False)
        for start in range(0, len(missing), self.batch_size):
            numbers = missing[start : start + self.batch_size]
            for number, image in zip(numbers, self._generate(prompt, numbers), strict=True):
                if image is not None:
                    with atomic(folder / self._names[number], durable=False) as temporary:
                        image.save(temporary, format="PNG")

    def _generate(self, prompt: str, numbers: list[int]) -> list[Image.Image | None]:
        """Return the images of these numbers; None for those that a safety checker blacked out."""
        options = {"num_inference_steps": self.steps, "height": self.size, "width": self.size}
        generators = [_generator(self.seed, number) for number in numbers]
        output = self._pipeline(
            [prompt] * len(numbers),
            generator=generators,
            **{name: value for name, value in options.items() if value is not None},
        )
        black = getattr(output, "nsfw_content_detected", None) or [False] * len(numbers)
        if any(black):
            log.warning("%d images left out by the safety checker: %s", sum(black), prompt)
        return [
            None if left_out else image
            for image, left_out in zip(output.images, black, strict=True)
        ]

    @cached_property
    def _pipeline(self) -> Any:
        return self.folder.load(self.device)


def _generator(seed: int, number: int) -> torch.Generator:
    # On the CPU, whose random numbers don't depend on the device that draws.
    state = np.random.SeedSequence([seed, number]).generate_state(1)
    return torch.Generator("cpu").manual_seed(int(state[0]))


def diffusers(
    path: str,
    prompt: str = PROMPT,
    images: int = 50,
    seed: int = 0,
    steps: int | None = None,
    size: int | None = None,
    batch_size: int = 4,
    device: str = "auto",
) -> Generated:
    """Generate images of texts by a local pipeline of diffusers, and keep them.

    Nothing is downloaded, only safetensors are read, and no code in the folder is run.

    Args:
        path: the pipeline's folder, as `save_pretrained` writes it.
        prompt: has `{text}` where the text goes.
        images: per text.
        seed: of the images; each has a seed of its own, as well as its number.
        steps: of denoising; None: the pipeline's default.
        size: of the images, in pixels; None: the pipeline's default.
        batch_size: images generated at once.
        device: `auto` (CUDA, then the CPU) or a torch device.

    Raises:
        MissingResource: diffusers isn't installed, or no such folder.
        DissectError: pickled weights, code, or a prompt without `{text}`.
    """
    at_least_one = {"images": images, "steps": steps, "size": size, "batch_size": batch_size}
    for name, value in at_least_one.items():
        if value is not None:
            check_range(f"text_images.{name}", value, 1)
    check_range("text_images.seed", seed, 0)
    if PLACEHOLDER not in prompt:
        raise DissectError(f"text_images.prompt is '{prompt}'; it must contain {PLACEHOLDER}")
    folder = PipelineFolder(_existing(path))
    folder.check()
    if find_spec("diffusers") is None:  # said before any other work; importing it takes seconds
        raise _not_installed()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Generated(folder, prompt, images, seed, steps, size, batch_size, device)


def _existing(path: str) -> Path:
    folder = Path(path).expanduser()
    if path.strip() and (folder / INDEX).is_file():
        return folder
    raise MissingResource(
        "a text-to-image pipeline of diffusers",
        [str((folder / INDEX).absolute())],
        "set text_images.path to a folder that save_pretrained of a pipeline wrote",
    )
