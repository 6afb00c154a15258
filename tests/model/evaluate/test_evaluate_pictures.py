from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.evaluate.pictures import find_pairs, find_pictures

CPU = torch.device("cpu")


def painted(path: Path, *, width: int, height: int, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), level, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """`Canon/LR` and `Canon/HR` with two pairs."""
    small, large = tmp_path / "Canon" / "LR", tmp_path / "Canon" / "HR"
    for level, (name, width, height) in enumerate((("b", 9, 7), ("a", 8, 12)), start=1):
        painted(small / f"{name}.png", width=width, height=height, level=10 * level)
        painted(large / f"{name}.bmp", width=4 * width, height=4 * height, level=20 * level)
    return small, large


def test_pairs_are_matched_by_their_stems_and_taken_as_they_are(
    folders: tuple[Path, Path],
) -> None:
    pictures = find_pairs(*folders)

    pairs = list(pictures.read(CPU, jpeg=10))
    assert [tuple(pair.lr.shape) for pair in pairs] == [(3, 12, 8), (3, 7, 9)]
    assert [tuple(pair.hr.shape) for pair in pairs] == [(3, 48, 32), (3, 28, 36)]
    assert [int(pair.lr.max()) for pair in pairs] == [20, 10]
    assert [int(pair.hr.min()) for pair in pairs] == [40, 20]
    assert pictures.sides == (28, 36)


def test_pairs_are_called_like_their_small_pictures_and_the_folder_of_both(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    assert find_pairs(*folders).name == "Canon/LR"
    assert find_pairs(folders[0], tmp_path / "Canon" / "HR" / ".").name == "Canon/LR"


def test_a_size_that_is_not_exactly_four_times_names_the_file_and_both_sizes(
    folders: tuple[Path, Path],
) -> None:
    small, large = folders
    wrong = painted(large / "b.bmp", width=37, height=28)

    with pytest.raises(ValueError, match="has 37x28 pixels") as caught:
        find_pairs(small, large)

    assert str(caught.value) == (
        f"{wrong} has 37x28 pixels; it must have 36x28, 4 times the 9x7 of {small / 'b.png'}"
    )


def test_a_missing_partner_is_an_error_on_either_side(folders: tuple[Path, Path]) -> None:
    small, large = folders
    (large / "a.bmp").unlink()
    with pytest.raises(ValueError, match=r"a\.png has no partner: there is no a in .*HR"):
        find_pairs(small, large)

    (small / "a.png").unlink()
    (small / "b.png").rename(small / "c.png")
    (large / "b.bmp").rename(large / "c.bmp")
    painted(large / "d.png", width=4, height=4)
    with pytest.raises(ValueError, match=r"d\.png has no partner: there is no d in .*LR"):
        find_pairs(small, large)


def test_two_pictures_with_one_stem_are_an_error(folders: tuple[Path, Path]) -> None:
    painted(folders[0] / "more" / "a.png", width=8, height=12)

    with pytest.raises(ValueError, match=r"2 pictures in .*LR are called a"):
        find_pairs(*folders)


def test_a_folder_of_pairs_without_pictures_is_an_error(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(ValueError, match=r"no picture in .*empty"):
        find_pairs(folders[0], tmp_path / "empty")


def test_the_light_recipe_gives_every_checkpoint_the_same_small_pictures(
    folders: tuple[Path, Path],
) -> None:
    pictures = find_pictures(folders[1])

    first, again = (list(pictures.read(CPU, light=True)) for _ in range(2))

    assert [pair.lr.shape for pair in first] == [(3, 12, 8), (3, 7, 9)]
    assert all(torch.equal(one.lr, other.lr) for one, other in zip(first, again, strict=True))
    plain = list(pictures.read(CPU))
    assert not all(torch.equal(one.lr, bare.lr) for one, bare in zip(first, plain, strict=True))
