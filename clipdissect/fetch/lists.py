"""Concept lists that can be fetched.

The digests of the paper's lists are those of the files that this project is checked against.
"""

from __future__ import annotations

from clipdissect.fetch.sources import File, Holds, Item
from clipdissect.utils.paths import data_places

AUTHORS = "https://raw.githubusercontent.com/Trustworthy-ML-Lab/CLIP-dissect/main/data"
WORDS = "https://raw.githubusercontent.com/first20hours/google-10000-english/master"
PLACES_CODE = "https://raw.githubusercontent.com/CSAILVision/places365/master"
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

LISTS = (
    Item(
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
            # The list's own home. Its versions differ a little (one seen has 8 bytes more), so no
            # digest is known.
            (File("20k.txt", (f"{WORDS}/20k.txt",)),),
        ),
        "download 20k.txt from https://github.com/first20hours/google-10000-english and give it "
        "with --from-file",
        "clipdissect dissect concepts=google_20k",
        holds=(Holds("words", 19_900, 20_100),),
    ),
    Item(
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
        "download google-10000-english-no-swears.txt from "
        "https://github.com/first20hours/google-10000-english and give it with --from-file",
        "clipdissect dissect concepts=google_10k",
        holds=(Holds("words", 9_800, 10_100),),
    ),
    Item(
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
        "copy the words, one a line, into a file from "
        "https://www.ef.com/wwen/english-resources/english-vocabulary/top-3000-words/ and give it "
        "with --from-file",
        "clipdissect dissect concepts=ef_3k",
        holds=(Holds("words", 2_900, 3_100),),
    ),
    Item(
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
        "download data/broden_labels_clean.txt from "
        "https://github.com/Trustworthy-ML-Lab/CLIP-dissect and give it with --from-file",
        "clipdissect dissect concepts=broden",
    ),
    Item(
        "places365_names",
        "the 365 category names of Places365",
        6833,
        "MIT (CSAILVision/places365)",
        data_places,
        "concepts/places365_categories.txt",
        ((PLACES_NAMES,),),
        "download categories_places365.txt from https://github.com/CSAILVision/places365 and give "
        "it with --from-file",
        "clipdissect dissect concepts=places365 target=resnet18_places365",
    ),
)
