"""Splits of a probe into images to describe, to validate and to test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipdissect.errors import DissectError, MissingResource
from clipdissect.scores.splits import Split, read_split, split_images, write_split

IMAGES = [f"{n:03}.png" for n in range(150)]
NONE = (0, 0, 0)


def parts_of(split: Split) -> list[list[int]]:
    return [split.describe.tolist(), split.validate.tolist(), split.test.tolist()]


def test_sizes_and_a_literal_split() -> None:
    split = split_images(IMAGES, seed=0)
    assert [len(part) for part in parts_of(split)] == [105, 15, 30]
    assert sorted(image for part in parts_of(split) for image in part) == list(range(150))
    assert all(part == sorted(part) for part in parts_of(split))
    # default_rng(0).permutation(10) is 4 6 2 7 3 5 9 0 8 1
    small = split_images(IMAGES[:10], seed=0, smallest=NONE)
    assert parts_of(small) == [[2, 3, 4, 5, 6, 7, 9], [0], [1, 8]]


def test_seeds_differ_and_repeat() -> None:
    first, again, other = (parts_of(split_images(IMAGES, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_rounding_is_left_to_the_first_part() -> None:
    split = split_images(IMAGES[:19], smallest=NONE)
    assert [len(part) for part in parts_of(split)] == [15, 1, 3]


def test_too_few_images_says_how_many_it_takes() -> None:
    with pytest.raises(DissectError, match=r"149 images; .* at least 150 \(.*30 to test"):
        split_images(IMAGES[:149])
    with pytest.raises(DissectError, match="at least 200"):
        split_images(IMAGES, shares=(0.7, 0.15, 0.15))


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.8, 0.1, 0.2), (0.9, 0.1, 0.0)])
def test_wrong_shares(shares: tuple[float, ...]) -> None:
    with pytest.raises(DissectError, match=r"scorer.shares is .* add up to 1"):
        split_images(IMAGES, shares=shares)


def test_a_negative_seed() -> None:
    with pytest.raises(DissectError, match=r"scorer\.seed is -1"):
        split_images(IMAGES, seed=-1)


def test_round_trip_in_another_order(tmp_path: Path) -> None:
    names = ["NA", "a,b.png", "\udcff.png", *IMAGES[3:]]  # read as text, quoted, escaped
    split = split_images(names, seed=3)
    file = write_split(tmp_path, names, split)
    assert file.read_text().splitlines()[:2] == ["image,part", "NA,describe"]
    assert parts_of(read_split(file, names)) == parts_of(split)
    order = np.random.default_rng(0).permutation(150)
    reread = read_split(file, [names[i] for i in order])
    assert sorted(order[reread.test]) == split.test.tolist()


def test_a_split_of_other_images(tmp_path: Path) -> None:
    file = write_split(tmp_path, IMAGES, split_images(IMAGES))
    with pytest.raises(DissectError, match=r"lacks 1 of the .* has 0 others, such as x\.png"):
        read_split(file, [*IMAGES, "x.png"])
    with pytest.raises(DissectError, match=r"lacks 0 of the .* has 1 others, such as 149\.png"):
        read_split(file, IMAGES[:-1])


def test_files_that_are_no_split(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match=r"scorer\.split"):
        read_split(tmp_path / "split.csv", IMAGES)
    file = tmp_path / "wrong.csv"
    wrong = {
        "image,role\na,test\n": "unknown column of .*wrong.csv 'part'",
        "image,part\na,tets\n": r"unknown part .*'tets'\. Did you mean test\?",
        "image,part\na,test\na,test\n": "image a more than once",
        "image,part\na,test\nb,validate\n": "0 images to describe",
    }
    for text, message in wrong.items():
        file.write_text(text)
        with pytest.raises(DissectError, match=message):
            read_split(file, ["a", "b"], (1, 1, 1))
    file.write_bytes(b"image,part\n\xff,test\n")
    with pytest.raises(DissectError, match="not a CSV file in UTF-8"):
        read_split(file, ["a"])
