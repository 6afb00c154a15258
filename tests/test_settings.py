"""A wrong setting ends the start with one line that says what to change."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from processes import ValkeyServer, running_valkey, wait_for

from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid
from workers.contract.queue.connection import check_at_start
from workers.contract.settings import READ_ELSEWHERE, SharedSettings, WorkerSettings

SERVICE, WORKER = "service", "workers"
NOT_OURS = {
    "GDSR_API_KEY",  # used by gdsr-upscale, perhaps in the service's shell
    "GDSR_BENCH_DIR",
    "GDSR_METRIC_WEIGHTS",
    "GDSR_TORCH_INDEX",
    "GDSR_VGG_WEIGHTS",
}


@pytest.fixture
def locked_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey with a password, and a file with that password."""
    with running_valkey(tmp_path / "valkey") as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "open / sesame?")
        (tmp_path / "password").write_text("open / sesame?\n")
        yield server


def start(program: str, tmp_path: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a program that is expected to exit."""
    environment = {
        "GDSR_REDIS_URL": f"unix://{tmp_path}/none.sock",
        "GDSR_BLOB_DIR": str(tmp_path / "blobs"),
        "GDSR_PORT": "0",
    }
    return subprocess.run(
        [sys.executable, "-m", program],
        env=os.environ | environment | changes,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def is_one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n") and "Traceback" not in text


def test_the_settings_of_the_service_are_known_to_a_worker() -> None:
    own = set(ServiceSettings.model_fields) - set(SharedSettings.model_fields)

    assert {f"GDSR_{name.upper()}" for name in own} == READ_ELSEWHERE - NOT_OURS


@pytest.mark.parametrize("settings", [ServiceSettings, WorkerSettings])
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("GDSR_MAX_PIXEL", r"did you mean GDSR_MAX_PIXELS\?"),
        ("GDSR_ZZZ", r"docs/settings\.md lists all settings"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_right_one(
    settings: type[SharedSettings], name: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1000")

    with pytest.raises(ConfigurationInvalid, match=f"unknown setting {name}; {advice}"):
        settings.load()


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDSR_TILE", "")
    monkeypatch.setenv("GDSR_API_KEYS_FILE", "")

    assert WorkerSettings.load().tile is None
    assert ServiceSettings.load().api_keys_file is None


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://queue:6379/1", "redis://:a%2Fb%3Fc@queue:6379/1"),
        ("rediss://me@queue/0", "rediss://me:a%2Fb%3Fc@queue/0"),  # pragma: allowlist secret
        ("unix:///run/queue.sock", "unix://:a%2Fb%3Fc@/run/queue.sock"),
    ],
)
def test_the_password_in_a_file_goes_into_the_url(
    url: str, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("a/b?c\n")
    monkeypatch.setenv("GDSR_REDIS_URL", url)
    monkeypatch.setenv("GDSR_REDIS_PASSWORD_FILE", str(tmp_path / "password"))

    assert SharedSettings.load().redis_url == whole


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be read"), (b"\n", "is empty"), (b"\xff", "not a text file")],
)
def test_a_password_file_without_a_password_is_named(
    content: bytes | None, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("GDSR_REDIS_PASSWORD_FILE", str(file))

    with pytest.raises(
        ConfigurationInvalid, match=f"GDSR_REDIS_PASSWORD_FILE: {file}.*{complaint}"
    ):
        SharedSettings.load()


def test_two_passwords_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("secret")
    monkeypatch.setenv("GDSR_REDIS_URL", "redis://:other@queue")
    monkeypatch.setenv("GDSR_REDIS_PASSWORD_FILE", str(tmp_path / "password"))

    with pytest.raises(ConfigurationInvalid, match="remove one") as refused:
        SharedSettings.load()
    assert "other" not in str(refused.value)


@pytest.mark.e2e
@pytest.mark.parametrize(("program", "password"), [(SERVICE, None), (WORKER, "wrong")])
def test_a_missing_or_wrong_password_ends_the_start(
    program: str, password: str | None, locked_valkey: ValkeyServer, tmp_path: Path
) -> None:
    changes = {"GDSR_REDIS_URL": locked_valkey.url}
    if password:
        (tmp_path / "other").write_text(password)
        changes["GDSR_REDIS_PASSWORD_FILE"] = str(tmp_path / "other")

    ended = start(program, tmp_path, **changes)

    assert ended.returncode != 0
    assert "GDSR_REDIS_PASSWORD_FILE" in ended.stderr
    assert is_one_line(ended.stderr)


@pytest.mark.e2e
def test_with_the_password_the_service_starts(locked_valkey: ValkeyServer, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", SERVICE],
        env=os.environ
        | {
            "GDSR_REDIS_URL": locked_valkey.url,
            "GDSR_REDIS_PASSWORD_FILE": str(tmp_path / "password"),
            "GDSR_BLOB_DIR": str(tmp_path / "blobs"),
            "GDSR_PORT": "0",
        },
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stderr is not None
        try:
            log = [service.stderr.readline()]
            while "startup complete" not in log[-1]:
                log.append(service.stderr.readline())
        finally:
            service.terminate()
            log += service.stderr.readlines()

    assert "sesame" not in "".join(log)
    assert not any("Redis" in line for line in log)


def test_a_redis_that_has_not_started_is_reported_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", SERVICE],
            env=os.environ
            | {
                "GDSR_REDIS_URL": f"unix://{tmp_path}/valkey.sock",
                "GDSR_BLOB_DIR": str(tmp_path / "blobs"),
                "GDSR_PORT": "0",
            },
            stderr=file,
        ) as service,
    ):
        wait_for(
            lambda: "cannot receive job changes" in log.read_text(), what="the listener's complaint"
        )
        service.terminate()

    text = log.read_text()
    assert text.count("does not answer yet") == 1
    assert text.count("cannot receive job changes") == 1
    assert service.returncode == 0


def test_a_temporary_folder_that_is_too_deep_for_sockets_is_named(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 25)
    deep.mkdir()

    ended = start(WORKER, tmp_path, TMPDIR=str(deep))

    assert (ended.returncode, is_one_line(ended.stderr)) == (os.EX_CONFIG, True), ended.stderr
    assert f"TMPDIR: {deep}" in ended.stderr


def test_a_gpu_that_this_torch_cannot_use_is_refused_at_start(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    ended = start(WORKER, tmp_path, GDSR_DEVICES="cuda:0")

    assert ended.returncode != 0
    (line,) = (line for line in ended.stderr.splitlines() if not line.startswith("{"))
    assert "GDSR_DEVICES" in line
    assert "cuda:0" in line


@pytest.mark.parametrize("content", [None, b"not a checkpoint"])
def test_a_checkpoint_that_cannot_be_read_is_named_once(
    content: bytes | None, valkey: ValkeyServer, tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    if content is not None:
        file.write_bytes(content)

    ended = start(
        WORKER,
        tmp_path,
        GDSR_REDIS_URL=valkey.url,
        GDSR_CHECKPOINTS=str(file),
        GDSR_DEVICES="cpu",
        GDSR_LOG_LEVEL="warning",
    )

    assert ended.returncode != 0
    assert str(file) in ended.stderr
    assert is_one_line(ended.stderr)


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (SERVICE, "API_KEYS_FILE"),
        (SERVICE, "ADMIN_KEYS_FILE"),
        (SERVICE, "WEBHOOK_SECRET_FILE"),
        (SERVICE, "REDIS_PASSWORD_FILE"),
        (WORKER, "CHECKPOINTS"),
    ],
)
@pytest.mark.slow
def test_a_missing_file_is_named_with_its_setting(
    program: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("WEBHOOK"):
        monkeypatch.setenv("GDSR_WEBHOOK_HOSTS", "a.example")

    ended = start(program, tmp_path, **{f"GDSR_{name}": str(tmp_path / "gone")})

    assert ended.returncode == os.EX_CONFIG  # tells a supervisor not to retry
    assert f"GDSR_{name}" in ended.stderr
    assert str(tmp_path / "gone") in ended.stderr
    assert is_one_line(ended.stderr)


def test_a_missing_file_ends_all_of_it_without_a_second_try(tmp_path: Path) -> None:
    ended = start("deploy.local", tmp_path, GDSR_API_KEYS_FILE=str(tmp_path / "gone"))

    assert ended.returncode == 1
    assert ended.stderr.count(str(tmp_path / "gone")) == 1
    assert "ended with status" not in ended.stderr


LINKS = {
    "GDSR_PORT": "tcp://10.96.0.7:8000",
    "GDSR_SERVICE_HOST": "10.96.0.7",
    "GDSR_SERVICE_PORT": "8000",
    "GDSR_SERVICE_PORT_HTTP": "8000",
    "GDSR_PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "GDSR_PORT_8000_TCP_PROTO": "tcp",
    "GDSR_PORT_8000_TCP_PORT": "8000",
    "GDSR_PORT_8000_TCP_ADDR": "10.96.0.7",
    "GDSR_METRICS_PORT": "tcp://10.96.0.8:9100",
    "GDSR_REDIS_SERVICE_HOST": "10.96.0.9",
    "GDSR_REDIS_PORT_6379_TCP_ADDR": "10.96.0.9",
}


def test_links_that_kubernetes_adds_for_services_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)

    settings = ServiceSettings.load()

    assert (settings.port, settings.metrics_port) == (8000, None)


def test_a_port_that_is_none_is_still_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDSR_PORT", "http://10.96.0.7:8000")

    with pytest.raises(ConfigurationInvalid, match="GDSR_PORT"):
        ServiceSettings.load()


def test_a_result_may_be_kept_for_a_century_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDSR_RESULT_TTL", str(36_525 * 86_400))
    assert datetime.now(UTC) + WorkerSettings.load().result_ttl > datetime.now(UTC)

    monkeypatch.setenv("GDSR_RESULT_TTL", "999999999999")  # no date is that far away
    with pytest.raises(ConfigurationInvalid, match=r"GDSR_RESULT_TTL: .*maximum is '36525 days'"):
        WorkerSettings.load()


@pytest.mark.parametrize("password", ["", "sesame"])
@pytest.mark.parametrize(
    ("name", "url"), [("GDSR_REDIS_URL", "redis://[::1"), ("GDSR_BLOB_URL", "s3://[bucket")]
)
def test_an_invalid_url_is_named(
    name: str, url: str, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, url)
    if password:
        (tmp_path / "password").write_text(password)
        monkeypatch.setenv("GDSR_REDIS_PASSWORD_FILE", str(tmp_path / "password"))

    with pytest.raises(ConfigurationInvalid, match=f"{name}: .*Invalid IPv6 URL"):
        check_at_start(WorkerSettings.load().redis_url)


def test_webhook_hosts_may_have_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDSR_WEBHOOK_HOSTS", "a.example,b.example:8443")

    assert ServiceSettings.load().webhook_hosts == ("a.example", "b.example:8443")


def test_the_patience_with_connections_is_a_time_and_abandoned_jobs_are_a_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = ServiceSettings.load()
    monkeypatch.setenv("GDSR_HEAD_TIMEOUT", "1.5")
    monkeypatch.setenv("GDSR_CANCEL_ABANDONED", "off")
    changed = ServiceSettings.load()
    monkeypatch.setenv("GDSR_BODY_TIMEOUT", "0")

    assert (usual.head_timeout.total_seconds(), usual.body_timeout.total_seconds()) == (20, 30)
    assert usual.cancel_abandoned
    assert (changed.head_timeout.total_seconds(), changed.cancel_abandoned) == (1.5, False)
    with pytest.raises(ConfigurationInvalid, match="GDSR_BODY_TIMEOUT: it is"):
        ServiceSettings.load()
