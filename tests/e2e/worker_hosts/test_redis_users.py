"""Service and workers run over TLS with only the Redis rights that docs/operations.md lists."""

import io
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from documents import blocks, read
from hosts import Site, noise
from networks import tiny_checkpoint
from PIL import Image
from processes import free_port
from sentinels import NAME, SentinelSite
from serving import served
from tls import authority, encrypted_valkey, terminator, tls_binary

from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid
from workers.contract.queue.connection import check_at_start, connect

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("unhurried")]

RULES = next(b.text for b in blocks(read("docs/operations.md")) if b.language == "acl")


class Encrypted:
    """A Valkey with the documented users."""

    def __init__(self, port: int, operator: str, ca: Path) -> None:
        self.port, self.operator, self.ca = port, operator, ca

    def url(self, user: str, password: str | None = None, *, ca: Path | None = None) -> str:
        given = password or re.findall(rf"user {user} on >(\S+)", RULES)[0]
        query = f"ssl_ca_certs={quote(str(ca or self.ca))}"
        return f"rediss://{user}:{given}@127.0.0.1:{self.port}/0?{query}"

    def denied(self) -> list[tuple[str, str]]:
        """Return the denied commands, each with its user."""
        with redis.Redis.from_url(self.operator, decode_responses=True) as client:
            return [(entry["username"], entry["object"]) for entry in client.acl_log()]


@pytest.fixture(params=["terminator", "native"])
def encrypted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Encrypted]:
    native = request.param == "native"
    if native and tls_binary() is None:
        pytest.skip("no valkey-server or redis-server with TLS on this machine")
    ca = authority(tmp_path / "ca")
    with encrypted_valkey(tmp_path, RULES, native=native) as (port, operator):
        yield Encrypted(port, operator, ca)


@pytest.mark.slow
def test_a_picture_is_upscaled_by_users_of_few_rights(encrypted: Encrypted, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors")
    workers = Site(encrypted.operator, tmp_path / "blobs", checkpoint)
    settings = ServiceSettings(
        redis_url=encrypted.url("gdsr-service"), blob_dir=tmp_path / "blobs", rate_limit="9/minute"
    )
    check_at_start(settings.redis_url)
    with (
        workers.worker_host(redis_url=encrypted.url("gdsr-worker")),
        served(settings) as service,
    ):
        made = service.post(noise(40, 50), headers={"Prefer": "wait=60"})
        assert made.status_code == 200, made.text
        with Image.open(io.BytesIO(made.content)) as opened:
            assert opened.size == (200, 160)
        assert service.http.get("/readyz").status_code == 200
        assert "gdsr_redis_up 1.0" in service.http.get("/metrics").text
        job = made.headers["Content-Location"].removesuffix("/result")
        assert service.http.get(f"{job}/events").status_code == 200
        assert service.http.delete(job).status_code < 300

    assert encrypted.denied() == []


def test_sentinels_are_asked_over_tls_too(encrypted: Encrypted, tmp_path: Path) -> None:
    servers = SentinelSite(tmp_path)
    sentinel, listening = servers.sentinels[0], tmp_path / "sentinel.sock"
    servers.watch(sentinel, encrypted.port, "--unixsocket", str(listening))
    try:
        with terminator(free_port(), tmp_path / "ca" / "server.pem", listening) as port:
            url = encrypted.url("gdsr-service").replace("rediss:", "rediss+sentinel:")
            url = url.replace(f":{encrypted.port}/", f":{port}/{NAME}/")
            check_at_start(url)
            with connect(url, timeout=timedelta(seconds=60), retries=0) as client:
                assert client.set("gdsr:word", "text")
            with pytest.raises(ConfigurationInvalid, match="certificate verify failed"):
                check_at_start(url.replace(str(encrypted.ca), str(authority(tmp_path / "other"))))
    finally:
        servers.close()


def test_a_wrong_certificate_password_or_permission_stops_the_start_with_its_reason(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    other = authority(tmp_path / "other")
    with redis.Redis.from_url(encrypted.operator) as client:
        client.acl_setuser("gdsr-idle", enabled=True, passwords=["+idle"], commands=["+ping"])

    for url, said in [
        (encrypted.url("gdsr-service", ca=other), "certificate that is not trusted"),
        (encrypted.url("gdsr-service", ca=tmp_path / "none"), "ssl_ca_certs: there is no file"),
        (encrypted.url("gdsr-service", "wrong"), "rejects the password"),
        (encrypted.url("gdsr-idle", "idle"), "allows its user too little"),
    ]:
        with pytest.raises(ConfigurationInvalid, match=said):
            check_at_start(url)
