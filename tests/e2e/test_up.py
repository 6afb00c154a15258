"""`gdsr-up` runs the whole site on one machine, and ends cleanly."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest
from hosts import noise
from networks import tiny_checkpoint
from PIL import Image
from processes import alive, command_line, descendants, free_port, wait_for

from workers.host.parent_death import dying_with_parent

pytestmark = pytest.mark.e2e
SAMPLE = Path(__file__).parents[2] / "deploy" / "sample" / "kitten.jpg"


class Up:
    """A running `gdsr-up`."""

    def __init__(self, data: Path, checkpoint: Path, **settings: str) -> None:
        self.port = free_port()
        environment = {name: v for name, v in os.environ.items() if not name.startswith("GDSR_")}
        environment |= {"GDSR_CHECKPOINTS": str(checkpoint), "GDSR_JOB_WORKERS": "2"}
        environment |= {f"GDSR_{name.upper()}": value for name, value in settings.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "--port", str(self.port), "--data", str(data)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509
        )

    def ready(self) -> str:
        """Wait for the line with the address and return the address."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, self.process.communicate()[1]
        return found[0]

    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=100, trust_env=False)


@contextmanager
def running_up(data: Path, checkpoint: Path, **settings: str) -> Iterator[Up]:
    up = Up(data, checkpoint, **settings)
    try:
        yield up
    finally:
        below = descendants(up.process.pid)
        up.process.kill()
        up.process.communicate()
        wait_for(lambda: not any(map(alive, below)), what="no orphans")


def everything_below(up: Up) -> list[int]:
    """Return all descendants, once both job workers run."""

    def look() -> list[int] | None:
        below = descendants(up.process.pid)
        running = " ".join(map(command_line, below))
        return below if running.count("workers.jobs.job_worker") == 2 else None

    return wait_for(look, what="two job workers")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Up]:
    data = tmp_path_factory.mktemp("up")
    sizes = {"tile": "64", "small_pixels": str(256 * 256)}
    unset = {"redis_url": "", "log_level": ""}  # empty variables count as unset
    with running_up(data, checkpoint, precision="float32", threads="1", **sizes, **unset) as up:
        assert up.ready() == f"http://127.0.0.1:{up.port}"
        yield up


def pixels(data: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened)


@pytest.mark.slow
def test_a_photograph_comes_out_four_times_larger(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "model" / "checkpoints" / "lite.safetensors"
    with running_up(tmp_path, shipped) as up, up.http() as http:
        up.ready()
        accepted = http.post("/upscale", files={"image": SAMPLE.read_bytes()})
        assert accepted.status_code == 202, accepted.text
        job = accepted.headers["Location"]
        view = wait_for(lambda: (v := http.get(job).json())["state"] == "succeeded" and v)
        result = http.get(f"{job}/result")

        assert view["options"]["model"] == "lite"
        assert result.headers["Content-Type"] == "image/png"
        large = Image.open(io.BytesIO(result.content))
        assert large.size == (1024, 768)
        # Reduced again, the result equals the photograph that was sent.
        with Image.open(SAMPLE) as sent:
            small = np.asarray(sent, np.float32)
        reduced = np.asarray(large.resize((256, 192), Image.Resampling.BOX), np.float32)
        assert np.abs(reduced - small).mean() < 6


@pytest.mark.slow
def test_the_slider_reaches_the_network(up: Up) -> None:
    picture = noise(60, 70)
    with up.http() as http:
        results = [
            pixels(
                http.post(
                    "/upscale",
                    params={"trade_off": position},
                    content=picture,
                    headers={"Prefer": "wait=60"},
                ).content
            ).astype(np.int16)
            for position in (0, 0.25, 0.5, 1)
        ]
    psnr, between, fused, gan = results

    assert not np.array_equal(psnr, fused)
    assert not np.array_equal(fused, gan)
    assert np.abs(between - (psnr + fused) / 2).max() <= 1


def test_a_small_picture_is_done_while_a_huge_one_runs(up: Up) -> None:
    with up.http() as http:
        huge = http.post("/upscale", content=noise(1500, 1500)).json()["id"]
        try:
            wait_for(lambda: http.get(f"/jobs/{huge}").json()["progress"]["tiles_done"] > 0)
            small = http.post("/upscale", content=noise(64, 64), headers={"Prefer": "wait=60"})
            running = http.get(f"/jobs/{huge}").json()
        finally:
            http.delete(f"/jobs/{huge}")  # or the next test would wait for it

        assert small.status_code == 200
        assert running["state"] == "running"


@pytest.mark.slow
def test_a_job_can_be_cancelled_while_it_waits_and_while_it_runs(up: Up) -> None:
    with up.http() as http:
        running = http.post("/upscale", content=noise(1500, 1500)).json()["id"]
        waiting = http.post("/upscale", content=noise(1500, 1500)).json()["id"]
        wait_for(lambda: http.get(f"/jobs/{running}").json()["progress"]["tiles_done"] > 0)
        for job_id in (waiting, running):
            assert http.delete(f"/jobs/{job_id}").json()["state"] == "cancelled"
        after = http.post("/upscale", content=noise(260, 260), headers={"Prefer": "wait=60"})

        assert after.status_code == 200  # a worker is free again
        for job_id in (waiting, running):
            assert http.get(f"/jobs/{job_id}").json()["state"] == "cancelled"
            assert http.get(f"/jobs/{job_id}/result").status_code == 410


def test_a_picture_that_only_the_decoder_sees_through_fails_with_a_problem(up: Up) -> None:
    broken = noise(200, 200)[:-20_000]
    with up.http() as http:
        answer = http.post("/upscale", content=broken, headers={"Prefer": "wait=60"})

    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "/problems/image-corrupt"


@pytest.mark.slow
def test_a_second_start_on_the_same_data_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with running_up(tmp_path, checkpoint, tile="64", threads="1") as first:
        first.ready()
        second = Up(tmp_path, checkpoint)
        _, said = second.process.communicate(timeout=100)

        assert second.process.returncode == 1
        assert said.count("\n") == 1
        assert f"the data folder {tmp_path} is in use by another gdsr-up" in said


@pytest.mark.slow
def test_ctrl_c_ends_all_its_processes_cleanly(tmp_path: Path, checkpoint: Path) -> None:
    with running_up(tmp_path, checkpoint, tile="64", threads="1") as up:
        up.ready()
        below = everything_below(up)
        names = " ".join(map(command_line, below))
        up.process.send_signal(signal.SIGINT)
        _, said = up.process.communicate(timeout=100)

        for part in ("valkey-server", "workers.engine", "workers.jobs.job_worker", "service"):
            assert part in names
        assert up.process.returncode == 0, said
        wait_for(lambda: not any(map(alive, below)), what="the end of what died with it")
        assert "Traceback" not in said


@pytest.mark.slow
def test_nothing_outlives_a_kill(tmp_path: Path, checkpoint: Path) -> None:
    with running_up(tmp_path, checkpoint, tile="64", threads="1") as up:
        up.ready()
        below = everything_below(up)
        up.process.kill()

        wait_for(lambda: not any(map(alive, below)), what="no orphans")


@pytest.mark.slow
def test_queued_jobs_are_still_there_after_a_restart(tmp_path: Path, checkpoint: Path) -> None:
    with running_up(tmp_path, checkpoint, tile="64", threads="1") as up, up.http() as http:
        up.ready()
        jobs = [http.post("/upscale", content=noise(300, 300)).json()["id"] for _ in range(3)]
    with running_up(tmp_path, checkpoint, tile="64", threads="1") as up, up.http() as http:
        up.ready()
        for job in jobs:
            wait_for(
                lambda job=job: http.get(f"/jobs/{job}").json()["state"] == "succeeded",  # type: ignore[misc]
            )


def test_a_port_in_use_is_reported_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "deploy.local", "--data", str(tmp_path)]
        port = str(taken.getsockname()[1])
        run = subprocess.run(
            [*command, "--port", port], capture_output=True, text=True, check=False
        )

    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in run.stderr


@pytest.mark.parametrize("port", ["0", "70000", "x"])
def test_a_port_that_is_none_is_wrong_usage(tmp_path: Path, port: str) -> None:
    command = [sys.executable, "-m", "deploy.local", "--data", str(tmp_path), "--port", port]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert run.returncode == 2
    assert f"'{port}' is not a port, 1 to 65535" in run.stderr


def test_a_temporary_folder_that_is_too_deep_for_sockets_is_reported_at_once(
    tmp_path: Path,
) -> None:
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()
    run = subprocess.run(
        [sys.executable, "-m", "deploy.local", "--data", str(tmp_path), "--port", str(free_port())],
        env=os.environ | {"TMPDIR": str(deep)}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (run.returncode, run.stderr.count("\n")) == (1, 1), run.stderr
    assert f"TMPDIR: {deep}" in run.stderr


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("GDSR_MAX_PIXELS", "many", "GDSR_MAX_PIXELS"),
        ("GDSR_LOG_LEVEL", "loud", "GDSR_LOG_LEVEL"),
        ("GDSR_TILE", "3", "GDSR_TILE"),
        ("GDSR_CHECKPOINTS", "/nowhere.safetensors", "/nowhere.safetensors"),
        ("GDSR_DEVICES", "cuda:7", "cuda:7"),
        ("GDSR_DEFAULT_MODEL", "huge", "GDSR_DEFAULT_MODEL"),
    ],
)
@pytest.mark.slow
def test_wrong_settings_end_it_with_a_line_that_names_them(
    tmp_path: Path, checkpoint: Path, setting: str, value: str, said: str
) -> None:
    settings = {setting.removeprefix("GDSR_").lower(): value}
    with running_up(tmp_path, checkpoint, **settings) as up:
        _, stderr = up.process.communicate(timeout=100)

        assert up.process.returncode == 1
        assert said in stderr
        assert "Traceback" not in stderr


def test_a_queue_that_cannot_start_says_where_it_tells_why(
    tmp_path: Path, checkpoint: Path
) -> None:
    stored = tmp_path / "valkey" / "appendonlydir"
    stored.mkdir(parents=True)
    (stored / "appendonly.aof.manifest").write_text("damaged")
    up = Up(tmp_path, checkpoint)
    _, said = up.process.communicate(timeout=100)

    assert up.process.returncode == 1
    assert f"its log is {tmp_path / 'valkey' / 'valkey.log'}" in said
    assert "manifest" in (tmp_path / "valkey" / "valkey.log").read_text()


@pytest.mark.slow
def test_a_corrupt_checkpoint_is_named(tmp_path: Path, checkpoint: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(checkpoint.read_bytes()[:-100])
    with running_up(tmp_path / "data", broken) as up:
        _, stderr = up.process.communicate(timeout=100)

        assert up.process.returncode == 1
        assert str(broken) in stderr
        assert "Traceback" not in stderr
