from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import files_no_larger_than
from PIL import ExifTags, Image

from model.gdsr import SCALE
from model.resize import bicubic_down
from model.trainer.config import Data
from model.trainer.data.batches import Batches, gathered, sliced
from model.trainer.data.patterns import enlarged
from model.trainer.data.photographs import (
    Photographs,
    find_photographs,
    keep_photographs,
    read_photographs,
    size_of,
)
from model.trainer.errors import TrainingError
from model.trainer.parallel import Processes

CPU = torch.device("cpu")
ALONE = Processes(rank=0, count=1, device=CPU)
Draw = Callable[..., Path]


def read(folder: Path, *, side: int = 64) -> Photographs:
    return read_photographs(find_photographs(folder), folder=folder, side=side)


def batches(
    photographs: Photographs,
    *,
    seed: int = 0,
    rank: int = 0,
    count: int = 1,
    patterns: float = 0.0,
) -> Batches:
    data = Data(patch=16, batch=4, keep="device", patterns=patterns)
    return Batches(
        photographs,
        data,
        degradation=None,
        seed=seed,
        processes=Processes(rank=rank, count=count, device=CPU),
    )


def test_all_photographs_below_a_folder_are_found(photographs: Path) -> None:
    assert read(photographs).names == ("0.png", "1.png", "2.png", "more/3.png")


def test_pixels_are_those_of_the_file(photographs: Path) -> None:
    found = read(photographs)

    with Image.open(photographs / "1.png") as image:
        expected = torch.from_numpy(np.array(image)).view(-1, 3)
    start = int(found.starts[1])
    assert torch.equal(found.pixels[start : start + len(expected)], expected)


def test_a_broken_picture_is_skipped_and_named(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path / "whole.png")
    (tmp_path / "text.jpg").write_text("no picture")
    cut = draw(tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])

    found = read(tmp_path)

    assert found.names == ("whole.png",)
    assert [path.name for path in found.broken] == ["cut.png", "text.jpg"]


def test_a_picture_smaller_than_a_patch_is_skipped_and_counted(draw: Draw, tmp_path: Path) -> None:
    draw(tmp_path / "large.png", width=64, height=64)
    draw(tmp_path / "narrow.png", width=63, height=200)

    found = read(tmp_path)

    assert found.names == ("large.png",)
    assert [path.name for path in found.small] == ["narrow.png"]


def test_a_folder_without_a_picture_to_use_says_why(draw: Draw, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="it has no pictures"):
        read(tmp_path)

    draw(tmp_path / "small.png", width=20, height=20)
    (tmp_path / "broken.png").write_bytes(b"")

    with pytest.raises(TrainingError, match=r"1 broken, broken.png first, 1 smaller than 64"):
        read(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no folder"):
        find_photographs(tmp_path / "nowhere")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_other_modes_are_read_as_rgb(draw: Draw, tmp_path: Path, mode: str) -> None:
    with Image.open(draw(tmp_path / "rgb.png")) as image:
        image.convert(mode).save(tmp_path / "other.tif")
    (tmp_path / "rgb.png").unlink()

    assert read(tmp_path).pixels.shape == (150 * 120, 3)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_a_grey_picture_of_16_bits_keeps_its_shades(tmp_path: Path, name: str) -> None:
    levels = np.arange(128 * 128, dtype=np.uint16).reshape(128, 128) * 4
    Image.fromarray(levels).save(tmp_path / name)

    pixels = read(tmp_path).pixels

    assert torch.equal(
        pixels, torch.from_numpy(levels // 256).to(torch.uint8).view(-1, 1).repeat(1, 3)
    )


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_a_picture_whose_levels_have_no_known_range_is_skipped(
    draw: Draw, tmp_path: Path, kind: type
) -> None:
    draw(tmp_path / "whole.png")
    Image.fromarray(np.ones((128, 128), dtype=kind)).save(tmp_path / "levels.tif")

    assert [path.name for path in read(tmp_path).broken] == ["levels.tif"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tif", "turned.webp"])
def test_a_photograph_is_read_upright(tmp_path: Path, name: str, orientation: int) -> None:
    upright = np.zeros((96, 64, 3), dtype=np.uint8)
    upright[:48, :32], upright[:48, 32:], upright[48:, :32] = 80, 160, 240
    # How the camera stores a picture that this orientation puts upright.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright[:, ::-1], -1),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif, quality=100)

    found = read(tmp_path)

    assert size_of(tmp_path / name) == (64, 96)
    assert (int(found.heights[0]), int(found.widths[0])) == (96, 64)
    pixels = found.pixels.view(96, 64, 3).numpy().astype(int)
    assert np.median(np.abs(pixels - upright)) <= 1


def test_a_picture_with_damaged_exif_is_used_as_it_is(draw: Draw, tmp_path: Path) -> None:
    with Image.open(draw(tmp_path / "a.png")) as image:
        image.convert("RGB").save(tmp_path / "a.jpg", exif=b"Exif\0\0II*")
    (tmp_path / "a.png").unlink()

    assert read(tmp_path).names == ("a.jpg",)


def test_both_ways_to_cut_give_the_same_patches(photographs: Path) -> None:
    found = read(photographs)
    random = torch.Generator().manual_seed(0)
    top, left = (torch.randint(0, most, (32,), generator=random) for most in (57, 87))
    turn = torch.arange(8).repeat_interleave(4)
    picks = torch.stack((torch.arange(4).repeat(8), top, left, turn), dim=1)

    for context in (0, 8, 40):
        size = 64 + 2 * context
        expected = gathered(found, picks, size=size, context=context)
        assert torch.equal(sliced(found, picks, size=size, context=context), expected)


def test_the_eight_turns_are_eight_views_of_the_same_pixels(photographs: Path) -> None:
    found = read(photographs)
    picks = torch.tensor([(0, 5, 5, turn) for turn in range(8)])
    patches = sliced(found, picks, size=64, context=0)

    views = {patch.numpy().tobytes() for patch in patches}
    sums = {int(patch.sum()) for patch in patches}
    assert len(views) == 8
    assert len(sums) == 1


def test_a_small_patch_is_what_the_protocol_makes_of_the_whole_photograph(
    photographs: Path,
) -> None:
    found = read(photographs)
    ahead = batches(found)
    whole = []
    for place in range(4):
        start, height, width = (
            int(each[place]) for each in (found.starts, found.heights, found.widths)
        )
        image = found.pixels[start : start + height * width].view(height, width, 3)
        image = image.permute(2, 0, 1)
        whole.append(image[:, : height // 4 * 4, : width // 4 * 4])

    aligned = 0
    for step in range(200):
        picks = ahead._picks(step)
        for row, (place, top, left, turn) in enumerate(picks.tolist()):
            beyond = left + 64 > whole[place].shape[2]
            if turn or top % SCALE or left % SCALE or beyond:
                continue
            aligned += 1
            lr = bicubic_down(whole[place]).float() / 255
            y, x = top // SCALE, left // SCALE
            # Only the whole picture was cropped to a multiple of 4, so its last columns differ.
            seen = 14 if x + 16 == lr.shape[2] else 16
            part = lr[:, y : y + 16, x : x + seen]
            assert torch.equal(ahead.at(step).lr[row][..., :seen], part)
    assert aligned > 2


def test_a_batch_depends_on_seed_and_step_alone(photographs: Path) -> None:
    found = read(photographs)
    one, other = batches(found), batches(found)
    other.at(7)

    assert torch.equal(one.at(3).hr, other.at(3).hr)
    assert not torch.equal(one.at(3).hr, one.at(4).hr)
    assert not torch.equal(one.at(3).hr, batches(found, seed=1).at(3).hr)


@pytest.mark.parametrize("keep", ["device", "host", "file"])
def test_batches_are_the_same_wherever_the_pixels_are(
    photographs: Path, tmp_path: Path, keep: str
) -> None:
    expected = batches(read(photographs))
    data = Data(patch=16, batch=4, hr_dir=str(photographs), keep=keep)  # type: ignore[arg-type]
    found, data = keep_photographs(
        find_photographs(photographs), data, device=CPU, file=tmp_path / "pixels"
    )
    kept = Batches(found, data, degradation=None, seed=0, processes=ALONE)

    with kept.stream(2) as stream:
        for step, batch in zip(range(2, 12), stream, strict=False):
            assert torch.equal(batch.lr, expected.at(step).lr)
            assert torch.equal(batch.hr, expected.at(step).hr)
    assert list(tmp_path.iterdir()) == []


def test_decoded_pixels_that_do_not_fit_on_the_disk_are_reported(
    photographs: Path, tmp_path: Path
) -> None:
    with files_no_larger_than(4096), pytest.raises(TrainingError, match="pixels"):
        read_photographs(
            find_photographs(photographs), folder=photographs, side=64, file=tmp_path / "pixels"
        )
    assert list(tmp_path.iterdir()) == []


def test_processes_share_a_batch(photographs: Path) -> None:
    found = read(photographs)
    parts = [batches(found, rank=rank, count=2).at(5) for rank in range(2)]

    assert torch.equal(torch.cat([part.hr for part in parts]), batches(found).at(5).hr)


def test_a_share_of_the_patches_is_generated_patterns(photographs: Path) -> None:
    found = read(photographs, side=64)
    plain = batches(found).at(0)
    mixed = [batches(found, patterns=0.5, rank=rank, count=2).at(0) for rank in range(2)]
    lr, hr = (torch.cat(parts) for parts in zip(*(batch[:2] for batch in mixed), strict=True))

    kept = [torch.equal(mine, its) for mine, its in zip(lr, plain.lr, strict=True)]
    assert 0 < sum(kept) < len(kept)
    for small, large, same, its in zip(lr, hr, kept, plain.hr, strict=True):
        if same:
            assert torch.equal(large, its)
        else:
            assert torch.equal(large, enlarged(small.mul(255).round().byte()) / 255)


def test_errors_of_the_loader_are_raised_in_the_loop(photographs: Path) -> None:
    found = read(photographs)
    beyond = replace(found, starts=found.starts + len(found.pixels))
    data = Data(patch=16, batch=4, keep="host")
    loader = Batches(beyond, data, degradation=None, seed=0, processes=ALONE)

    with loader.stream(0) as stream, pytest.raises(ValueError, match="reshape"):
        next(stream)
