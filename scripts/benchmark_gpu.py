"""Seconds of a job and of its parts on one GPU: ours, a plain implementation, the bare hardware.

    scripts/benchmark_gpu                        # about 6 minutes on an H100 with 16 cores
    scripts/benchmark_gpu --images 10000         # a smaller job
    scripts/benchmark_gpu --only scoring         # no networks

ResNet-50 (five layers, 3,904 units) and CLIP ViT-B/16 with random weights, JPEGs with a shorter
side of 256, made-up words. "Plain" is the published pipeline in plain torch
(app/runtime/baseline.py) and a loop over units on the same device; "bare" runs one part alone:
decoding and resizing in all processes, networks on a batch that lies on the device, single torch
functions. Writes a table and its numbers to <out>/<card>.md and .json. Runs on a CPU too, for
trying it out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import open_clip
import torch
import torchvision
from PIL import Image
from torch import Tensor

from clipdissect import concepts as concept_sets
from clipdissect import dissect, similarity, targets
from clipdissect import encoder as encoders
from clipdissect import probe as probes
from clipdissect.app.console import markdown_table
from clipdissect.app.runtime.baseline import PlainPipeline
from clipdissect.app.runtime.microbenchmarks import processor, synchronize, synthetic_inputs
from clipdissect.app.runtime.plain_similarity import timed_scores
from clipdissect.capture.settings import Settings
from clipdissect.encoder import Encoder
from clipdissect.images.decode import open_picture
from clipdissect.images.transforms import SplitTransform, split
from clipdissect.results.manifest import environment
from clipdissect.results.run_files import write_json
from clipdissect.similarity import ConceptActivations
from clipdissect.targets import Target
from clipdissect.utils.files import write_text

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SoftWPMI": ("soft_wpmi", {}),
    "WPMI": ("wpmi", {}),
    "WPMI, eps=0": ("wpmi", {"eps": 0}),
    "rank reorder": ("rank_reorder", {}),
}
LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")
SECTIONS = ("scoring", "decoding", "networks", "jobs")
DISTINCT_IMAGES = 200
BEST = 5
Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One measurement, in seconds or images/s; None where a side doesn't apply."""

    what: str
    unit: str = "s"
    ours: float | None = None
    plain: float | None = None
    bare: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the plain side ours is."""
        if self.ours is None or self.plain is None:
            return None
        return self.plain / self.ours if self.unit == "s" else self.ours / self.plain

    def cells(self) -> list[str]:
        numbers = [self.ours, self.plain, self.ratio, self.bare]
        texts = ["" if number is None else f"{number:.4g}" for number in numbers]
        return [self.what, self.unit, *texts, self.note]


def least_seconds(a: argparse.Namespace, work: Work) -> float:
    """Return the least of several durations, the device's work included."""
    durations = []
    for _ in range(a.repeats):
        synchronize(a.device)
        start = time.perf_counter()
        work()
        synchronize(a.device)
        durations.append(time.perf_counter() - start)
    return min(durations)


@torch.no_grad()
def scoring(a: argparse.Namespace) -> Iterator[Row]:
    factors, q = synthetic_inputs(a.scoring_images, a.units, a.concepts, 512)
    factors, q = factors.to(a.device), q.to(a.device)
    sizes = f"{a.scoring_images} images, {a.concepts} concepts, {a.units} units"
    P = factors.dense()
    bare = {
        "P, one product in float32": factors.dense,
        "softmax of P": partial(torch.softmax, P, dim=1),
        "top 100 images per unit": partial(torch.topk, q.T.contiguous(), min(100, len(q))),
    }
    for what, work in bare.items():
        work()
        yield Row(what, bare=least_seconds(a, work), note=sizes)
    del P, bare
    for case in CASES:
        yield _scoring_case(a, case, factors, q)


def _scoring_case(a: argparse.Namespace, case: str, factors: ConceptActivations, q: Tensor) -> Row:
    name, parameters = CASES[case]
    if name != "rank_reorder":
        parameters = {**parameters, "top_k": min(100 if name == "soft_wpmi" else 28, len(q))}
    function = similarity.build(name, **parameters)
    function.top(factors, q[:, :4].contiguous(), BEST)  # compiles the kernels
    ours = least_seconds(a, lambda: function.top(factors, q, BEST))
    count = min(a.plain_rank_units, a.units) if name == "rank_reorder" else a.units
    scores, preparing, loop = timed_scores(name, parameters, factors, q[:, :count])
    seconds, best = preparing + loop * a.units / count, scores.argmax(1)
    found = function.top(factors, q[:, :count].contiguous(), 1).concepts[:, 0]
    note = f"same best concept for {int((found == best).sum())} of {count} units"
    note += "" if count == a.units else f"; plain: {count} units, scaled"
    return Row(f"scoring, {case}", ours=ours, plain=seconds, note=note)


def write_images(folder: Path, count: int) -> None:
    """Write JPEGs with a shorter side of 256: some hundred pictures under `count` names."""
    generator = np.random.default_rng(0)
    distinct = min(count, DISTINCT_IMAGES)
    for number in range(count):
        path = folder / f"{number // 1000:04d}" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        if number >= distinct:
            first = number % distinct
            os.link(folder / f"{first // 1000:04d}" / f"{first:06d}.jpg", path)
            continue
        coarse = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((341, 256), Image.Resampling.BICUBIC)
        noise = generator.normal(0, 8, (256, 341, 3))
        Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)).save(path)


class Decoding:
    """Decoding of files, and resizing and cropping for both networks, in a process of a pool."""

    transforms: Sequence[SplitTransform] = ()

    @classmethod
    def run(cls, decode: str, paths: Sequence[Path]) -> int:
        torch.set_num_threads(1)
        for path in paths:
            picture = open_picture(path, decode)
            for transform in cls.transforms:
                transform.pixels(picture)
        return len(paths)


def decoding(a: argparse.Namespace, target: Target, encoder: Encoder, folder: Path) -> list[Row]:
    # Inherited by the processes.
    Decoding.transforms = [split(network.preprocess) for network in (target, encoder)]
    paths = sorted(folder.rglob("*.jpg"))
    cores = len(os.sched_getaffinity(0))
    shares = [paths[n::cores] for n in range(cores)]
    rows = []
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        for decode in ("fast", "pil"):
            pool.map(partial(Decoding.run, decode), [share[:2] for share in shares])
            start = time.perf_counter()
            done = sum(pool.map(partial(Decoding.run, decode), shares))
            rate = done / (time.perf_counter() - start)
            note = f"{cores} processes"
            rows.append(Row(f"decoding, decode={decode}", "images/s", bare=rate, note=note))
    return rows


@torch.no_grad()
def networks(a: argparse.Namespace) -> Iterator[Row]:
    """Time the libraries' networks alone: under autocast, and with bfloat16 weights."""
    size = min(Settings(device=a.device).images_a_batch, a.images)
    batch = torch.randn(size, 3, 224, 224, device=a.device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    resnet = torchvision.models.resnet50()
    clip = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    for name, model in ("resnet50", resnet), ("ViT-B-16", clip.visual):
        model.eval().to(a.device, memory_format=torch.channels_last)
        for weights in (torch.float32, torch.bfloat16):
            model.to(weights)
            is_float = weights == torch.float32
            kind = torch.device(a.device).type
            with torch.autocast(kind, torch.bfloat16, enabled=is_float):
                work = partial(model, batch.to(weights))
                work()
                rate = size / least_seconds(a, work)
            note = f"{str(weights).removeprefix('torch.')} weights, batches of {size}"
            note += ", autocast" if is_float else ""
            yield Row(f"forward, {name}", "images/s", bare=rate, note=note)


def jobs(a: argparse.Namespace, target: Target, encoder: Encoder, folder: Path) -> Iterator[Row]:
    words = [f"word {number}" for number in range(a.concepts)]
    settings = Settings(device=a.device)
    function = similarity.build("soft_wpmi", top_k=min(100, a.images))
    with TemporaryDirectory() as work:
        few = probes.build("folder", root=str(folder)).subset(range(min(64, a.images)))
        small = similarity.build("soft_wpmi", top_k=min(4, a.images))
        parts = target, few, words[:100], encoder, small, settings
        PlainPipeline(*parts, Path(work) / "plain").describe()
        _ours(*parts, Path(work) / "ours")
    with TemporaryDirectory() as work:
        probe = probes.build("folder", root=str(folder))
        plain = {}
        for state in ("empty", "stored"):
            pipeline = PlainPipeline(target, probe, words, encoder, function, settings, Path(work))
            start = time.perf_counter()
            table = pipeline.describe()
            plain[state] = {"whole": time.perf_counter() - start, **pipeline.timers.seconds}
    for decode in a.decoders:
        probe = probes.build("folder", root=str(folder), decode=decode)
        with TemporaryDirectory() as work:
            parts = target, probe, words, encoder, function, settings
            yield from _job_rows(a, decode, partial(_ours, *parts, Path(work)), plain, table)


def _job_rows(
    a: argparse.Namespace,
    decode: str,
    ours: Callable[[], tuple[float, Any]],
    plain: dict[str, dict[str, float]],
    table: Any,
) -> Iterator[Row]:
    title, pass_of_plain = f"{a.images} images, decode={decode}", plain["empty"]
    seconds, result = ours()
    images = result.run["seconds_of_images"]
    same = (result.descriptions["description"].to_numpy() == table["description"]).mean()
    note = f"same description for {same:.1%} of {len(table)} units"
    yield Row(f"whole job, empty store, {title}", "s", seconds, plain["empty"]["whole"], note=note)
    rates = [a.images / (s["decode"] + s["forward"]) for s in (images, pass_of_plain)]
    yield Row(f"pass, {title}", "images/s", *rates)
    stages = {**result.run["seconds"], **{f"images: {name}": s for name, s in images.items()}}
    for stage, spent in stages.items():
        yield Row(f"its {stage}", "s", spent, plain["empty"].get(stage.removeprefix("images: ")))
    seconds, result = ours()
    yield Row(f"whole job, features stored, {title}", "s", seconds, plain["stored"]["whole"])
    for stage, spent in result.run["seconds"].items():
        yield Row(f"its {stage}", "s", spent, plain["stored"].get(stage))


def _ours(
    target: Target,
    probe: Any,
    words: Sequence[str],
    encoder: Encoder,
    function: Any,
    settings: Settings,
    folder: Path,
) -> tuple[float, Any]:
    start = time.perf_counter()
    result = dissect(
        target,
        probe=probe,
        concepts=concept_sets.resolve(list(words)),
        encoder=encoder,
        similarity=function,
        settings=settings,
        store=folder,
        null_similarity=False,  # the plain pipeline has none
    )
    return time.perf_counter() - start, result


def measure(a: argparse.Namespace) -> Iterator[Row]:
    if "scoring" in a.only:
        yield from scoring(a)
    if "networks" in a.only:
        yield from networks(a)
    if not {"decoding", "jobs"} & set(a.only):
        return
    target = targets.build("resnet50", weights="random", layers=list(LAYERS))
    encoder = encoders.build("open_clip", model="ViT-B-16-quickgelu", pretrained="random")
    with TemporaryDirectory() as work:
        folder = Path(work)
        write_images(folder, a.images)
        if "decoding" in a.only:
            yield from decoding(a, target, encoder, folder)
        if "jobs" in a.only:
            yield from jobs(a, target, encoder, folder)


HEADER = ("what", "in", "ours", "plain", "times as fast", "bare", "note")


def main() -> None:
    a = _parser().parse_args()
    a.device = Settings(device=a.device).torch_device
    card = torch.cuda.get_device_name(a.device) if a.device.startswith("cuda") else processor()
    print(f"{card}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}\n")
    print(markdown_table(HEADER, []), end="")
    rows = []
    for row in measure(a):
        rows.append(row)
        print(f"| {' | '.join(row.cells())} |", flush=True)
    name = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    cores = len(os.sched_getaffinity(0))
    facts = {"card": card, "cores": cores, "options": vars(a), **environment()}
    folder = Path(a.out)
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{**asdict(row), "ratio": row.ratio} for row in rows]
    write_json(folder / f"{name}.json", {**facts, "rows": listed})
    options = " ".join(
        f"--{key.replace('_', '-')} {_text(value)}" for key, value in vars(a).items()
    )
    title = f"# {card}, {cores} cores\n\n`scripts/benchmark_gpu {options}`, {facts['date']}\n\n"
    write_text(folder / f"{name}.md", title + markdown_table(HEADER, [row.cells() for row in rows]))


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, (list, tuple)) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=50_000, help="of the jobs and of bare decoding")
    add("--scoring-images", type=int, default=50_000)
    add("--concepts", type=int, default=20_000)
    add("--units", type=int, default=3904, help="of the synthetic layer that is scored")
    add("--plain-rank-units", type=int, default=20, help="of the plain rank reorder, scaled")
    add("--repeats", type=int, default=3, help="of what takes less than a second")
    add("--decoders", type=_listed(("fast", "pil", "gpu")), default=["fast"], help="of our jobs")
    add("--only", type=_listed(SECTIONS), default=list(SECTIONS), help="comma-separated sections")
    add("--device", default="auto")
    add("--out", default="results/gpu", help="folder of the table and its numbers")
    return parser


def _listed(valid: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        given = text.split(",")
        if wrong := [name for name in given if name not in valid]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r}; valid: {', '.join(valid)}")
        return given

    return names


if __name__ == "__main__":
    main()
