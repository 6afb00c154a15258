"""Three Valkeys on loopback, one of them the primary, and three Sentinels that watch them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from processes import free_port, wait_for

from deploy.valkey import valkey_binary, valkey_command
from workers.host.parent_death import dying_with_parent

NAME = "gdsr"
#: Passwords of the Valkeys and of the Sentinels.
OF_SERVERS, OF_SENTINELS = "of-servers", "of-sentinels"
#: As in docs/operations.md, but with no delay before the first full synchronisation.
OPTIONS = [
    "--min-replicas-to-write", "1", "--min-replicas-max-lag", "10",
    "--repl-diskless-sync-delay", "0",
]  # fmt: skip
_SENTINEL = """
sentinel monitor {name} 127.0.0.1 {primary} 2
sentinel down-after-milliseconds {name} 3000
sentinel failover-timeout {name} 20000
"""


class SentinelSite:
    """The servers by their ports; `processes` holds all of them."""

    def __init__(self, folder: Path, *, passwords: bool = False) -> None:
        """With `passwords`, the Valkeys require one password and the Sentinels another."""
        self.folder, self.passwords = folder, passwords
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.valkeys = [free_port() for _ in range(3)]
        self.sentinels = [free_port() for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{NAME}/0"
        if passwords:
            file = folder / "password"
            file.write_text(f"{OF_SENTINELS}\n")
            self.url = self.url.replace("//", f"//:{OF_SERVERS}@")
            self.url += f"?sentinel_password_file={quote(str(file))}"

    def start(self) -> None:
        """Start all; return when each Sentinel knows the others and both replicas are in sync."""
        primary = self.valkeys[0]
        for port in self.valkeys:
            following = () if port == primary else ("--replicaof", f"127.0.0.1 {primary}")
            self.serve(port, *OPTIONS, *following)
        wait_for(self._in_step, what="two replicas")
        for port in self.sentinels:
            self.watch(port, primary)
        wait_for(self._know_each_other, what="three Sentinels")

    def serve(self, port: int, *options: str) -> None:
        """Start a Valkey."""
        command = valkey_command(self.folder / str(port), self.folder / f"{port}.sock")
        if self.passwords:
            command += ["--requirepass", OF_SERVERS, "--masterauth", OF_SERVERS]
        self._start(port, [*command, *options])

    def watch(self, port: int, primary: int, *options: str) -> None:
        """Start a Sentinel."""
        file = self.folder / f"sentinel-{port}.conf"
        text = _SENTINEL.format(name=NAME, primary=primary)
        if self.passwords:
            text += f"sentinel auth-pass {NAME} {OF_SERVERS}\n"
            text += f"requirepass {OF_SENTINELS}\nsentinel sentinel-pass {OF_SENTINELS}\n"
        file.write_text(text)
        self._start(port, [str(valkey_binary()), str(file), "--sentinel", *options])

    def _start(self, port: int, command: list[str]) -> None:
        with (self.folder / f"{port}.log").open("ab") as log:
            self.processes[port] = subprocess.Popen(
                [*command, "--port", str(port), "--bind", "127.0.0.1"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=dying_with_parent(),  # noqa: PLW1509
            )  # fmt: skip
        wait_for(lambda: self.asked(port, "ping"), what=f"port {port}")

    def asked(self, port: int, *command: str) -> Any:
        """Return one server's reply; None while it is down."""
        with suppress(redis.RedisError), self._client(port) as client:
            return client.execute_command(*command)
        return None

    def _client(self, port: int) -> redis.Redis:
        password = OF_SENTINELS if port in self.sentinels else OF_SERVERS
        return redis.Redis(port=port, password=password if self.passwords else None)

    def _in_step(self) -> bool:
        _, _, replicas = self.asked(self.valkeys[0], "role")
        return len(replicas) == 2 and all(int(offset) for _, _, offset in replicas)

    def _know_each_other(self) -> bool:
        for port in self.sentinels:
            with self._client(port) as client:
                state = client.sentinel_master(NAME)
            if state["num-other-sentinels"] < 2 or state["num-slaves"] < 2:
                return False
        return True

    def primary(self) -> int | None:
        """Return the port of the primary according to the Sentinels."""
        with self._client(self.sentinels[0]) as client:
            found = client.sentinel_get_master_addr_by_name(NAME)
        return int(found[1]) if found else None

    def kill(self, port: int) -> None:
        self.processes[port].kill()
        self.processes[port].wait()

    def close(self) -> None:
        for port in self.processes:
            self.kill(port)


@contextmanager
def watched_valkeys(folder: Path, *, passwords: bool = False) -> Iterator[SentinelSite]:
    """Run all servers, in sync."""
    folder.mkdir(parents=True, exist_ok=True)
    site = SentinelSite(folder, passwords=passwords)
    try:
        site.start()
        yield site
    finally:
        site.close()
