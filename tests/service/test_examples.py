"""The examples of docs/operations.md for keys and webhooks work for an operator."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import example
from factories import engine_info, register
from receiver import receiving
from serving import PICTURE, Serve

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
URL = "http://127.0.0.1:8000"


def bash(script: str, folder: Path) -> str:
    commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env={**os.environ, "PATH": commands},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def exported(script: str, folder: Path) -> dict[str, Any]:
    """Return the settings that an example exports."""
    lines = bash(f"{script}\nenv | grep ^GDSR_", folder).splitlines()
    pairs = (line.removeprefix("GDSR_").partition("=") for line in lines)
    return {name.lower(): value for name, _, value in pairs}


def test_a_key_is_made_and_opens_the_service(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PICTURE)
    site = serve(**exported(example("docs/operations.md", "API keys", "sh"), tmp_path))
    register(site.redis, engine_info())
    assert site.http.get("/jobs").status_code == 401
    asking = example("docs/operations.md", "API keys", "sh", number=1)

    answers = bash(asking.replace(URL, str(site.http.base_url).rstrip("/")), tmp_path)

    decoder = json.JSONDecoder()
    job, end = decoder.raw_decode(answers)
    listed, _ = decoder.raw_decode(answers[end:].lstrip())
    assert [one["id"] for one in listed["jobs"]] == [job["id"]]


def test_a_webhook_is_set_up_sent_and_verified(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").write_bytes(PICTURE)
    with receiving(tmp_path) as receiver:
        monkeypatch.setenv("SSL_CERT_FILE", str(receiver.certificate))
        setting_up = example("docs/operations.md", "Webhooks", "sh")
        settings = exported(setting_up.replace("a.example", receiver.place), tmp_path)
        site = serve(**settings, webhook_networks="127.0.0.0/8,::1/128")
        register(site.redis, engine_info())
        asking = example("docs/operations.md", "Webhooks", "sh", number=1)
        asking = asking.replace(URL, str(site.http.base_url).rstrip("/"))

        job = json.loads(bash(asking.replace("a.example", receiver.place), tmp_path))
        site.succeed(job["id"])
        message = receiver.messages.get(timeout=60)

    verifying: dict[str, Any] = {}
    exec(example("docs/operations.md", "Webhooks", "python"), verifying)  # noqa: S102
    genuine = verifying["is_genuine"]
    secret = (tmp_path / "webhook_secret").read_text().strip()
    assert genuine(message.headers, message.body, secret)
    assert not genuine(message.headers, message.body + b" ", secret)
    assert message.headers["webhook-id"] == job["id"]
