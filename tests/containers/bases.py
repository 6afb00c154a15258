"""Stand-ins made from Debian, under the names of the published images that the project uses."""

import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from containers.steps import Skipped, run, step
from deploy.valkey import valkey_binary

SUITE = "bookworm"
_PACKAGES = "ca-certificates,libpython3.11-dev,python3,python3-pip,python3-venv"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu/torch/"

_PYTHON = f"""FROM gdsr-check/debian
COPY ca.crt {_BUNDLE}
COPY pip.conf /etc/pip.conf
COPY wheelhouse /opt/wheelhouse
RUN ln -s /usr/bin/python3 /usr/local/bin/python && ln -s /usr/bin/python3 /usr/local/bin/python3
"""
_INSTALL = "apt-get update -qq && apt-get install -y -qq --no-install-recommends"
_VALKEY = f"""FROM gdsr-check/debian
RUN {_INSTALL} redis-tools && ln -s redis-cli /usr/bin/valkey-cli \\
    && useradd --system --uid 999 valkey && install -d -o valkey /data
COPY valkey-server /usr/local/bin/
"""
_PROMETHEUS = f"""FROM gdsr-check/debian
RUN {_INSTALL} prometheus wget && install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["/usr/bin/prometheus"]
"""
_ALERTMANAGER = f"""FROM gdsr-check/debian
RUN {_INSTALL} prometheus-alertmanager wget && install -d -o nobody /alertmanager
USER nobody
ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]
"""


def make_stand_ins(
    tree: Path, images: Mapping[str, str], cache: Path, client: Mapping[str, str]
) -> Mapping[str, str]:
    """Build an image for each name in the Dockerfile's FROM and in the compose file.

    `images` maps compose services to images. Returns the build arguments for this machine.
    """
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)", (tree / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None, "the Dockerfile names its base as PYTHON_IMAGE"
    rootfs = _debian(cache)
    with step("import Debian into the engine"):
        run(["docker", "import", rootfs, "gdsr-check/debian"], environment=client)
    variables = {}
    with tempfile.TemporaryDirectory() as made:
        context = Path(made)
        (context / "wheelhouse").mkdir()
        (context / "wheelhouse" / "README").write_text("torch, where its own index is out of reach")
        settings = _pip_settings()
        shutil.copy(settings.pop("cert", _BUNDLE), context / "ca.crt")
        if not _reachable(_TORCH_INDEX):
            shutil.copy(_torch_wheel(tree, cache), context / "wheelhouse")
            variables["TORCH_INDEX"] = ""
        lines = [f"{name} = {value}" for name, value in settings.items()]
        lines += [f"cert = {_BUNDLE}", "find-links = /opt/wheelhouse"]
        (context / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
        shutil.copy(valkey_binary(), context / "valkey-server")
        for name, recipe in (
            (found[1], _PYTHON),
            (images["redis"], _VALKEY),
            (images["prometheus"], _PROMETHEUS),
            (images["alertmanager"], _ALERTMANAGER),
        ):
            with step(f"stand-in for {name}"):
                run(
                    ["docker", "build", "--tag", name, "--file", "-", context],
                    environment=client,
                    given=recipe,
                )
    return variables


def _debian(cache: Path) -> Path:
    """Return a tar archive of a small Debian with Python, built on first use."""
    archive = cache / f"{SUITE}-python.tar"
    if archive.exists():
        return archive
    targets = run(["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)"], ok=False).stdout
    mirror = next(
        (line.split()[1] for line in targets.splitlines() if line.startswith("Debian http")),
        "http://deb.debian.org/debian",
    )
    with step(f"debootstrap {SUITE}"), tempfile.TemporaryDirectory(dir=cache) as made:
        root = Path(made) / "root"
        run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", SUITE, root, mirror])
        partial = archive.with_suffix(".partial")
        run(["tar", "-C", root, "--exclude=./var/cache/apt/archives/*.deb", "-cf", partial, "."])
        partial.rename(archive)
    return archive


def _pip_settings() -> dict[str, str]:
    """Return this machine's pip settings that are valid inside a container."""
    settings = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).stdout.splitlines():
        name, _, value = line.partition("=")
        name, value = name.rpartition(".")[2], value.strip("'\"")
        if name in {"index-url", "extra-index-url", "trusted-host"}:
            places = [part for part in value.split() if urlsplit(part).scheme != "file"]
            if places:
                settings[name] = " ".join(places)
        elif name == "cert" and Path(value).exists():
            settings[name] = value
    return settings


def _reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


def _torch_wheel(tree: Path, cache: Path) -> Path:
    """Return the CPU wheel of torch, downloaded with this machine's pip settings."""
    lines = (tree / "constraints.txt").read_text().splitlines()
    pin = next(line for line in lines if line.startswith("torch=="))
    house = cache / pin.replace("=", "-")
    if not list(house.glob("torch-*+cpu-cp311-*.whl")):
        with step(f"the CPU build of {pin}"):
            ended = subprocess.run(
                [
                    sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                    "--only-binary=:all:", "--python-version=3.11", "--dest", str(house), pin,
                ],
                check=False,
            )  # fmt: skip
            if ended.returncode or not list(house.glob("torch-*+cpu-cp311-*.whl")):
                raise Skipped(f"neither PyTorch's index nor pip here has the CPU build of {pin}")
    return next(house.glob("torch-*+cpu-cp311-*.whl"))
