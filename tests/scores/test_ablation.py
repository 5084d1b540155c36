"""Ablation scores against networks whose channel a hook replaces, and the heads they need."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import timm
import torch
from tiny import preprocess, write_colours
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet as resnets
from torchvision.models.vision_transformer import VisionTransformer

from clipdissect import probe
from clipdissect.capture.capture import capture
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.scores.ablation import Part, ablation_scores
from clipdissect.scores.base import Pairs
from clipdissect.scores.heads import LinearHead, head_of, network_inputs, true_classes
from clipdissect.targets import Target

SIZE = 32


def resnet() -> nn.Module:
    """ResNet-18 with one block a stage."""
    made: nn.Module = resnets.ResNet(resnets.BasicBlock, [1, 1, 1, 1], num_classes=7)
    return made


def vit() -> nn.Module:
    made: nn.Module = VisionTransformer(SIZE, 16, 1, 2, 16, 32, num_classes=7)
    nn.init.normal_(made.heads.head.weight)  # zeros at first
    return made


def lite0() -> nn.Module:
    made: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=7)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    made.train()(torch.rand(8, 3, SIZE, SIZE))  # statistics without which units are dead
    return made


NETWORKS = {
    "resnet": (resnet, "avgpool", "fc"),
    "maps": (resnet, "layer4", "fc"),
    "vit": (vit, "encoder.ln", "heads.head"),
    "lite0": (lite0, "global_pool", "classifier"),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    folder = tmp_path_factory.mktemp("pictures")
    write_colours(folder, shades=4)
    return probe.build("folder", root=str(folder))


def network(name: str) -> tuple[Target, str, str]:
    make, layer, head = NETWORKS[name]
    torch.manual_seed(0)
    return Target(name, make().eval(), preprocess(SIZE), (layer,)), layer, head


def captured(target: Target, layer: str, pictures: Probe) -> Tensor:
    settings = Settings(device="cpu", workers=0)
    features = capture(target, [layer], None, pictures, None, settings)
    return features.activations[layer]


def replacing(layer: str, unit: int, values: Tensor) -> Any:
    """A hook that gives a unit the same value at all positions."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        axis = 2 if layer == "encoder.ln" else 1  # tokens have their units last
        changed.select(axis, unit).copy_(values.view(-1, *[1] * (output.ndim - 2)))
        return changed

    return hook


@torch.no_grad()
def losses(target: Target, layer: str, inputs: Tensor, classes: Tensor, *replaced: Any) -> Tensor:
    handle = None
    if replaced:
        module = target.model.get_submodule(layer)
        handle = module.register_forward_hook(replacing(layer, *replaced))
    logits = target.model(inputs)
    if handle:
        handle.remove()
    return F.cross_entropy(logits / 1.1, classes, reduction="none")


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_a_network_whose_channel_a_hook_replaces(name: str, pictures: Probe) -> None:
    target, layer, head_name = network(name)
    q = captured(target, layer, pictures)
    inputs = network_inputs(target, pictures, pictures.images)
    head = head_of(target, layer, inputs[:4], q[:4])
    assert head.name == head_name
    units = q.var(0).topk(3).indices
    s = torch.rand(len(q), 2, generator=torch.Generator().manual_seed(0)) + q[:, units[:2]]
    classes = torch.arange(len(q)) % 7
    val, test = slice(0, 10), slice(10, None)
    parts = [Part(q[part], s[part], classes[part]) for part in (val, test)]
    pairs = Pairs(units[[0, 1, 1, 2]].numpy(), np.array([0, 1, 0, 1]))
    scores = ablation_scores(head, *parts, pairs)["ablation"]
    about = (target, layer, inputs[test], classes[test])
    original = losses(*about)
    for unit, text, score in zip(pairs.units, pairs.texts, scores, strict=True):
        a = q[val, unit]
        correlation = torch.corrcoef(torch.stack([a, s[val, text]]))[0, 1]
        z = (s[test, text] - s[test, text].mean()) / s[test, text].std()
        simulated = losses(*about, int(unit), z * a.std() * correlation + a.mean())
        mean = losses(*about, int(unit), a.mean().expand(len(z)))
        expected = 1 - (simulated - original).abs().sum() / (mean - original).abs().sum()
        assert score == pytest.approx(float(expected), abs=1e-4)


def by_hand() -> tuple[LinearHead, Part, Part]:
    # Logits / 1.1 are a and -a: the loss of the right class is log(1 + exp(-2 |a|)).
    head = LinearHead(torch.tensor([[1.1], [-1.1]]), torch.zeros(2))
    validate = Part(torch.tensor([[0.5], [-0.5]]), torch.tensor([[2.0], [1.0]]))
    test = Part(torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0], [1.0]]))
    return head, validate, test


ONE = Pairs(np.array([0]), np.array([0]))


def test_by_hand() -> None:
    # z is +-sqrt(1/2), the standard deviation sqrt(1/2), the correlation 1: simulated are +-0.5.
    # Losses are 0.126928, simulated 0.313262, with the mean, 0, log 2 = 0.693147.
    head, validate, test = by_hand()
    expected = 1 - (0.313262 - 0.126928) / (0.693147 - 0.126928)
    score = ablation_scores(head, validate, test, ONE)["ablation"]
    assert score == pytest.approx([expected], abs=1e-5)
    given = Part(test.activations, test.simulated, torch.tensor([0, 1]))  # the predictions
    assert ablation_scores(head, validate, given, ONE)["ablation"] == pytest.approx(score)
    # Of wrong classes, losses are 2.126928, simulated 1.313262.
    wrong = Part(test.activations, test.simulated, torch.tensor([1, 0]))
    expected = 1 - (2.126928 - 1.313262) / (2.126928 - 0.693147)
    score = ablation_scores(head, validate, wrong, ONE)["ablation"]
    assert score == pytest.approx([expected], abs=1e-5)


def random_parts(
    images: int = 40, units: int = 6, texts: int = 4, scale: float = 1.0
) -> tuple[LinearHead, Part, Part]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    head = LinearHead(scale * draw(9, units), draw(9))
    parts = []
    for _ in range(2):
        activations = draw(images, units).relu()
        simulated = torch.sigmoid(activations[:, :texts] + draw(images, texts))
        parts.append(Part(activations, simulated, torch.arange(images) % 9))
    return head, *parts


def test_fitted_lines_equal_plain_adam() -> None:
    head, validate, test = random_parts()
    pairs = Pairs(np.array([0, 0, 1, 5]), np.array([0, 3, 1, 2]))
    scores = ablation_scores(head, validate, test, pairs, "optim")["ablation"]
    chosen = zip(pairs.units, pairs.texts, strict=True)
    expected = [plain_adam(head, validate, test, unit, text) for unit, text in chosen]
    assert scores == pytest.approx(expected, abs=1e-3)
    assert scores[0] > ablation_scores(head, validate, test, pairs, "norm")["ablation"][1]


def plain_adam(head: LinearHead, validate: Part, test: Part, unit: int, text: int) -> float:
    def change(part: Part, values: Tensor) -> Tensor:
        q = part.activations.double().clone()
        before = F.cross_entropy(head.logits(q) / 1.1, part.classes, reduction="none")
        q[:, unit] = values
        after = F.cross_entropy(head.logits(q) / 1.1, part.classes, reduction="none")
        return (after - before).abs().sum()

    c = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    d = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([c, d], lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        change(validate, c * validate.simulated[:, text].double() + d).backward()
        optimizer.step()
    with torch.no_grad():
        mean = validate.activations[:, unit].double().mean().expand(len(test.activations))
        simulated = change(test, c * test.simulated[:, text].double() + d)
        return float(1 - simulated / change(test, mean))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_interpolated_losses_are_exact_at_any_scale(scale: float) -> None:
    head, validate, test = random_parts(scale=scale)
    score = ablation_scores(head, validate, test, ONE)["ablation"][0]
    a, s = validate.activations[:, 0].double(), validate.simulated[:, 0].double()
    t = test.simulated[:, 0].double()
    line = (t - t.mean()) / t.std() * a.std() * torch.corrcoef(torch.stack([a, s]))[0, 1]
    sums = []
    original = F.cross_entropy(head.logits(test.activations) / 1.1, test.classes, reduction="none")
    for values in (line + a.mean(), a.mean().expand(len(t))):
        q = test.activations.double().clone()
        q[:, 0] = values
        changed = F.cross_entropy(head.logits(q) / 1.1, test.classes, reduction="none")
        sums.append(float((changed - original).abs().sum()))
    assert score == pytest.approx(1 - sums[0] / sums[1], abs=1e-7)


def test_perfect_and_undefined_scores() -> None:
    head, validate, test = random_parts()
    perfect = [Part(p.activations, p.activations, p.classes) for p in (validate, test)]
    pairs = Pairs(np.array([2]), np.array([2]))
    assert ablation_scores(head, *perfect, pairs, "optim")["ablation"] == pytest.approx([1])
    # A unit without weights changes no loss; a constant text has no z-score.
    head.weight[:, 0] = 0
    validate.simulated[:, 1], test.simulated[:, 3] = 0.5, 0.5
    pairs = Pairs(np.array([0, 1, 1, 1]), np.array([0, 1, 3, 0]))
    scores = ablation_scores(head, validate, test, pairs)["ablation"]
    assert np.isnan(scores).tolist() == [True, True, True, False]
    fitted = ablation_scores(head, validate, test, pairs, "optim")["ablation"]
    assert np.isnan(fitted).tolist() == [True, False, False, False]


def test_wrong_inputs() -> None:
    head, validate, test = random_parts()
    with pytest.raises(DissectError, match=r"unknown mode 'normal'. Did you mean norm\?"):
        ablation_scores(head, validate, test, ONE, "normal")
    few = Part(test.activations[:, :5], test.simulated, test.classes)
    with pytest.raises(DissectError, match="activations holds 5 units, weights of head holds 6"):
        ablation_scores(head, validate, few, ONE)
    beyond = Part(test.activations, test.simulated, torch.full((40,), 9))
    with pytest.raises(DissectError, match="the true classes are 9 to 9, but head has 9 classes"):
        ablation_scores(head, validate, beyond, ONE)


def test_layers_that_feed_no_head_are_refused(pictures: Probe) -> None:
    target, *_ = network("resnet")
    inputs = network_inputs(target, pictures, pictures.images[:3])
    for layer, message in {
        "layer4.0.conv2": r"fc doesn't read the activations .*choose the layer just before fc",
        "layer3": "layer3 has 256 units, but fc reads 512",
    }.items():
        q = captured(target, layer, pictures)[:3]
        with pytest.raises(DissectError, match=message):
            head_of(target, layer, inputs, q)
    soft = Target("soft", nn.Sequential(target.model, nn.Softmax(1)), preprocess(SIZE))
    with pytest.raises(DissectError, match="the output of soft isn't that of a linear layer"):
        head_of(soft, "0.avgpool", inputs, captured(target, "avgpool", pictures)[:3])


def test_a_network_is_left_as_it_was(pictures: Probe) -> None:
    target, layer, _ = network("vit")
    target.model.train()
    inputs = network_inputs(target, pictures, pictures.images[:3])
    q = captured(target, layer, pictures)[:3]
    head = head_of(target, layer, inputs, q)
    assert target.model.training
    assert not any(module._forward_hooks for module in target.model.modules())
    assert not head.weight.requires_grad


def test_true_classes() -> None:
    names = ("cat", "dog")
    classes, source = true_classes(("dog", "cat"), names)
    assert classes is not None
    assert (classes.tolist(), source) == ([1, 0], "the probe's class labels")
    for labels, known, message in (
        (("dog", None), names, "1 of 2 images have no label or another one .*such as None"),
        (("dog", "hat"), names, "such as hat"),
        (None, names, "the probe has no class labels"),
        (("dog",), (), "no class names are known"),
    ):
        classes, source = true_classes(labels, known)
        assert classes is None
        assert source.startswith("the network's own prediction: ")
        assert re.search(message, source)
