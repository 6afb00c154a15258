"""A private Docker engine that leaves the host as it found it."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from containers.steps import Skipped, run

TOOLS = {
    "dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables", "ip": "iproute2",
    "debootstrap": "debootstrap",
}  # fmt: skip
_READY_SECONDS = 60
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def require_tools() -> None:
    """Check that this machine has everything that the check needs.

    Raises:
        Skipped: not root, not Debian, a tool is missing, or another engine has the bridge.
    """
    if os.geteuid() != 0:
        raise Skipped("only root can start a Docker engine")
    if shutil.which("apt-get") is None:
        raise Skipped("stand-ins for the published images are made on Debian only")
    if missing := sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)}):
        raise Skipped(f"apt-get install --no-install-recommends {' '.join(missing)}")
    if Path("/sys/class/net/docker0").exists():
        raise Skipped("another Docker engine runs here (there is a docker0)")


@contextmanager
def private_engine(folder: Path) -> Iterator[dict[str, str]]:
    """Run dockerd with data, state and socket in `folder`; yield the environment for its clients.

    Afterwards its processes, bridges, mounts and packet filter rules are gone.

    Raises:
        Skipped: it does not start here.
    """
    address = f"unix://{folder}/docker.sock"
    with ExitStack() as stack:
        stack.callback(_unmount_below, folder)
        stack.callback(_FORWARDING.write_text, _FORWARDING.read_text())
        for family in ("iptables", "ip6tables"):
            stack.callback(_restore_rules, family, _rules(family))
        stack.callback(run, ["ip", "link", "delete", "docker0"], ok=False)
        log = stack.enter_context((folder / "dockerd.log").open("w"))
        engine = subprocess.Popen(
            [
                "dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"),
                "--pidfile", str(folder / "pid"), "--host", address,
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        stack.callback(_stop, engine)
        client = {"DOCKER_HOST": address, "DOCKER_CONFIG": str(folder), "DOCKER_BUILDKIT": "1"}
        deadline = time.monotonic() + _READY_SECONDS
        while run(["docker", "info"], environment=client, ok=False).returncode:
            if engine.poll() is not None or time.monotonic() > deadline:
                last = (folder / "dockerd.log").read_text().strip().rpartition("\n")[2]
                raise Skipped(f"dockerd does not start here: {last}")
            time.sleep(0.2)
        client["PATH"] = f"{_matching_client(client)}:{os.environ['PATH']}"
        yield client


def _matching_client(environment: dict[str, str]) -> Path:
    """Return the folder of the client that has the engine's version; others may fail to build."""
    form = "{{.Client.Version}} {{.Server.Version}}"
    for folder in map(Path, os.environ["PATH"].split(":")):
        if (tool := folder / "docker").exists():
            shown = run([tool, "version", "--format", form], environment=environment, ok=False)
            client, _, server = shown.stdout.strip().partition(" ")
            if client == server:
                return folder
    raise Skipped("no docker client of the engine's version is on the PATH")


def _stop(engine: "subprocess.Popen[bytes]") -> None:
    engine.terminate()
    try:
        engine.wait(30)
    except subprocess.TimeoutExpired:
        engine.kill()
        engine.wait()


def _rules(family: str) -> str:
    return run([f"{family}-save"], ok=False).stdout


def _restore_rules(family: str, before: str) -> None:
    """Restore the rules; empty new tables, since no command removes a table."""
    restored = before
    for table in re.split(r"(?m)^(?=\*)", _rules(family)):
        name = table.partition("\n")[0]
        if name.startswith("*") and f"{name}\n" not in before:
            chains = re.findall(r"(?m)^:(\S+) (?:ACCEPT|DROP)", table)
            restored += "\n".join([name, *(f":{chain} ACCEPT" for chain in chains), "COMMIT\n"])
    run([f"{family}-restore"], given=restored, ok=False)


def _unmount_below(folder: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted(mounted, reverse=True):
        if Path(place).is_relative_to(folder):
            run(["umount", "--lazy", place], ok=False)
