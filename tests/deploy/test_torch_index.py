"""The setup chooses the PyTorch index to download from."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "torch_index.py"
ASKS = """
import sys
sys.path.insert(0, sys.argv[1])
from torch_index import answers
sys.exit(not answers(sys.argv[2], seconds=float(sys.argv[3])))
"""


@contextmanager
def serving() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def answers(url: str, *, seconds: float) -> bool:
    """Ask in a separate process: the alarm of this one belongs to pytest's timeout."""
    command = [sys.executable, "-I", "-c", ASKS, str(SCRIPT.parent), url, str(seconds)]
    return subprocess.run(command, check=False, timeout=100).returncode == 0


def chosen(**environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-I", SCRIPT],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout


def test_an_index_that_is_named_is_taken() -> None:
    assert chosen(GDSR_TORCH_INDEX="https://a.example/whl") == "https://a.example/whl"


def test_the_usual_index_serves_where_that_of_pytorch_is_not_reached() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"

        assert chosen(GDSR_TORCH_INDEX="", https_proxy=closed, HTTPS_PROXY=closed) == ""


def test_an_index_that_is_there_answers() -> None:
    with serving() as url:
        assert answers(f"{url}/", seconds=60)


@pytest.mark.parametrize("page", ["/none/", "/none.html"])
def test_a_page_that_is_missing_is_no_answer(page: str) -> None:
    with serving() as url:
        assert not answers(f"{url}{page}", seconds=60)


def test_a_server_that_accepts_and_is_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not answers("http://127.0.0.1:{1}/".format(*silent.getsockname()), seconds=0.2)
