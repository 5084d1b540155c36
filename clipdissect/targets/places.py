"""The paper's second target: ResNet-18 trained on Places365."""

from __future__ import annotations

from clipdissect.datasets import places365
from clipdissect.errors import MissingResource
from clipdissect.fetch.items import PLACES365_DIGEST
from clipdissect.models import checkpoints
from clipdissect.targets.base import Target
from clipdissect.targets.preprocess import image_transform
from clipdissect.targets.torchvision import default_layers
from clipdissect.utils.paths import data_candidates, find_data

FILE = "resnet18_places365.pth.tar"
CHECKPOINTS = (f"places365/{FILE}", FILE, f"weights/{FILE}")
CLASSES = 365


def resnet18_places365(
    checkpoint: str | None = None,
    categories: str | None = None,
    layers: list[str] | None = None,
) -> Target:
    """Return torchvision's ResNet-18 with the weights of Places365 (Zhou et al., 2017).

    Preprocessing as in that project: 256 x 256 pixels, center crop 224, ImageNet mean and std.

    Args:
        checkpoint: `resnet18_places365.pth.tar`; by default searched in the data folders.
        categories: `categories_places365.txt`; by default searched in the data folders. Without it
            the classes have no names, which is noted.
        layers: modules to dissect instead of `conv1` and `layer1` to `layer4`.

    Raises:
        MissingResource: no checkpoint.
        DissectError: a checkpoint that is unsafe or does not fit, or a wrong file of categories.
    """
    from torchvision.models import resnet18

    file = find_data(
        f"the Places365 weights {FILE}",
        data_candidates(checkpoint, *CHECKPOINTS),
        "download it from the Places365 project and set target.checkpoint",
    )
    state = checkpoints.read(file)
    model = resnet18(weights=None, num_classes=CLASSES)
    checkpoints.load(model, state, str(file))
    notes: tuple[str, ...] = ()
    try:
        names = places365.places365_names(categories)
    except MissingResource as missing:
        if categories:
            raise
        names, notes = (
            (),
            (f"the classes of Places365 have no names here ({missing.what} missing)",),
        )
    transform = image_transform(224, resize=[256, 256])
    chosen = tuple(layers or default_layers("resnet18"))
    weights = checkpoints.of_file(file, PLACES365_DIGEST, "places365")
    return Target(
        "resnet18_places365", model.eval(), transform, chosen, "fc", names, notes, weights
    )
