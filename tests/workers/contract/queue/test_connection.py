"""Unsuitable Redis servers and URLs are refused; patient clients wait for one that is down."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from processes import ValkeyServer, free_port, running_valkey, wait_for

from deploy.valkey import valkey_command
from workers.contract.errors import ConfigurationInvalid
from workers.contract.queue import connection
from workers.contract.queue.connection import check_at_start, connect


def test_one_server_will_do(valkey: ValkeyServer) -> None:
    check_at_start(valkey.url)


@pytest.mark.usefixtures("unhurried")
def test_a_cluster_is_refused_at_the_start(tmp_path: Path) -> None:
    listening, port = tmp_path / "s", free_port()
    url = f"redis://127.0.0.1:{port}/0"
    command = [*valkey_command(tmp_path / "data", listening), "--port", str(port)]
    command += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    with subprocess.Popen(command) as server:
        try:
            with connect(url, timeout=timedelta(seconds=60), retries=0) as client:
                wait_for(lambda: answers(client))
            with pytest.raises(ConfigurationInvalid, match="is a cluster"):
                check_at_start(url)
        finally:
            server.kill()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize("url", ["sentinel://one", "one"])
def test_the_refusal_of_an_invalid_redis_url_lists_the_valid_schemes(url: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"GDSR_REDIS_URL.*redis://"):
        check_at_start(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://127.0.0.1:1/0?colour=red", "GDSR_REDIS_URL: unknown parameter 'colour'"),
        ("redis+sentinel://127.0.0.1:1/x?colour=red", "GDSR_REDIS_URL: unknown parameter 'colour'"),
        ("redis://127.0.0.1:1/0?socket_timeout=soon", "GDSR_REDIS_URL: .*socket_timeout"),
        ("rediss://127.0.0.1:1/0?ssl_cert_reqs=maybe", "127.0.0.1:1 cannot be used .*: maybe"),
    ],
)
def test_a_parameter_of_the_url_that_is_wrong_is_named(url: str, said: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=said):
        check_at_start(url)


def test_a_server_that_is_away_does_not_end_the_start() -> None:
    check_at_start("redis://127.0.0.1:1/0")


@pytest.mark.parametrize("state", ["away", "full", "read-only"])
def test_a_client_that_is_patient_waits_until_redis_is_cured(
    state: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection._RetryWhileUnavailable, "logged_at", float("-inf"))
    with running_valkey(tmp_path) as server, redis.Redis.from_url(server.url) as operator:
        patient = connect(server.url, timeout=timedelta(seconds=60), retries=0, retry_forever=True)
        patient.set("word", "before")
        match state:
            case "away":
                server.kill()
            case "full":
                operator.config_set("maxmemory", 1)
            case _:
                operator.replicaof("127.0.0.1", 1)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(patient.set, "word", "after")
            wait_for(lambda: "retrying" in caplog.text, what="a word in the log")
            match state:
                case "away":
                    server.start()
                case "full":
                    operator.config_set("maxmemory", 0)
                case _:
                    operator.replicaof("NO", "ONE")
            assert asked.result()
        assert operator.get("word") == b"after"


def test_clients_that_wait_say_so_once_however_often_they_ask(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection._RetryWhileUnavailable, "logged_at", float("-inf"))
    with running_valkey(tmp_path) as server, redis.Redis.from_url(server.url) as operator:
        patient = connect(server.url, timeout=timedelta(seconds=60), retries=0, retry_forever=True)
        operator.config_set("maxmemory", 1)

        def refused() -> int:
            return int(operator.info("errorstats").get("errorstat_OOM", {}).get("count", 0))

        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(patient.set, word, "text") for word in ("one", "other")]
            wait_for(lambda: refused() >= 6, what="six attempts")
            operator.config_set("maxmemory", 0)
            assert all(one.result() for one in asked)
    assert caplog.text.count("retrying") == 1


def test_a_client_that_is_patient_says_at_once_what_waiting_does_not_cure(
    valkey: ValkeyServer,
) -> None:
    with connect(
        valkey.url, timeout=timedelta(seconds=60), retries=0, retry_forever=True
    ) as patient:
        patient.set("word", "text")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            patient.lpush("word", "more")
