"""Build the images, run the compose file, break parts of it, take everything down."""

import argparse
import io
import os
import secrets
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from deploy.containers.bases import make_stand_ins
from deploy.containers.private_engine import private_engine, require_tools
from deploy.containers.stack import Stack
from deploy.containers.steps import Failed, Skipped, holds, run, step, wait_until

ROOT = Path(__file__).parents[2]
SKIPPED = 77
#: Grafana has no stand-in: it comes with no Debian. Its files are checked elsewhere.
SERVICES = ("redis", "service", "worker", "prometheus", "alertmanager")
OURS = ("service", "worker")
SERVICE_LIMIT_MB = 110


def main() -> int:
    """0 when every claim held, 1 when one did not, 77 when this machine cannot tell."""
    parser = argparse.ArgumentParser(prog="deploy/check-containers", description=__doc__)
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gdsr-check",
        help="folder for Debian and torch, so that the next run is quicker",
    )
    cache = parser.parse_args().cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    try:
        require_tools()
        with (
            tempfile.TemporaryDirectory(prefix="gdsr-check-", ignore_cleanup_errors=True) as folder,
            private_engine(Path(folder)) as client,
        ):
            _check(Path(folder), cache, client)
        leftovers = run(["ip", "-brief", "link", "show", "type", "bridge"], ok=False).stdout
        holds("no network bridge of ours is left", not leftovers.strip(), leftovers.strip())
    except Skipped as reason:
        print(f"SKIPPED: {reason}")
        return SKIPPED
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        return 1
    print(f"PASSED in {time.monotonic() - started:.0f} s")
    return 0


def _check(folder: Path, cache: Path, client: Mapping[str, str]) -> None:
    tree = folder / "tree"
    _copy_tree(tree)
    port, prometheus_port, alertmanager_port = _free_ports(3)
    environment = {
        **client,
        "COMPOSE_PROJECT_NAME": "gdsr-check",
        "PUBLISH": f"127.0.0.1:{port}",
        "PROMETHEUS_PORT": str(prometheus_port),
        "ALERTMANAGER_PORT": str(alertmanager_port),
    }
    stack = Stack(tree=tree, environment=environment, port=port, prometheus_port=prometheus_port)
    images = {name: each["image"] for name, each in stack.config()["services"].items()}
    environment |= make_stand_ins(tree, images, cache, client)
    _build(stack)
    try:
        with step("docker-compose up --wait"):
            stack.up(SERVICES)
        _is_locked_down(stack)
        _upscales(stack)
        _is_scraped(stack)
        _survives(stack)
        _refuses_wrong_settings(stack)
    except Failed:
        print(stack.compose("logs", "--tail", "30", ok=False), file=sys.stderr)
        raise
    finally:
        with step("docker-compose down --volumes"):
            stack.compose("down", "--volumes", "--timeout", "60", ok=False)


def _copy_tree(tree: Path) -> None:
    """What git would carry, and a password: nobody's `.env` or `secrets/` is looked at."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    (tree / "secrets").mkdir(mode=0o700)
    (tree / "secrets" / "redis_password").write_text(secrets.token_hex(32))


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def _build(stack: Stack) -> None:
    """Build what the compose file names, as it names it, and the trainer."""
    services = stack.config()["services"]
    builds = {name: (services[name]["image"], services[name]["build"]) for name in OURS}
    builds["trainer"] = ("gdsr-trainer:check", {**builds["worker"][1], "target": "trainer"})
    for name, (image, build) in builds.items():
        with step(f"build {image}"):
            _build_one(stack, image, build)
        size = int(stack.docker("image", "inspect", "--format", "{{.Size}}", image))
        base = int(stack.docker("image", "inspect", "--format", "{{.Size}}", _base(stack)))
        above = (size - base) / 1e6
        print(f"   {above:.0f} MB above the base", flush=True)
        if name == "service":
            holds(f"its layers are under {SERVICE_LIMIT_MB} MB", above < SERVICE_LIMIT_MB)
    image, build = builds["service"]
    has_torch = ["run", "--rm", image, "python", "-c", "import torch"]
    said = run(["docker", *has_torch], environment=stack.environment, ok=False).stderr
    holds("the service has no torch", "No module named 'torch'" in said)
    shown = stack.docker("run", "--rm", "--read-only", builds["trainer"][0], "--help")
    holds("the trainer answers with a read-only root", shown.startswith("usage: gdsr-train"))
    with step(f"build {image} again, without a cache"):
        _build_one(stack, f"{image}-again", build, "--no-cache")
    lists = [_files(stack, name) for name in (image, f"{image}-again")]
    holds(
        "two builds hold the same files", lists[0] == lists[1], f"{lists[0].count(chr(10))} files"
    )


def _base(stack: Stack) -> str:
    text = (stack.tree / "Dockerfile").read_text()
    return text.partition("ARG PYTHON_IMAGE=")[2].split()[0]


def _build_one(stack: Stack, image: str, build: Mapping[str, object], *options: str) -> None:
    arguments = build.get("args", {})
    assert isinstance(arguments, dict)  # noqa: S101
    values = [
        part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")
    ]
    stack.docker("build", *options, *values, "--target", str(build["target"]), "--tag", image, ".")


def _files(stack: Stack, image: str) -> str:
    command = "cd /opt/gdsr && find . -type f -print0 | sort -z | xargs -0 sha256sum"
    return stack.docker("run", "--rm", image, "sh", "-c", command)


def _is_locked_down(stack: Stack) -> None:
    for service in SERVICES:
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


def _upscales(stack: Stack) -> None:
    wait_until("the service is ready", lambda: stack.ask("/readyz").status == 200, seconds=120)
    picture = (ROOT / "deploy" / "sample" / "kitten.jpg").read_bytes()
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


def _is_scraped(stack: Stack) -> None:
    wait_until(
        "a real Prometheus scrapes service, worker and engine",
        lambda: (
            {j for j, up in stack.measured("up").items() if up} >= {"service", "worker", "engine"}
        ),
        seconds=60,
    )
    holds(
        "it knows the three jobs",
        sum(stack.measured('gdsr_jobs_total{state="succeeded"}').values()) >= 3,
    )


def _survives(stack: Stack) -> None:
    """Jobs outlive the death of what works on them and of what remembers them."""
    picture = _noise(640, 640)
    with step("kill the worker in the middle of a job"):
        job = stack.queue(picture)
        stack.in_the_middle(job)
        stack.docker("kill", stack.container("worker"))
        stack.up(["worker"])
        wait_until("the job succeeds", lambda: stack.state(job) == "succeeded", seconds=180)
    with step("kill redis in the middle of a job, with another one waiting"):
        jobs = [stack.queue(picture), stack.queue(picture)]
        stack.in_the_middle(jobs[0])
        stack.docker("kill", stack.container("redis"))
        holds("the service lives on", stack.ask("/livez").status == 200)
        refused = stack.ask("/upscale", data=picture)
        holds("an upload is refused meanwhile", refused.status == 503, refused.document["type"])
        stack.up(["redis"])
        wait_until(
            "both jobs succeed",
            lambda: [stack.state(job) for job in jobs] == ["succeeded"] * 2,
            seconds=180,
        )
    with step("stop the worker in the middle of a job, as an update does"):
        job = stack.queue(picture)
        stack.in_the_middle(job)
        stack.compose("stop", "worker")
        status = stack.inspect("worker")["State"]["ExitCode"]
        holds("it drained and ended by itself", status == 0, status)
        stack.up(["worker"])
        wait_until("the job succeeds", lambda: stack.state(job) == "succeeded", seconds=180)
    with step("restart the service"):
        stack.compose("restart", "service")
        wait_until("the job is still known", lambda: stack.state(job) == "succeeded")


def _refuses_wrong_settings(stack: Stack) -> None:
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


def _noise(width: int, height: int) -> bytes:
    """A PNG that no tile of is flat."""
    from PIL import Image

    file = io.BytesIO()
    Image.frombytes("RGB", (width, height), os.urandom(width * height * 3)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
