"""Images per second of a capture, against bare forward passes and a plain two-pass loop.

    python scripts/benchmark_capture.py --images ~/photos            # the offline networks
    python scripts/benchmark_capture.py --images ~/photos --variants # the effect of settings
    python scripts/benchmark_capture.py --images ~/photos --networks paper --repeat 50
    python scripts/benchmark_capture.py --images ~/photos --loader   # decoding alone, by processes
    python scripts/benchmark_capture.py --images ~/photos --decoder gpu   # how far it is from PIL
    python scripts/benchmark_capture.py --images ~/photos --script   # Python against the command
    python scripts/benchmark_capture.py --images ~/photos --precisions  # bf16 against float32

After a warm-up, on the same images: "bare" runs both networks on batches in memory, in turn with
the capture (per batch on a CPU, per pass on a GPU); "ours" is `capture` into an empty store;
"plain" is a DataLoader and a loop per network, every image decoded twice. `--networks paper` is
ResNet-50 (five layers) and CLIP ViT-B/16 with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor

from clipdissect import concepts as concept_sets
from clipdissect import encoder as encoders
from clipdissect import probe as probes
from clipdissect import similarity, targets
from clipdissect.api import dissect
from clipdissect.app.runtime.baseline import PlainPipeline
from clipdissect.app.runtime.microbenchmarks import in_turn, processor, ratios, synchronize
from clipdissect.capture import capture as capture_module
from clipdissect.capture import networks as networks_module
from clipdissect.capture.capture import capture
from clipdissect.capture.dataloader import batches
from clipdissect.capture.decoding import batch_requests
from clipdissect.capture.infer_layout import read_layers
from clipdissect.capture.networks import EMBEDS, ModelRunner, networks
from clipdissect.capture.settings import BF16_WEIGHTS, Settings
from clipdissect.encoder import Encoder
from clipdissect.images.decode import DECODE, Picture, to_pil
from clipdissect.images.transforms import split
from clipdissect.probe import Probe
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils.memory import can_keep_memory, kept_memory

VARIANT_IMAGES, VARIANT_ROUNDS = 64, 3  # of one measurement in the table of variants
SCRIPT = """
import json, sys
import clipdissect
result = clipdissect.dissect(
    "efficientnet_lite0", encoder="conse", probe={"name": "folder", "root": sys.argv[1],
    "limit": int(sys.argv[2])}, concepts=["cat", "dog"], store=None,
    similarity={"name": "soft_wpmi", "top_k": 5},
)
result.save(sys.argv[3])
"""

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Benchmark:
    """Two networks with the settings to run them; its methods return seconds."""

    target: Target
    encoder: Encoder
    settings: Settings

    @classmethod
    def of(cls, networks_name: str, settings: Settings) -> Benchmark:
        """Build the offline profile's networks, or the paper's with random weights."""
        if networks_name == "offline":
            return cls(targets.build("efficientnet_lite0"), encoders.build("conse"), settings)
        layers = ["conv1", "layer1", "layer2", "layer3", "layer4"]
        target = targets.build("resnet50", weights="random", layers=layers)
        model = {"model": "ViT-B-16-quickgelu", "pretrained": "random"}
        return cls(target, encoders.build("open_clip", **model), settings)

    @property
    def outputs(self) -> tuple[str, ...]:
        return (*self.target.layers, EMBEDS)

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.settings.torch_device).type == "cuda"

    def networks(self) -> AbstractContextManager[ModelRunner]:
        summary, device = self.settings.summary, self.settings.torch_device
        layouts = read_layers(self.target, self.target.layers, summary, device)
        return networks(self.target, layouts, self.encoder, self.settings)

    def batches(self, probe: Probe, count: int) -> Batches:
        """Preprocess the probe's first images into batches in memory."""
        images = [to_pil(probe.read(index)) for index in range(min(count, len(probe)))]
        pairs = [(self.target.preprocess(i), self.encoder.preprocess(i)) for i in images]
        size = self.settings.images_a_batch
        chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        return [tuple(map(torch.stack, zip(*chunk, strict=True))) for chunk in chunks]

    @torch.no_grad()
    def forward_only(self, batches: Batches, count: int) -> float:
        """Run the forward passes of `count` images, from batches in memory."""
        with self.networks() as run:
            run(self.outputs, *batches[0])
            synchronize(self.settings.torch_device)
            start, done = time.perf_counter(), 0
            for batch in cycle(batches):
                run(self.outputs, *batch)
                done += len(batch[0])
                if done >= count:
                    break
            synchronize(self.settings.torch_device)
            return (time.perf_counter() - start) * count / done

    def capture(self, probe: Probe) -> float:
        with TemporaryDirectory() as folder:
            start, store, layers = time.perf_counter(), Store(Path(folder)), self.target.layers
            capture(self.target, layers, self.encoder, probe, store, self.settings)
            return time.perf_counter() - start

    def plain(self, probe: Probe, batch_size: int) -> float:
        """Run the plain loop: one pass over the images per network."""
        settings, function = (
            replace(self.settings, batch_size=batch_size),
            similarity.build("soft_wpmi"),
        )
        with TemporaryDirectory() as folder:
            parts = self.target, probe, (), self.encoder, function, settings, Path(folder)
            start = time.perf_counter()
            PlainPipeline(*parts).features()
            return time.perf_counter() - start

    def capture_and_forward(self, probe: Probe) -> tuple[float, float]:
        """Time a capture, and the bare forward passes of the same images in turn."""
        if not self.on_gpu:
            return self._paired(probe)
        batches = self.batches(probe, 4 * self.settings.images_a_batch)
        before = self.forward_only(batches, len(probe))
        seconds = self.capture(probe)
        return seconds, (before + self.forward_only(batches, len(probe))) / 2

    def _paired(self, probe: Probe) -> tuple[float, float]:
        """Run every batch twice, in the capture and bare, on CPUs (a GPU would wait per batch).

        The order alternates, so that a drifting machine speed affects both equally.
        """
        bare, turns, call = 0.0, cycle((True, False)), ModelRunner.__call__

        def both(run: ModelRunner, *inputs: Any) -> Any:
            nonlocal bare
            bare_first = next(turns)
            outputs = None if bare_first else call(run, *inputs)
            start = time.perf_counter()
            call(run, *inputs)
            bare += time.perf_counter() - start
            return call(run, *inputs) if bare_first else outputs

        @contextmanager
        def twice(*arguments: Any) -> Iterator[ModelRunner]:
            with networks(*arguments) as run, patch.object(ModelRunner, "__call__", both):
                yield run

        with patch.object(capture_module, "networks", twice):
            seconds = self.capture(probe)
        return seconds - bare, bare


def loader_rates(
    benchmark: Benchmark, probe: Probe, counts: list[int]
) -> Iterator[tuple[int, float, float]]:
    """Yield decoding processes, seconds to the first batch, and images/s of the loader alone."""
    transforms = [split(part.preprocess) for part in (benchmark.target, benchmark.encoder)]
    for workers in counts:
        settings = replace(benchmark.settings, workers=workers)
        requests = batch_requests(range(len(probe)), settings.images_a_batch, (0, 1))
        start = time.perf_counter()
        stream = batches(probe, transforms, requests, settings)
        next(stream)
        first = time.perf_counter() - start
        for _ in stream:
            pass
        synchronize(settings.torch_device)
        yield workers, first, len(probe) / (time.perf_counter() - start)


@torch.no_grad()
def decoder_difference(benchmark: Benchmark, root: str, limit: int | None, decode: str) -> str:
    """Compare a decoder with PIL: pixels, and the top class of the target's last layer."""
    settings = benchmark.settings
    transforms = [split(part.preprocess) for part in (benchmark.target, benchmark.encoder)]
    streams = []
    for name in ("pil", decode):
        probe = probes.build("folder", root=root, limit=limit, decode=name)
        requests = batch_requests(range(len(probe)), settings.images_a_batch, (0, 1))
        streams.append(batches(probe, transforms, requests, settings))
    largest = total = pixels = agreeing = images = 0
    layer = benchmark.target.layers[-1]
    with benchmark.networks() as run:
        for exact, other in zip(*streams, strict=True):
            classes = []
            for batch in (exact, other):
                outputs = run([layer], batch.inputs.get(0), None)
                classes.append(outputs[layer].argmax(1) if layer in outputs else torch.empty(0))
            agreeing += int((classes[0] == classes[1]).sum())
            images += len(exact.indices)
            for number in exact.inputs:
                gap = (exact.inputs[number].int() - other.inputs[number].int()).abs()
                largest, total = max(largest, int(gap.max())), total + int(gap.sum())
                pixels += gap.numel()
    return (
        f"{decode} against pil, {images} images: pixels differ by at most {largest} of 255, by "
        f"{total / max(pixels, 1):.4f} on average; the strongest unit of {layer} is the same for "
        f"{agreeing / max(images, 1):.2%} of the images"
    )


def repeated(probe: Probe, count: int) -> Probe:
    """Return a probe of `count` images that cycles through the given probe."""
    names = tuple(f"{n // len(probe)}/{probe.images[n % len(probe)]}" for n in range(count))
    digest = f"{probe.digest} x{count}"
    read = partial(_read_repeated, probe)
    return Probe(probe.name, names, read, digest, on_gpu=probe.on_gpu)


def _read_repeated(probe: Probe, index: int) -> Picture:
    return probe.read(index % len(probe))


def variants(name: str, probe: Probe) -> Iterator[tuple[str, float, float, float]]:
    """Yield name, images/s, speed-up over the defaults, and largest deviation."""
    base = Settings(device="cpu")
    keep_order = partial(patch.object, networks_module, "_to_device", _without_channels_last)
    yield "as it is: channels-last, float32", *_against(name, probe, base)
    yield "inputs not channels-last", *_against(name, probe, base, keep_order)
    yield "bf16", *_against(name, probe, replace(base, precision="bf16"))
    yield "torch.compile of the target", *_against(name, probe, replace(base, compile=True))
    for size in (1, 4, 16, 32, 64):
        title = f"batches of {size} instead of {base.images_a_batch}"
        yield title, *_against(name, probe, replace(base, batch_size=size))
    for count in range(1, torch.get_num_threads()):
        yield f"{count} threads", *_against(name, probe, base, partial(_threads, count))


@torch.no_grad()
def _against(
    name: str,
    probe: Probe,
    settings: Settings,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[float, float, float]:
    """Time a variant in turn with the defaults on the same images."""
    outputs: dict[str, dict[str, Tensor]] = {}
    works = {}
    with ExitStack() as stack:
        sides = {"defaults": (Settings(device="cpu"), nullcontext), "variant": (settings, around)}
        for side, (side_settings, context) in sides.items():
            benchmark = Benchmark.of(name, side_settings)  # separate networks, because of the hooks
            batches = benchmark.batches(probe, VARIANT_IMAGES)
            run = stack.enter_context(benchmark.networks())
            works[side] = partial(_run_all, run, benchmark.outputs, batches, context, side, outputs)
        rows = pd.DataFrame(in_turn(works, VARIANT_ROUNDS))
    seconds = median(rows[rows["side"] == "variant"]["seconds"])
    gain = median(ratios(rows, "defaults", base="variant"))
    exact = outputs["defaults"]
    deviations = [
        float((outputs["variant"][n] - v).abs().max() / v.std()) for n, v in exact.items()
    ]
    return VARIANT_IMAGES / seconds, gain, max(deviations)


def _run_all(
    run: ModelRunner,
    names: tuple[str, ...],
    batches: Batches,
    context: Callable[[], AbstractContextManager[Any]],
    side: str,
    outputs: dict[str, dict[str, Tensor]],
) -> float:
    with context():
        start = time.perf_counter()
        results = [run(names, *batch) for batch in batches]
        seconds = time.perf_counter() - start
    outputs[side] = {n: torch.cat([r[n].float() for r in results]) for n in names}
    return seconds


def _without_channels_last(images: Tensor, device: str) -> Tensor:
    return images.to(device)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    options = _parser().parse_args()
    if options.script:
        script_against_command(options.images, options.limit or 100, options.rounds)
        return
    with kept_memory():  # for the plain loop, too
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Run the measurements that the options name."""
    settings = Settings(
        device=options.device, batch_size=options.batch_size, workers=options.workers
    )
    benchmark = Benchmark.of(options.networks, settings)
    folder = probes.build("folder", root=options.images, decode=options.decode)
    count = min(options.limit or len(folder), len(folder)) * options.repeat
    threads = f"{processor()}, {torch.get_num_threads()} threads"
    print(
        f"{benchmark.target.name} ({len(benchmark.target.layers)} layers) and "
        f"{benchmark.encoder.name}, {torch.cuda.get_device_name() if benchmark.on_gpu else threads}"
        f", torch {torch.__version__}, {settings.numeric}, batches of {settings.images_a_batch}, "
        f"freed memory kept: {can_keep_memory()}"
    )
    if options.loader:
        counts = [0, *(1 << n for n in range((os.cpu_count() or 1).bit_length()))]
        for workers, first, rate in loader_rates(benchmark, repeated(folder, count), counts):
            print(f"{workers:2d} processes: {rate:8.1f} images/s, first batch after {first:.2f} s")
        return
    if options.decoder:
        limit = options.limit
        print(decoder_difference(benchmark, options.images, limit, options.decoder))
        return
    if options.precisions:
        precisions(benchmark, options.images, options.limit)
        return
    if options.variants:
        for name, rate, gain, deviation in variants(options.networks, folder):
            text = f"{rate:7.1f} images/s, {gain:.2f} times the defaults, deviation {deviation:.1e}"
            print(f"{name:<40} {text}", flush=True)
        return
    plain_batch_size = None if options.no_plain else options.plain_batch_size
    report(benchmark, folder, count, options.rounds, plain_batch_size)


def precisions(benchmark: Benchmark, root: str, limit: int | None) -> None:
    """Print how far bf16 agrees with float32: descriptions, and each unit's top images."""
    probe = probes.build("folder", root=root, limit=limit)
    concepts, runs = concept_sets.build("wordfreq_10k"), {}
    with TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16", BF16_WEIGHTS):
            settings = replace(benchmark.settings, precision=precision)
            for top_k in (5, 20):
                runs[precision, top_k] = dissect(
                    benchmark.target,
                    probe=probe,
                    concepts=concepts,
                    encoder=benchmark.encoder,
                    similarity={"name": "soft_wpmi", "top_k": top_k},
                    settings=settings,
                    store=folder,
                    null_similarity=False,
                )
                exact, run = runs["fp32", top_k], runs[precision, top_k]
                same = exact.descriptions["description"] == run.descriptions["description"]
                units = ["layer", "unit", "image"]
                common = exact.top_images[units].merge(run.top_images[units])
                print(
                    f"{precision:<12} top_k {top_k:>2}: same description {same.mean():.1%} of "
                    f"{len(same)} units, same top images "
                    f"{len(common) / len(exact.top_images):.1%}",
                    flush=True,
                )


def script_against_command(root: str, count: int, rounds: int) -> None:
    """Print the forward seconds of a job in a plain script and on the command line, in turn."""
    options = f"probe=folder probe.root={root} probe.limit={count} similarity.top_k=5"
    options += " concepts=list concepts.texts=[cat,dog]"
    shares = []
    for number in range(rounds):
        with TemporaryDirectory() as name:
            folder = Path(name)
            command = ["-m", "clipdissect", "dissect", "profile=offline", *options.split()]
            command += [f"paths.store={folder}/store", f"hydra.run.dir={folder}/command"]
            script = ["-c", SCRIPT, root, str(count), f"{folder}/script"]
            sides = {"command": command, "script": script}
            for side in list(sides)[:: 1 if number % 2 else -1]:
                subprocess.run([sys.executable, *sides[side]], check=True, capture_output=True)
            seconds = {side: _forward_seconds(folder / side) for side in sides}
        shares.append(seconds["script"] / seconds["command"])
        print(
            f"forward passes of {count} images: script {seconds['script']:.1f} s, command line "
            f"{seconds['command']:.1f} s: {shares[-1]:.2f} times",
            flush=True,
        )
    print(f"script over command line, median of {rounds}: {median(shares):.2f}")


def _forward_seconds(run: Path) -> float:
    seconds: float = json.loads((run / "run.json").read_text())["seconds_of_images"]["forward"]
    return seconds


def report(
    benchmark: Benchmark, folder: Probe, count: int, rounds: int, plain_batch_size: int | None
) -> None:
    """Print measurements and ratios per round, because a machine's speed drifts."""
    probe = repeated(folder, count)
    benchmark.capture(repeated(folder, min(count, 64)))  # warm-up
    shares, gains = [], []
    for _ in range(rounds):
        ours, bare = benchmark.capture_and_forward(probe)
        shares.append(bare / ours)
        speeds = f"{count / ours:.1f} images/s, bare forward passes {count / bare:.1f}"
        print(f"ours, end to end {speeds}: {bare / ours:.0%}", flush=True)
        if plain_batch_size:
            ours, plain = benchmark.capture(probe), benchmark.plain(probe, plain_batch_size)
            gains.append(plain / ours)
            speeds = f"{count / ours:.1f} images/s, plain two passes {count / plain:.1f}"
            print(f"ours, end to end {speeds}: {plain / ours:.2f} times as fast", flush=True)
    print(f"share of the bare forward passes, median of {rounds}: {median(shares):.0%}")
    if gains:
        print(f"times as fast as the plain loop, median of {rounds}: {median(gains):.2f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", required=True, help="a folder of images")
    add("--limit", type=int, help="number of images to use, from the first")
    add("--repeat", type=int, default=1, help="passes over them")
    add("--networks", choices=("offline", "paper"), default="offline")
    add("--device", default="auto")
    add("--batch-size", type=int)
    add("--workers", type=int)
    add("--rounds", type=int, default=3, help="times to measure everything")
    add("--plain-batch-size", type=int, default=32)
    add("--no-plain", action="store_true", help="leave the plain loop out")
    add("--decode", choices=DECODE, default="pil", help="the decoder of the measurements")
    add("--loader", action="store_true", help="only the loader, by decoding processes")
    add("--decoder", choices=DECODE[1:], help="only the difference of a decoder from PIL")
    add("--precisions", action="store_true", help="only the agreement of bf16 with float32")
    add("--script", action="store_true", help="only dissect() in a script against the command line")
    add("--variants", action="store_true", help="only the table of settings")
    return parser


if __name__ == "__main__":
    main()
