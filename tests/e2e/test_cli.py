"""`gdsr-upscale` upscales files and folders without a server."""

import os
import signal
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from hosts import noise
from networks import tiny_checkpoint
from PIL import Image
from processes import wait_for

from deploy.upscale.cli import main
from deploy.upscale.plan import plan_steps

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors")


def settings(checkpoint: Path) -> dict[str, str]:
    return {"GDSR_CHECKPOINTS": str(checkpoint), "GDSR_DEVICES": "cpu", "GDSR_TILE": "64"}


def run(checkpoint: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.upscale.cli", *map(str, arguments)],
        env={**os.environ, **settings(checkpoint)},
        capture_output=True,
        text=True,
        check=False,
    )


def piped(
    checkpoint: Path, *arguments: str | Path, stdin: bytes
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.upscale.cli", *map(str, arguments)],
        env={**os.environ, **settings(checkpoint)},
        input=stdin,
        capture_output=True,
        check=False,
    )


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        opened.load()
        return opened.size


def test_one_picture_becomes_the_file_that_is_named(checkpoint: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "small.png", tmp_path / "new" / "large.webp"
    source.write_bytes(noise(20, 30))
    done = run(checkpoint, source, "-o", target, "--trade-off", "gan")

    assert done.returncode == 0, done.stderr
    assert size(target) == (120, 80)
    with Image.open(target) as opened:
        assert opened.format == "WEBP"
    assert b"/compositeWithTrainedAlgorithmicMedia<" in target.read_bytes()


def test_a_folder_becomes_a_folder_and_what_is_broken_is_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    (folder / "one.png").write_bytes(noise(20, 30))
    (folder / "deeper" / "two.PNG").write_bytes(noise(9, 9))
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "link.png").symlink_to("gone.png")
    (folder / "folder.png").mkdir()
    done = run(checkpoint, folder, "-o", tmp_path / "out", "--format", "jpeg")

    assert done.returncode == 1
    assert f"{folder / 'broken.jpg'}: the file is not a picture" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"made 2 of 3 in {tmp_path / 'out'}: 0.0")
    written = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.*"))
    assert [str(path) for path in written] == ["deeper/two.jpg", "one.jpg"]
    assert size(tmp_path / "out" / "one.jpg") == (120, 80)


def test_a_picture_that_has_no_room_in_memory_fails_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GDSR_MAX_PIXELS", "GDSR_MAX_QUEUED_PIXELS"):
        monkeypatch.setenv(name, str(10**19))
    side = 2**31 - 1
    form = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 0, 0)
    (tmp_path / "huge.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + form)
    (tmp_path / "small.png").write_bytes(noise(9, 9))
    done = run(checkpoint, tmp_path, "-o", tmp_path / "out")

    assert done.returncode == 1
    assert f"{tmp_path / 'huge.bmp'}: there is no memory for it" in done.stderr
    assert "Traceback" not in done.stderr
    assert size(tmp_path / "out" / "small.png") == (36, 36)


@pytest.mark.slow
def test_the_help_lists_the_values_of_an_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gdsr-upscale", "--help"])
    with pytest.raises(SystemExit):
        main()

    shown = capsys.readouterr().out
    for values in ("--alpha model|lanczos", "--depth same|8|16", "--lossless true|false"):
        assert values in shown


def test_ctrl_c_has_its_own_exit_status(checkpoint: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.upscale.cli", "-", "-o", str(tmp_path / "a.png")],
        env={**os.environ, **settings(checkpoint)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdin is not None
        assert running.stderr is not None
        running.stdin.write(bytes(1_000_000))  # more than a pipe holds: now it is read
        state = Path(f"/proc/{running.pid}/stat")
        wait_for(lambda: state.read_text().split()[2] == "S", what="a reader that waits for more")
        running.send_signal(signal.SIGINT)
        told = running.stderr.read()

    assert running.returncode == 130
    assert told == b""


def test_names_with_brackets_are_shown_as_they_are(checkpoint: Path, tmp_path: Path) -> None:
    names = ["[draft] a.png", "b[/b].png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    done = run(checkpoint, *(tmp_path / name for name in names), "-o", tmp_path / "out")

    assert done.returncode == 1
    for name in names:
        assert f"{tmp_path / name}: the file is not a picture" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_device_or_pipe_is_replaced_by_a_result(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(noise(4, 4))
    os.mkfifo(tmp_path / "pipe.png")

    with pytest.raises(ValueError, match=r"pipe\.png is not a regular file; use"):
        plan_steps([f"{tmp_path}/a.png"], f"{tmp_path}/pipe.png", None)


def test_a_checkpoint_file_can_be_named(checkpoint: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other.safetensors", seed=1)
    source = tmp_path / "small.png"
    source.write_bytes(noise(20, 30))
    for model, name in ((other, "a.png"), ("tiny", "b.png")):
        done = run(checkpoint, source, "-o", tmp_path / name, "--model", model)
        assert done.returncode == 0, done.stderr

    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["gone.png", "-o", "x.png"], 1, "there is no gone.png"),
        (["https://a.test/b.png", "-o", "x.png"], 1, "URLs are not fetched"),
        (["a.png", "-o", "x.png", "--scale", "5"], 1, "--scale: it is '5'; the maximum is 4"),
        (["empty", "-o", "out"], 1, "there is no picture in empty"),
        (["a.png", "-o", "a.png"], 1, "would overwrite an input"),
        (["b/a.png", "a.png", "-o", "b"], 1, "b/a.png would overwrite an input"),
        (["a.png", "-o", "x.png", "--model", "huge"], 1, "there is no model huge"),
        (["a.png", "-o", "x.png", "--model", "a.safetensors"], 1, "a.safetensors"),
        (["a.png", "-o", "x.xyz"], 1, "x.xyz has no known extension"),
        (["a.png", "-o", "x.jpg", "--format", "webp"], 1, "x.jpg does not end as a webp file"),
        (["a.png", "b/a.png", "-o", "b/a.png"], 1, "b/a.png is the name of a file; several"),
        (["a.png", "b/a.png", "-o", "x.png"], 1, "x.png is the name of a file; several pictures"),
        (["b", "-o", "x.png"], 1, "x.png is the name of a file; several pictures need"),
        (["b", "-o", "-"], 1, "several pictures need a folder, not the standard output"),
        (["-", "-", "-o", "out"], 1, "the standard input holds one picture"),
        (["a.png", "-o", "x.jpg", "--depth", "16"], 1, "jpeg does not support 16 bits"),
        (["a.png", "-o", "x.jpg", "--lossless", "true"], 1, "jpeg cannot be lossless"),
        (["a.png", "-o", "x.png", "--width", "0"], 1, "--width: it is '0'; the minimum is 1"),
        (["a.png", "-o", "x.png", "--background", "white"], 1, "--background"),
        (["a.png"], 2, "-o/--output"),
        (["a.png", "-o", "x.png", "--trade-off", "1.5"], 1, "it is '1.5'; the maximum is 1"),
        (["a.png", "-o", "x.png", "--quality", "0"], 1, "--quality: it is '0'; the minimum is 1"),
        (["a.png", "-o", "x.png", "--quality", "high"], 1, "'high' is not a whole number"),
    ],
)
def test_wrong_usage_is_reported_and_nothing_is_written(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    said: str,
) -> None:
    for folder in ("empty", "b"):
        (tmp_path / folder).mkdir()
    for name in ("a.png", "b/a.png"):
        (tmp_path / name).write_bytes(noise(8, 8))
    before = sorted(tmp_path.rglob("*"))
    for name, value in settings(checkpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gdsr-upscale", *arguments])
    try:
        ended: object = main()
    except SystemExit as usage:
        ended = usage.code
    told = capsys.readouterr().err

    assert ended == status
    assert said in told
    assert status == 2 or told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_choices_of_the_service_are_there(checkpoint: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "small.png", tmp_path / "large.png"
    source.write_bytes(noise(20, 30))
    done = run(checkpoint, source, "-o", target, "--scale", "2.5", "--depth", "16")

    assert done.returncode == 0, done.stderr
    assert size(target) == (75, 50)
    assert target.read_bytes()[24] == 16  # bit depth in IHDR


@pytest.mark.slow
def test_the_same_format_keeps_each_name_that_fits(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with Image.open(BytesIO(noise(9, 12))) as picture:
        for name in ("a.jpeg", "b.webp", "c.bmp"):
            picture.convert("RGB").save(folder / name)
        picture.convert("RGB").save(folder / "wrong.png", "JPEG")
    done = run(checkpoint, folder, "-o", tmp_path / "out", "--format", "same")

    assert done.returncode == 0, done.stderr
    formats = {}
    for path in sorted((tmp_path / "out").iterdir()):
        with Image.open(path) as opened:
            formats[path.name] = opened.format
    assert formats == {"a.jpeg": "JPEG", "b.webp": "WEBP", "c.png": "PNG", "wrong.jpg": "JPEG"}


@pytest.mark.slow
def test_one_frame_of_an_animation_can_be_chosen(checkpoint: Path, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 12), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    refused = run(checkpoint, tmp_path / "a.gif", "-o", tmp_path / "a.png")
    done = run(checkpoint, tmp_path / "a.gif", "-o", tmp_path / "a.png", "--frame", "1")

    assert refused.returncode == 1
    assert "`frame`, counted from 0" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert size(tmp_path / "a.png") == (36, 48)


@pytest.mark.slow
def test_every_picture_of_a_folder_is_made_under_a_name_of_its_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with Image.open(BytesIO(noise(9, 12))) as picture:
        for name in ("a.jpg", "a.png", "b.jfif"):
            picture.convert("RGB").save(folder / name, "PNG")
    (folder / "._a.jpg").write_bytes(b"what macOS keeps beside a.jpg")
    done = run(checkpoint, folder, "-o", f"{tmp_path / 'out'}/")

    assert done.returncode == 0, done.stderr
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["a.jpg.png", "a.png.png", "b.png"]
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"made 3 of 3 in {tmp_path / 'out'}: 0.0")


def test_names_that_are_taken_get_a_number(tmp_path: Path) -> None:
    for name in ("a.png", "b/A.png", "b/a.png.jpg", "b/a.png.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(noise(4, 4))
    steps = plan_steps([f"{tmp_path}/a.png", f"{tmp_path}/b"], "out", None)

    made = [str(step.target) for step in steps]
    assert made == ["out/a.png", "out/A (2).png", "out/a.png.bmp.png", "out/a.png.jpg.png"]


@pytest.mark.slow
def test_a_picture_that_is_cut_off_is_refused_or_filled(checkpoint: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "cut.png", tmp_path / "large.png"
    source.write_bytes(noise(30, 40)[:-900])
    refused = run(checkpoint, source, "-o", target)
    done = run(checkpoint, source, "-o", target, "--truncated", "fill")

    assert refused.returncode == 1
    assert "too early; with truncated=fill" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert "filled what is missing" in done.stderr
    assert size(target) == (160, 120)


def test_no_input_is_overwritten_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "A.png").write_bytes(noise(4, 4))
    (tmp_path / "a.png").hardlink_to(tmp_path / "A.png")  # like a case-insensitive file system

    with pytest.raises(ValueError, match="would overwrite an input"):
        plan_steps([f"{tmp_path}/A.png"], f"{tmp_path}/a.png", None)


@pytest.mark.slow
def test_a_picture_goes_from_the_standard_input_to_the_standard_output(checkpoint: Path) -> None:
    done = piped(checkpoint, "-", "-o", "-", "--format", "jpeg", stdin=noise(9, 12))

    assert done.returncode == 0, done.stderr
    with Image.open(BytesIO(done.stdout)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (48, 36))
    assert done.stderr.decode().splitlines()[-1].startswith("made the standard output: 48 x 36, 0.")


@pytest.mark.slow
def test_the_standard_input_becomes_a_file_too(checkpoint: Path, tmp_path: Path) -> None:
    done = piped(checkpoint, "-", "-o", f"{tmp_path}/", "--format", "same", stdin=noise(9, 12))

    assert done.returncode == 0, done.stderr
    assert size(tmp_path / "stdin.png") == (48, 36)


@pytest.mark.slow
def test_a_slash_at_the_end_means_a_folder_and_a_mark_that_is_off_is_left_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDSR_MARK", "off")
    (tmp_path / "a.jpg").write_bytes(noise(9, 12))
    done = run(checkpoint, tmp_path / "a.jpg", "-o", f"{tmp_path / 'new'}/")

    assert done.returncode == 0, done.stderr
    assert size(tmp_path / "new" / "a.png") == (48, 36)
    assert b"DigitalSourceType" not in (tmp_path / "new" / "a.png").read_bytes()
