"""Build the images, run the compose file, break parts of it, take everything down."""

import argparse
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from containers.bases import make_stand_ins
from containers.checks import is_locked_down, is_scraped, refuses_wrong_settings, survives, upscales
from containers.private_engine import private_engine, require_tools
from containers.stack import Stack
from containers.steps import Failed, Skipped, holds, run, step

ROOT = Path(__file__).parents[2]
SKIPPED = 77
#: Grafana is left out: Debian does not package it. Its files are checked elsewhere.
SERVICES = ("redis", "service", "worker", "prometheus", "alertmanager")
OURS = ("service", "worker")
SERVICE_LIMIT_MB = 110
#: Starts as an engine does, then compiles a kernel.
_COMPILES = """
import os, pathlib
from model.process import prepare_process
prepare_process(None, cache=pathlib.Path(os.environ["GDSR_CACHE_DIR"]))
import torch
print(torch.compile(lambda x: (2 * x).relu() + 1)(torch.ones(8)).sum())
"""


def main() -> int:
    """Return 0 if every check passes, 1 if one fails, 77 if this machine cannot run them."""
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
    _compiles(stack)
    try:
        with step("docker-compose up --wait"):
            stack.up(SERVICES)
        is_locked_down(stack, SERVICES)
        upscales(stack)
        is_scraped(stack)
        survives(stack)
        refuses_wrong_settings(stack)
    except Failed:
        print(stack.compose("logs", "--tail", "30", ok=False), file=sys.stderr)
        raise
    finally:
        with step("docker-compose down --volumes"):
            stack.compose("down", "--volumes", "--timeout", "60", ok=False)


def _copy_tree(tree: Path) -> None:
    """Copy the files that git tracks and add a password; `.env` and `secrets/` are never read."""
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
    """Build and check the images of the compose file, and the trainer image."""
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


def _compiles(stack: Stack) -> None:
    """Check that the GPU variant of the worker image, with the torch build at hand, can compile."""
    build = stack.config()["services"]["worker"]["build"]
    build = {**build, "args": {**build.get("args", {}), "ACCELERATOR": "cuda"}}
    with step("build gdsr-worker:compiler"):
        _build_one(stack, "gdsr-worker:compiler", build)
    options = ["--rm", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp", "--volume=/var/cache/gdsr"]
    with step("torch.compile in it"):
        said = stack.docker("run", *options, "gdsr-worker:compiler", "python", "-c", _COMPILES)
    holds("the image for GPUs compiles kernels with a read-only root", said == "tensor(24.)", said)


def _base(stack: Stack) -> str:
    text = (stack.tree / "Dockerfile").read_text()
    return text.partition("ARG PYTHON_IMAGE=")[2].split()[0]


def _build_one(stack: Stack, image: str, build: Mapping[str, object], *options: str) -> None:
    arguments = build.get("args", {})
    assert isinstance(arguments, dict)
    values = [
        part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")
    ]
    stack.docker("build", *options, *values, "--target", str(build["target"]), "--tag", image, ".")


def _files(stack: Stack, image: str) -> str:
    command = "cd /opt/gdsr && find . -type f -print0 | sort -z | xargs -0 sha256sum"
    return stack.docker("run", "--rm", image, "sh", "-c", command)


if __name__ == "__main__":
    sys.exit(main())
