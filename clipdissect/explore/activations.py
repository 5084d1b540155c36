"""A result's activations, from the store or by running its network again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from clipdissect import probe as probes
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.method import Job
from clipdissect.probe import Probe
from clipdissect.probe.folder import FileReader, of_files
from clipdissect.probe.options import ProbeOptions
from clipdissect.results.manifest import check_network
from clipdissect.targets import Target

if TYPE_CHECKING:
    from clipdissect.explore.result import Result


def inputs_of(result: Result) -> tuple[Target, Probe, Job]:
    """Return the network and the images of a result, and its job.

    Raises:
        DissectError: it doesn't know them, as one that is read from files.
    """
    job = result.job
    if job is None or job.target is None or job.probe is None:
        raise DissectError(
            "this result knows neither its network nor its images: use the result of "
            "clipdissect.dissect, or the command line on a run's folder, which has its config"
        )
    return result.target or job.target, job.probe, job  # with the method's preprocessing


def layers_of(result: Result, layer: str | None) -> list[str]:
    """Return a result's layers, or the one named; raise a DissectError if it isn't among them."""
    layers = [str(name) for name in result.descriptions["layer"].unique()]
    if layer is None:
        return layers
    if layer not in layers:
        raise unknown("layer", layer, layers)
    return [layer]


def activations_of(
    result: Result, layers: Sequence[str], probe: Probe, keep: str | None = None
) -> CapturedFeatures:
    """Capture a result's layers on images, with the settings of its job.

    Args:
        keep: see `Settings`; None for the job's.

    Raises:
        DissectError: the network isn't the one that the result is of, or from `capture`.
    """
    target, _, job = inputs_of(result)
    settings = replace(job.settings, keep=keep) if keep else job.settings
    features = capture(target, layers, None, probe, job.store, settings)
    check_network(features, result.run, name_of(result))
    return features


def name_of(result: Result) -> str:
    return result.folder.name if result.folder else "the result"


def as_probe(image: str | Path | Image.Image, probe: Probe) -> tuple[Probe, int | None]:
    """Return an image as a probe of its own, read as those of a run's probe.

    Args:
        image: a picture, a file, or the name of one of the probe's images.

    Returns:
        The probe of one image, and the number of the same image in the run's probe, if it is there.

    Raises:
        MissingResource: no such file, nor such an image of the probe.
    """
    if isinstance(image, Image.Image):
        return probes.dataset([image], "image", on_error="raise"), None
    path = Path(image).expanduser()
    is_file = path.is_file()
    number = _number_of_file(path, probe) if is_file else _number_of_name(str(image), probe)
    if number is not None:
        return probe.subset([number]), number
    if not is_file:
        raise MissingResource(
            "the image to explain",
            [str(path.absolute())],
            f"name an image file, or one of the run's images, such as {probe.images[0]}",
        )
    options = ProbeOptions(on_error="raise")
    if isinstance(probe.read, FileReader):
        options = replace(options, decode=probe.read.decode, orientation=probe.read.orientation)
    return of_files(path.name, path.parent, [path], options), None


def _number_of_name(name: str, probe: Probe) -> int | None:
    return probe.images.index(name) if name in probe.images else None


def _number_of_file(path: Path, probe: Probe) -> int | None:
    for number, name in enumerate(probe.images):
        if Path(name).name == path.name:
            file = probe.path(number)
            if file is not None and file.is_file() and file.samefile(path):
                return number
    return None
