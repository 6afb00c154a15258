"""Parsers of client data log nothing, and other libraries no debug messages."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

SPEAK = """
import logging
from workers.contract.observability import logs
logs.configure(process="test", level="debug")
for name in ("PIL.TiffImagePlugin", "tifffile", "python_multipart.multipart"):
    logging.getLogger(name).error("a damaged picture")
logging.getLogger("redis").info("heard")
logging.getLogger("redis").debug("not heard")
logging.getLogger("workers.tasks").debug("heard")
"""


def test_readers_of_what_clients_send_are_silent_and_other_libraries_hold_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPEAK], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["heard"] * 2
