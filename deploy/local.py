"""`gdsr-up`: the whole service on one machine, without other installations.

An embedded Valkey (unless GDSR_REDIS_URL names a server), one worker host and one HTTP service,
each restarted if it dies. They end with this process, however it ends.
"""

import argparse
import contextlib
import fcntl
import http.client
import os
import signal
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

DESCRIPTION = "Start GDSR on this machine: queue, worker and HTTP service. Ctrl-C ends it."
#: Extra stop time beyond the grace period of the job workers (20 s unless set).
_BEYOND_DRAIN_SECONDS = 25.0


def main() -> int:
    """Serve until SIGTERM or Ctrl-C. Exit status 0; 1 on failure, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="gdsr-up", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=port, default=8000, help="port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"),
        help="folder for the queue and the pictures (default: %(default)s)",
    )  # fmt: skip
    arguments = parser.parse_args()

    from workers.contract.errors import ConfigurationInvalid
    from workers.contract.observability import logs
    from workers.contract.settings import WorkerSettings

    os.environ["GDSR_LOG_LEVEL"] = os.environ.get("GDSR_LOG_LEVEL") or "warning"  # interactive use
    try:
        settings = WorkerSettings.load()
        logs.configure(process="up", level=settings.log_level)
        with _only_one(arguments.data):
            drain = settings.drain.total_seconds()
            return min(_run(arguments.host, arguments.port, arguments.data, drain), 1)
    except (ConfigurationInvalid, OSError, ValueError) as invalid:
        sys.stderr.write(f"gdsr-up: {invalid}\n")
        return 1


def port(text: str) -> int:
    """The value of an option that names a port."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
    return int(text)


def _run(host: str, port: int, data: Path, drain: float) -> int:
    from deploy.valkey import valkey_answers, valkey_command, valkey_log
    from workers.host.programs import check_socket_path
    from workers.host.runtime import runtime_folder
    from workers.host.supervisor import Program, Supervisor

    _check_port(host, port)
    os.environ["GDSR_BLOB_DIR"] = str(data.resolve() / "blobs")
    programs = []
    with runtime_folder() as runtime:
        if not os.environ.get("GDSR_REDIS_URL"):
            listening = runtime / "valkey.sock"
            check_socket_path(listening)
            os.environ["GDSR_REDIS_URL"] = f"unix://{listening}"
            programs.append(
                Program(
                    name="valkey",
                    command=valkey_command(data / "valkey", listening),
                    log_file=valkey_log(data / "valkey"),
                    ready=lambda: valkey_answers(listening),
                    parent_death=signal.SIGTERM,
                    lasting=True,
                )
            )
        sys.stderr.write(
            "gdsr-up: starting the queue and the HTTP service, and an engine that loads and tests "
            "its default model; on a CPU other models follow once it is ready\n"
        )
        programs += [
            Program(
                name="worker",
                command=[sys.executable, "-m", "workers"],
                stage=1,
                grace_seconds=drain + _BEYOND_DRAIN_SECONDS,
            ),
            Program(
                name="service",
                command=[sys.executable, "-m", "service", "--host", host, "--port", str(port)],
                stage=1,
                ready=lambda: is_ready(host, port),
                grace_seconds=15.0,
            ),
        ]

        def announce() -> None:
            shown = f"[{host}]" if ":" in host else host
            print(f"GDSR is ready at http://{shown}:{port}  (Ctrl-C ends it)", flush=True)

        return Supervisor(programs, on_ready=announce).run()


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Lock the data folder: two servers on one append-only file would destroy it."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"the data folder {data} is in use by another gdsr-up; "
                "stop that one, or give another folder with --data"
            ) from None
        yield


def _check_port(host: str, port: int) -> None:
    """Fail early if the port is in use, instead of after five restarts of the service."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as failure:
        raise ValueError(
            f"cannot listen on {host} port {port}: {failure.strerror}; give another one with --port"
        ) from None


def is_ready(host: str, port: int) -> bool:
    """True if the service answers and has a warm engine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(reachable, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
