"""An S3 server in a process of its own, and a new bucket for each test."""

import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from processes import free_port, suspended, wait_for

from workers.host.parent_death import dying_with_parent


class S3Server:
    """moto's server: one process that keeps everything in memory."""

    def __init__(self, log: Path, *, host: str = "127.0.0.1") -> None:
        port = free_port()
        self.url = f"http://{host}:{port}"
        with log.open("wb") as lines:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", host, "-p", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                preexec_fn=dying_with_parent(),  # noqa: PLW1509
            )
        wait_for(self._answers, what=f"the S3 server; {log}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5):
                return True
        except OSError:
            return False

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",  # pragma: allowlist secret
            "AWS_REGION": "us-east-1",
        }

    def bucket(self) -> str:
        """Create a bucket and return its name."""
        name = f"pictures-{secrets.token_hex(6)}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")):
            return name

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend the server: it accepts connections but never answers."""
        with suspended(self.process.pid):
            yield

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def refusing_server(status: int, code: str) -> Iterator[str]:
    """Run a server that answers every request with one S3 error; yield its URL."""

    class Refusal(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = _refuse  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
