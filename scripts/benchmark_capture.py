"""Images per second of a capture, against its bare forward passes and a plain two-pass loop.

    python scripts/benchmark_capture.py --images ~/photos            # the offline networks
    python scripts/benchmark_capture.py --images ~/photos --variants # what settings cost and gain
    python scripts/benchmark_capture.py --images ~/photos --networks paper --repeat 50

Three measurements in one run, after a warm-up, on the same images:

- bare: both networks on batches that are ready in memory. No decoding, no store. On a processor
  each batch of a capture runs twice in turn, as part of it and bare; on a GPU whole passes do.
- ours: `clipdissect.capture.capture` into an empty store, everything included.
- plain: a DataLoader and a loop for each network, every image decoded twice, in batches of
  `--plain-batch-size`, 32 by default.

`--networks paper` is ResNet-50 (five layers) and CLIP ViT-B/16 with random weights, since speed
doesn't depend on them.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from clipdissect import probe as probes
from clipdissect.capture.capture import capture
from clipdissect.capture.dataloader import workers_for
from clipdissect.capture.infer_layout import read_layers
from clipdissect.capture.networks import EMBEDS, ModelRunner, networks
from clipdissect.capture.settings import Settings
from clipdissect.encoder import Encoder
from clipdissect.probe import Probe
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils.memory import keep_memory, memory_is_kept

VARIANT_IMAGES, VARIANT_ROUNDS = 64, 3  # of one measurement in the table of variants


class Repeated:
    """Reads a probe's images over and over: many images from few files."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe

    def __call__(self, index: int) -> Image.Image:
        return self.probe.read(index % len(self.probe))


def repeated(probe: Probe, count: int) -> Probe:
    """A probe of `count` images that are the given one's, repeated."""
    names = tuple(f"{n // len(probe)}/{probe.images[n % len(probe)]}" for n in range(count))
    return Probe(probe.name, names, Repeated(probe), f"{probe.digest} x{count}")


def readings_of(target: Target, settings: Settings) -> Any:
    """How the outputs of the target's layers are read."""
    return read_layers(target, target.layers, settings.summary, settings.torch_device)


def chosen_networks(name: str) -> tuple[Target, Encoder]:
    """The offline profile's networks, or the paper's with random weights."""
    from clipdissect import encoder
    from clipdissect import targets as target

    if name == "offline":
        return target.build("efficientnet_lite0"), encoder.build("conse")
    layers = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    return (
        target.build("resnet50", weights="random", layers=layers),
        encoder.build("open_clip", model="ViT-B-16-quickgelu", pretrained="random"),
    )


def ready_batches(target: Target, encoder: Encoder, probe: Probe, size: int, count: int) -> Any:
    """Preprocessed batches of the probe's first images, in memory."""
    images = [probe.read(index) for index in range(min(count, len(probe)))]
    pairs = [(target.preprocess(i), encoder.preprocess(i)) for i in images]
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return [tuple(map(torch.stack, zip(*chunk, strict=True))) for chunk in chunks]


@torch.no_grad()
def forward_only(
    target: Target, encoder: Encoder, batches: Sequence[tuple[Tensor, Tensor]], count: int,
    settings: Settings,
) -> float:  # fmt: skip
    """Seconds of the forward passes of `count` images, from batches in memory."""
    wanted = (*target.layers, EMBEDS)
    with networks(target, readings_of(target, settings), encoder, settings) as run:
        run(wanted, *batches[0])
        _wait(settings)
        start, done = time.perf_counter(), 0
        while done < count:
            for batch in batches:
                run(wanted, *batch)
                done += len(batch[0])
                if done >= count:
                    break
        _wait(settings)
        return (time.perf_counter() - start) * count / done


def ours(target: Target, encoder: Encoder, probe: Probe, settings: Settings) -> float:
    """Seconds of a capture into an empty store."""
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        capture(target, target.layers, encoder, probe, Store(Path(folder)), settings)
        return time.perf_counter() - start


def paired(
    target: Target, encoder: Encoder, probe: Probe, settings: Settings
) -> tuple[float, float]:
    """Seconds of a capture, and of its batches' bare forward passes, taken in turns with it.

    Every batch runs twice: once as part of the capture, once with a clock around it, which of them
    first alternates. So both see the machine at the same speed, however that drifts. For processors
    only: a GPU would be made to wait after every batch.
    """
    from clipdissect.capture import capture as capturing

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
    def twice(*given: Any) -> Iterator[ModelRunner]:
        with networks(*given) as run, patch.object(ModelRunner, "__call__", both):
            yield run

    with patch.object(capturing, "networks", twice):
        total = ours(target, encoder, probe, settings)
    return total - bare, bare


def plain(target: Target, encoder: Encoder, probe: Probe, settings: Settings) -> float:
    """Seconds of the plain loop: one pass over the images for each network."""
    kept: dict[str, list[Tensor]] = {layer: [] for layer in target.layers}

    def hook(layer: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            kept[layer].append((output.mean((2, 3)) if output.ndim == 4 else output).cpu())

        return keep

    modules = dict(target.model.named_modules())
    device = settings.torch_device
    start = time.perf_counter()
    handles = [modules[layer].register_forward_hook(hook(layer)) for layer in target.layers]
    model = target.model.eval().to(device)
    with torch.no_grad():
        for images in _plain_loader(probe, target.preprocess, settings):
            model(images.to(device))
        for handle in handles:
            handle.remove()
        embeds = [
            encoder.embed_images(images.to(device)).cpu()
            for images in _plain_loader(probe, encoder.preprocess, settings)
        ]
    assert sum(map(len, embeds)) == len(probe)
    return time.perf_counter() - start


class _PlainImages(Dataset[Tensor]):
    def __init__(self, probe: Probe, transform: Callable[[Image.Image], Tensor]) -> None:
        self.probe, self.transform = probe, transform

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.probe.read(index))


def _plain_loader(probe: Probe, transform: Any, settings: Settings) -> Iterator[Tensor]:
    loader = DataLoader(
        _PlainImages(probe, transform), batch_size=settings.images_a_batch,
        num_workers=workers_for(settings),
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    return iter(loader)


def variants(name: str, probe: Probe) -> Iterator[tuple[str, float, float, float]]:
    """Name, images/s, times as fast as the defaults, and largest deviation from them.

    The defaults and the variant take turns on the same images, since a machine's speed drifts.
    """
    base = Settings(device="cpu")
    size = base.images_a_batch
    yield "as it is: channels-last, float32", *_against(name, probe, base)
    yield "inputs not channels-last", *_against(name, probe, base, _Contiguous())
    yield "bf16", *_against(name, probe, replace(base, precision="bf16"))
    yield "torch.compile of the target", *_against(name, probe, replace(base, compile=True))
    for other in (1, 4, 16, 32, 64):
        settings = replace(base, batch_size=other)
        yield f"batches of {other} instead of {size}", *_against(name, probe, settings)
    for threads in range(1, torch.get_num_threads()):
        yield f"{threads} threads", *_against(name, probe, base, _Threads(threads))


@torch.no_grad()
def _against(
    name: str, probe: Probe, settings: Settings, around: Any = None
) -> tuple[float, float, float]:
    usual = Settings(device="cpu")
    around = around or nullcontext()
    took: dict[bool, list[float]] = {True: [], False: []}
    outputs = {}
    with ExitStack() as held:
        runs = {}
        for is_variant, own in ((False, usual), (True, settings)):
            target, encoder = chosen_networks(name)  # each its own, for the hooks
            wanted = (*target.layers, EMBEDS)
            batches = ready_batches(target, encoder, probe, own.images_a_batch, VARIANT_IMAGES)
            run = held.enter_context(networks(target, readings_of(target, own), encoder, own))
            runs[is_variant] = (run, wanted, batches)
        for _ in range(VARIANT_ROUNDS + 1):  # the first warms up
            for is_variant, (run, wanted, batches) in runs.items():
                with around if is_variant else nullcontext():
                    start = time.perf_counter()
                    found = [run(wanted, *batch) for batch in batches]
                    took[is_variant].append(time.perf_counter() - start)
                outputs[is_variant] = {n: torch.cat([f[n].float() for f in found]) for n in wanted}
    ratios = [a / b for a, b in zip(took[False][1:], took[True][1:], strict=True)]
    rate = VARIANT_IMAGES / median(took[True][1:])
    return rate, median(ratios), _deviation(outputs[True], outputs[False])


class _Contiguous:
    """Images as they come, instead of channels-last."""

    def __enter__(self) -> None:
        from clipdissect.capture import networks as forward

        self.before: Any = forward._to_device
        forward._to_device = lambda images, device: images.to(device)

    def __exit__(self, *_: object) -> None:
        from clipdissect.capture import networks as forward

        forward._to_device = self.before


class _Threads:
    """Another number of threads."""

    def __init__(self, count: int) -> None:
        self.count, self.before = count, torch.get_num_threads()

    def __enter__(self) -> None:
        torch.set_num_threads(self.count)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


def _deviation(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Largest difference, in units of the layer's standard deviation."""
    return max(float((found[n] - exact[n]).abs().max() / exact[n].std()) for n in exact)


def _wait(settings: Settings) -> None:
    if torch.device(settings.torch_device).type == "cuda":
        torch.cuda.synchronize()


def _device_name(settings: Settings) -> str:
    if torch.device(settings.torch_device).type == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="a folder of images")
    parser.add_argument("--limit", type=int, help="use the first so many")
    parser.add_argument("--repeat", type=int, default=1, help="pass over them so many times")
    parser.add_argument("--networks", choices=("offline", "paper"), default="offline")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=3, help="measure everything so many times")
    parser.add_argument("--plain-batch-size", type=int, default=32)
    parser.add_argument("--no-plain", action="store_true", help="leave the plain loop out")
    parser.add_argument("--give-memory-back", action="store_true",
                        help="as in a program that doesn't call allocator.keep_memory")  # fmt: skip
    parser.add_argument("--variants", action="store_true", help="only the table of settings")
    options = parser.parse_args()
    if not options.give_memory_back:
        keep_memory()
    settings = Settings(
        device=options.device, batch_size=options.batch_size, workers=options.workers
    )
    target, encoder = chosen_networks(options.networks)
    folder = probes.build("folder", root=options.images)
    count = min(options.limit or len(folder), len(folder)) * options.repeat
    print(f"{target.name} ({len(target.layers)} layers) and {encoder.name}, "
          f"{_device_name(settings)}, torch {torch.__version__}, {settings.numeric}, batches of "
          f"{settings.images_a_batch}, freed memory kept: {memory_is_kept()}")  # fmt: skip
    if options.variants:
        for name, rate, gain, deviation in variants(options.networks, folder):
            print(f"{name:<40} {rate:7.1f} images/s, {gain:.2f} times the defaults, deviation "
                  f"{deviation:.1e}", flush=True)  # fmt: skip
        return
    slow = replace(settings, batch_size=options.plain_batch_size)
    report(target, encoder, folder, count, settings, options.rounds,
           None if options.no_plain else slow)  # fmt: skip


def report(
    target: Target, encoder: Encoder, folder: Probe, count: int, settings: Settings,
    rounds: int, plain_settings: Settings | None,
) -> None:  # fmt: skip
    """The three measurements and their ratios, round by round: a machine's speed drifts."""
    probe = repeated(folder, count)
    on_gpu = torch.device(settings.torch_device).type == "cuda"
    both = _one_after_the_other if on_gpu else paired
    ours(target, encoder, repeated(folder, min(count, 64)), settings)  # warm-up
    shares, gains = [], []
    for _ in range(rounds):
        own, bare = both(target, encoder, probe, settings)
        shares.append(bare / own)
        print(f"ours, end to end {count / own:.1f} images/s, bare forward passes "
              f"{count / bare:.1f}: {bare / own:.0%}", flush=True)  # fmt: skip
        if plain_settings:
            own = ours(target, encoder, probe, settings)
            slow = plain(target, encoder, probe, plain_settings)
            gains.append(slow / own)
            print(f"ours, end to end {count / own:.1f} images/s, plain two passes "
                  f"{count / slow:.1f}: {slow / own:.2f} times as fast", flush=True)  # fmt: skip
    print(f"share of the bare forward passes, median of {rounds}: {median(shares):.0%}")
    if gains:
        print(f"times as fast as the plain loop, median of {rounds}: {median(gains):.2f}")


def _one_after_the_other(
    target: Target, encoder: Encoder, probe: Probe, settings: Settings
) -> tuple[float, float]:
    """Seconds of a capture, and of bare forward passes before and after it, averaged."""
    size = settings.images_a_batch
    batches = ready_batches(target, encoder, probe, size, min(len(probe), 4 * size))
    before = forward_only(target, encoder, batches, len(probe), settings)
    own = ours(target, encoder, probe, settings)
    return own, (before + forward_only(target, encoder, batches, len(probe), settings)) / 2


if __name__ == "__main__":
    main()
