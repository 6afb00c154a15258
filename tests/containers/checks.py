"""Checks of the running stack."""

import io
import os
import struct
import time
from collections.abc import Sequence

from containers.stack import Stack
from containers.steps import holds, run, step, wait_until


def is_locked_down(stack: Stack, services: Sequence[str]) -> None:
    """Check that no service has root, capabilities, a writable root or unlimited memory."""
    for service in services:
        status = stack.inside(service, "cat", "/proc/1/status")
        facts = dict(line.split(":", 1) for line in status.splitlines())
        holds(f"{service} is not root", facts["Uid"].split()[0] != "0", facts["Uid"].split()[0])
        holds(f"{service} has no capability", int(facts["CapEff"], 16) == 0)
        holds(f"{service} gains no privileges", facts["NoNewPrivs"].strip() == "1")
        wrote = stack.inside(service, "sh", "-c", "touch /x 2>&1 || true")
        holds(f"{service} has a read-only root", "Read-only file system" in wrote)
        settings = stack.inspect(service)["HostConfig"]
        holds(f"{service} has a memory limit", settings["Memory"], settings["Memory"] // 1024**2)
    ports = stack.inspect("redis")["NetworkSettings"]["Ports"]
    holds("redis has no published port", not any(ports.values()))
    shown = stack.docker("exec", stack.container("redis"), "valkey-cli", "ping", ok=False)
    holds("redis wants its password", shown.startswith("NOAUTH"), shown)


def upscales(stack: Stack) -> None:
    """Check that a photograph sent to the published port comes back upscaled."""
    wait_until("the service is ready", lambda: stack.ask("/readyz").status == 200, seconds=120)
    picture = (stack.tree / "deploy" / "sample" / "kitten.jpg").read_bytes()
    for trade_off in ("0", "0.5", "1"):
        started = time.monotonic()
        answer = stack.ask(f"/upscale?trade_off={trade_off}", data=picture, Prefer="wait=60")
        width, height = (
            struct.unpack(">II", answer.body[16:24]) if len(answer.body) > 24 else (0, 0)
        )
        holds(
            f"the photograph comes back at trade_off {trade_off}",
            answer.body.startswith(b"\x89PNG") and (width, height) == (1024, 768),
            f"{width} x {height}, {len(answer.body)} bytes, {time.monotonic() - started:.2f} s",
        )


def is_scraped(stack: Stack) -> None:
    """Check that the stack's Prometheus scrapes every process and counts the finished jobs."""
    wait_until(
        "a real Prometheus scrapes service, worker and engine",
        lambda: (
            {j for j, up in stack.measured("up").items() if up} >= {"service", "worker", "engine"}
        ),
        seconds=60,
    )
    wait_until(
        "it knows the three jobs",
        lambda: sum(stack.measured('gdsr_jobs_total{state="succeeded"}').values()) >= 3,
    )


def survives(stack: Stack) -> None:
    """Check that jobs survive the death of the worker and of Redis, and a service restart."""
    with step("kill the worker in the middle of a job"):
        job = stack.queue(_noise())
        stack.in_the_middle(job)
        stack.docker("kill", stack.container("worker"))
        stack.up(["worker"])
        wait_until("the job succeeds", lambda: stack.state(job) == "succeeded", seconds=180)
    with step("kill redis in the middle of a job, with another one waiting"):
        jobs = [stack.queue(_noise()), stack.queue(_noise())]
        stack.in_the_middle(jobs[0])
        stack.docker("kill", stack.container("redis"))
        holds("the service lives on", stack.ask("/livez").status == 200)
        refused = stack.ask("/upscale", data=_noise())
        holds("an upload is refused meanwhile", refused.status == 503, refused.document["type"])
        stack.up(["redis"])
        wait_until(
            "both jobs succeed",
            lambda: [stack.state(job) for job in jobs] == ["succeeded"] * 2,
            seconds=180,
        )
    with step("stop the worker in the middle of a job, as an update does"):
        job = stack.queue(_noise())
        stack.in_the_middle(job)
        stack.compose("stop", "worker")
        status = stack.inspect("worker")["State"]["ExitCode"]
        holds("it drained and ended by itself", status == 0, status)
        stack.up(["worker"])
        wait_until("the job succeeds", lambda: stack.state(job) == "succeeded", seconds=180)
    with step("restart the service"):
        stack.compose("restart", "service")
        wait_until("the job is still known", lambda: stack.state(job) == "succeeded")


def refuses_wrong_settings(stack: Stack) -> None:
    """Check that each wrong setting ends the start with one line that says what to change."""
    (stack.tree / "empty").touch()
    for service, variable, words in (
        ("service", "GDSR_MAX_PIXEL=1", "did you mean GDSR_MAX_PIXELS"),
        ("worker", "GDSR_DEVICES=cuda:0", "GDSR_DEVICES"),
        ("worker", "GDSR_CHECKPOINTS=/nowhere.safetensors", "/nowhere.safetensors"),
        ("service", "GDSR_REDIS_PASSWORD_FILE=", "GDSR_REDIS_PASSWORD_FILE"),
    ):
        ended = run(
            ["docker-compose", "run", "--rm", "--no-deps", "--no-TTY", "--env", variable, service],
            environment=stack.environment,
            cwd=stack.tree,
            ok=False,
        )
        said = [line for line in ended.stderr.splitlines() if line.startswith(("gdsr-", "engine"))]
        holds(
            f"{service} with {variable} ends with one line",
            ended.returncode and len(said) == 1 and words in said[0],
            "; ".join(said) or ended.stderr,
        )


def _noise() -> bytes:
    """Return a PNG that takes a while and that no cached result matches."""
    from PIL import Image

    side = 640
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(file, "PNG")
    return file.getvalue()
