"""`gdsr-bulk` gives each picture of an archive a result, or a line that says why not."""

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from buckets import S3Server
from drills.site import barcode, read
from factories import photo, saved
from hosts import noise
from networks import tiny_checkpoint
from processes import children, command_line, descendants, suspend, wait_for

from deploy.ray.decoder import Decoder, PictureFailed
from workers.contract.images.options import PictureChoices
from workers.contract.settings import WorkerSettings
from workers.host.parent_death import dying_with_parent

PICTURE = saved(photo(20, 30), "PNG")


def fails(decoder: Decoder, data: bytes = PICTURE) -> str:
    with pytest.raises(PictureFailed) as failure:
        decoder.decode(data, PictureChoices())
    return failure.value.reason


def kill_once_asked(decoder: Decoder, pid: int) -> None:
    """Kill a suspended decoder once a picture waits for it in its pipe."""
    pipe = decoder._pipe.fileno()
    unread = struct.Struct("i")
    nothing = bytes(unread.size)
    wait_for(lambda: unread.unpack(fcntl.ioctl(pipe, termios.TIOCOUTQ, nothing))[0])
    os.kill(pid, signal.SIGKILL)


def test_a_picture_that_stops_or_kills_its_decoder_costs_no_other() -> None:
    decoder = Decoder(WorkerSettings(), seconds=60)
    try:
        assert decoder.decode(PICTURE, PictureChoices()).width == 30
        assert fails(decoder, b"no picture") == "image-unsupported"
        assert decoder.child is not None
        first = decoder.child.pid

        suspend(first)
        decoder._seconds = 0.1
        assert fails(decoder) == "decoder-hung"

        decoder._seconds = 60
        assert decoder.decode(PICTURE, PictureChoices()).width == 30
        assert decoder.child.pid != first

        suspend(decoder.child.pid)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(kill_once_asked, decoder, decoder.child.pid)
            assert fails(decoder) == "decoder-crashed"
        assert decoder.decode(PICTURE, PictureChoices()).width == 30
    finally:
        decoder.close()


class Archive:
    """A folder of pictures, three of which cannot have a result, and `gdsr-bulk` runs on it."""

    def __init__(self, folder: Path, pictures: int) -> None:
        self.folder, self.source, self.target = folder, folder / "in", folder / "out"
        self.checkpoint = tiny_checkpoint(folder / "tiny.safetensors", consistency=True)
        (self.source / "more").mkdir(parents=True)
        for number in range(pictures):
            place = self.source / ("more" if number % 2 else "")
            (place / f"{number}.png").write_bytes(barcode(number))
        (self.source / "damaged.jpg").write_bytes(saved(photo(40, 40), "JPEG")[:200])
        (self.source / "large.png").write_bytes(saved(photo(400, 400), "PNG"))
        (self.source / "text.gif").write_text("no picture")
        (self.source / "notes.txt").write_text("not asked for")
        self.manifest = folder / "failed.jsonl"

    def start(self, *options: str, target: str = "", **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.ray", str(self.source), target or str(self.target),
             "--manifest", str(self.manifest), "--model", str(self.checkpoint), "--trade-off", "0",
             *options],
            env={**os.environ, "GDSR_TILE": "64", "GDSR_PRECISION": "float32", "GDSR_THREADS": "1",
                 "GDSR_MAX_PIXELS": "100000", **environment},
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509
        )  # fmt: skip

    def failed(self) -> dict[str, str]:
        lines = map(json.loads, self.manifest.read_text().splitlines())
        return {line["picture"]: line["reason"] for line in lines}

    def made(self) -> dict[str, Path]:
        return {str(p.relative_to(self.target)): p for p in self.target.rglob("*.png")}


def decoders(pid: int) -> list[int]:
    """Return the decoders below a process; none while actors restart."""
    return [found for found in descendants(pid) if "deploy.ray.decoder" in command_line(found)]


def actors(pid: int) -> list[int]:
    """Return the actors below a process: each holds a network."""
    return [found for found in descendants(pid) if "(Upscaler)" in command_line(found)]


def peak(pid: int) -> int:
    """Return a process's peak memory in bytes; 0 when it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0


HOPELESS = {
    "damaged.jpg": "image-corrupt", "large.png": "image-too-large", "text.gif": "image-unsupported",
}  # fmt: skip


@pytest.mark.slow
def test_a_folder_goes_into_a_bucket(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    obstore = pytest.importorskip("obstore")
    archive, bucket = Archive(tmp_path, 6), S3Server(tmp_path / "s3.log")
    try:
        target, environment = f"s3://{bucket.bucket()}/large", bucket.environment()
        with archive.start(target=target, **environment) as run:
            _, said = run.communicate()
        assert run.returncode == 1, said
        assert "Traceback" not in said
        assert archive.failed() == HOPELESS

        store = obstore.store.S3Store.from_url(
            target, endpoint=bucket.url, access_key_id="key", secret_access_key="secret",  # noqa: S106
            region="us-east-1", client_options={"allow_http": True},
        )  # fmt: skip
        names = {entry["path"] for entries in obstore.list(store) for entry in entries}
        wanted = {f"{'more/' if n % 2 else ''}{n}.png.png": n for n in range(6)}
        assert names == set(wanted)
        for name, number in wanted.items():
            assert read(bytes(obstore.get(store, name).bytes())) == number
    finally:
        bucket.close()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_an_archive_is_killed_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    archive, began = Archive(tmp_path, 200), time.monotonic()
    with archive.start("--actors", "2") as run:
        wait_for(lambda: len(archive.made()) >= 60, seconds=600, what="60 results")
        below = descendants(run.pid)
        run.kill()
    wait_for(lambda: not any(map(command_line, below)), what="no orphans")
    killed = archive.made()
    assert 60 <= len(killed) < 200
    before = {name: path.stat().st_mtime_ns for name, path in killed.items()}

    with archive.start("--actors", "2") as run:
        wait_for(lambda: len(archive.made()) > len(killed) + 20, seconds=600, what="more results")
        (stopped, *_) = wait_for(lambda: decoders(run.pid), what="a decoder")
        os.kill(stopped, signal.SIGSTOP)
        (other,) = (actor for actor in actors(run.pid) if stopped not in children(actor))
        os.kill(other, signal.SIGKILL)  # its picture is retried
        _, resumed = run.communicate()
    assert run.returncode == 1, resumed
    (hung,) = archive.failed().keys() - HOPELESS.keys()
    assert archive.failed() == {**HOPELESS, hung: "decoder-hung"}
    assert len(archive.made()) == 199

    with archive.start("--actors", "2") as run:
        _, third = run.communicate()
    assert archive.failed() == HOPELESS
    made = archive.made()
    assert len(made) == 200
    for name, path in made.items():
        assert read(path.read_bytes()) == int(Path(name).name.split(".")[0])
    assert all(made[name].stat().st_mtime_ns == written for name, written in before.items())
    with capsys.disabled():
        sys.stdout.write(
            f"\nkilled at {len(killed)} of 200; {resumed.splitlines()[-2]}; {hung} hung; "
            f"{third.splitlines()[-2]}; {time.monotonic() - began:.0f} s in all\n"
        )
    assert "Traceback" not in resumed + third


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_the_number_of_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    archive = Archive(tmp_path, 0)
    side, few, many = 1000, 2, 10
    for number in range(many):
        (archive.source / f"{number}.png").write_bytes(noise(side, side, seed=number))
    limits = {"GDSR_MAX_PIXELS": str(side * side), "GDSR_TILE": "256"}
    with archive.start("--actors", "1", **limits) as run:
        (actor,) = wait_for(lambda: actors(run.pid), what="an actor")
        loaded = wait_for(lambda: decoders(run.pid) and peak(actor), seconds=600, what="a decoder")
        early = wait_for(lambda: len(archive.made()) >= few and peak(actor), seconds=600)
        late = early
        while len(archive.made()) < many and run.poll() is None:
            late = max(late, peak(actor))
            time.sleep(0.1)
        _, said = run.communicate()
    assert len(archive.made()) == many + 1, said  # and large.png, which is within this limit
    with capsys.disabled():
        sys.stdout.write(
            f"\n{side} x {side}: {loaded / 1e6:.0f} MB before the first picture, "
            f"{early / 1e6:.0f} MB after {few}, {late / 1e6:.0f} MB after {many}\n"
        )
    assert late - early < 48 * side * side


def test_results_inside_the_archive_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    archive = Archive(tmp_path, 1)
    with archive.start(target=str(archive.source / "large")) as run:
        _, said = run.communicate()
    assert run.returncode == 1
    assert said.startswith("gdsr-bulk: ")
    assert "give another OUT" in said
