"""Which Redis will do."""

import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from processes import ValkeyServer, free_port, wait_for

from deploy.valkey import valkey_command
from workers.contract.connection import check_at_start, connect
from workers.contract.errors import ConfigurationInvalid


def test_one_server_will_do(valkey: ValkeyServer) -> None:
    check_at_start(valkey.url)


def test_a_cluster_is_refused_at_the_start(tmp_path: Path) -> None:
    listening, port = tmp_path / "s", free_port()
    url = f"redis://127.0.0.1:{port}/0"
    command = [*valkey_command(tmp_path / "data", listening), "--port", str(port)]
    command += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    with subprocess.Popen(command) as server:
        try:
            with connect(url, timeout=timedelta(seconds=2), retries=0) as client:
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


@pytest.mark.parametrize("url", ["redis+sentinel://one:26379/mymaster", "sentinel://one", "one"])
def test_what_is_no_redis_url_is_refused_with_those_that_are(url: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"GDSR_REDIS_URL.*redis://"):
        check_at_start(url)


def test_a_server_that_is_away_does_not_end_the_start() -> None:
    began = time.monotonic()
    check_at_start("redis://127.0.0.1:1/0")

    assert time.monotonic() - began < 30
