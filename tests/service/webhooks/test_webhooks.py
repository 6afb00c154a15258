"""Webhooks are signed, retried, and sent only to allowed hosts at public addresses."""

import base64
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from factories import engine_info, register
from processes import wait_for
from receiver import Message, Receiver, receiving
from serving import Serve, Site, problem_of

from service.services import Services
from service.settings import ServiceSettings
from service.webhooks import delivery, dispatcher
from service.webhooks.delivery import Target, Undeliverable, deliver, is_public, signed_headers
from workers.contract.errors import ConfigurationInvalid, WorkerLost
from workers.contract.queue import records
from workers.contract.queue.webhook_outbox import DUE, WebhookQueue

SECRET = base64.b64encode(b"thirty-two bytes of a secret....").decode()
HERE = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as receiver:
        yield receiver


@pytest.fixture
def start(
    serve: Serve, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Site]:
    """A function that starts a service which trusts the receiver, and may call its address."""
    # No attempt comes by itself, however long a test takes.
    monkeypatch.setattr(dispatcher, "PAUSES", tuple(60 * pause for pause in dispatcher.PAUSES))
    monkeypatch.setenv("SSL_CERT_FILE", str(receiver.certificate))
    secrets = tmp_path / "secrets"
    secrets.write_text(f"whsec_{SECRET}\n")

    def start(**settings: Any) -> Site:
        ours = {
            "webhook_hosts": f"a.example,{receiver.place}",
            "webhook_secret_file": secrets,
            "webhook_networks": "127.0.0.0/8,::1/128",
        }
        site = serve(**{**ours, **settings})
        register(site.redis, engine_info())
        return site

    return start


def webhook(site: Site, job_id: str) -> dict[str, Any]:
    told: dict[str, Any] = site.http.get(f"/jobs/{job_id}").json()["webhook"]
    return told


def after(site: Site, job_id: str, attempts: int) -> dict[str, Any]:
    """Return the webhook's state after so many attempts."""
    return wait_for(
        lambda: told if (told := webhook(site, job_id))["attempts"] == attempts else None,
        what=f"{attempts} attempts",
    )


def hurry(site: Site, job_id: str) -> None:
    """Make the next attempt due now."""
    assert site.redis.zadd(DUE, {job_id: 0}, xx=True, ch=True) == 1


def is_signed(message: Message, secret: str) -> bool:
    """Verify a signature by the specification, without our code."""
    signed = b".".join(
        (
            message.headers["webhook-id"].encode(),
            message.headers["webhook-timestamp"].encode(),
            message.body,
        )
    )
    digest = hmac.new(base64.b64decode(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}" in message.headers["webhook-signature"].split()


def test_the_receiver_gets_the_finished_job_signed(
    start: Callable[..., Site], receiver: Receiver
) -> None:
    site = start()
    job_id = site.submit(webhook=f"{receiver.url}/gdsr?for=cat")
    assert webhook(site, job_id) == {
        "url": f"{receiver.url}/gdsr?for=cat", "state": "waiting", "attempts": 0, "answer": None,
    }  # fmt: skip
    assert receiver.messages.empty()

    site.succeed(job_id)
    message = receiver.messages.get(timeout=60)

    assert message.path == "/gdsr?for=cat"
    assert message.headers["host"] == receiver.place
    assert message.headers["content-type"] == "application/json"
    assert message.headers["webhook-id"] == job_id
    assert is_signed(message, SECRET)
    assert not is_signed(message._replace(body=message.body + b" "), SECRET)
    told = after(site, job_id, 1)
    assert (told["state"], told["answer"]) == ("delivered", "status 204")
    now = site.http.get(f"/jobs/{job_id}").json()
    assert {**json.loads(message.body), "webhook": told} == now
    assert now["state"] == "succeeded"
    assert site.redis.zcard(DUE) == 0


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_a_failed_or_cancelled_job_is_delivered_too(
    start: Callable[..., Site], receiver: Receiver, end: str
) -> None:
    site = start(root_path="/gdsr")
    job_id = site.submit(webhook=receiver.url)

    if end == "fail":
        site.records.fail(job_id, error=WorkerLost())
    else:
        site.http.delete(f"/jobs/{job_id}")

    body = json.loads(receiver.messages.get(timeout=60).body)
    assert body["state"] == {"fail": "failed", "cancel": "cancelled"}[end]
    assert body["links"]["self"] == f"/gdsr/jobs/{job_id}"


def test_a_cached_result_is_delivered_too(start: Callable[..., Site], receiver: Receiver) -> None:
    site = start(cache_results=True)
    site.succeed(site.submit())

    job_id = site.submit(webhook=receiver.url)

    assert site.records.get(job_id).result.cached
    assert json.loads(receiver.messages.get(timeout=60).body)["id"] == job_id


def test_a_service_whose_clock_is_fast_delivers_a_cached_result_at_once(
    start: Callable[..., Site], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fast(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(minutes=30)

    site = start(cache_results=True)
    site.succeed(site.submit())
    monkeypatch.setattr(records, "datetime", Fast)
    job_id = site.submit(webhook=receiver.url)

    assert json.loads(receiver.messages.get(timeout=60).body)["id"] == job_id


def test_a_failed_delivery_is_retried_later_as_the_same_message(
    start: Callable[..., Site], receiver: Receiver
) -> None:
    site = start()
    receiver.answers = [500, 302]
    job_id = site.submit(webhook=receiver.url)
    site.succeed(job_id)

    assert after(site, job_id, 1) | {"url": ""} == {
        "url": "", "state": "waiting", "attempts": 1, "answer": "status 500",
    }  # fmt: skip
    seconds, _ = site.redis.time()
    assert 0 < site.redis.zscore(DUE, job_id) - seconds <= dispatcher.PAUSES[0].total_seconds()
    hurry(site, job_id)
    assert after(site, job_id, 2)["answer"] == "status 302"
    hurry(site, job_id)
    assert after(site, job_id, 3)["state"] == "delivered"

    messages = [receiver.messages.get_nowait() for _ in range(3)]
    assert {message.headers["webhook-id"] for message in messages} == {job_id}
    assert {message.path for message in messages} == {"/"}  # redirects are not followed
    assert all(is_signed(message, SECRET) for message in messages)
    told = {
        'gdsr_webhooks_total{outcome="delivered"} 1.0',
        'gdsr_webhooks_total{outcome="retried"} 2.0',
        "gdsr_webhooks_waiting 0.0",
    }  # attempts are counted after they are recorded
    wait_for(lambda: told <= set(site.http.get("/metrics").text.splitlines()), what="the attempts")


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("1000", 1000),
        ("1", 300),  # less than the first pause
        ("99999999999999999999", 60 * 18000),  # more than the last one
        ("soon", 300),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60 * 18000),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 300),
    ],
)
def test_a_receiver_can_ask_for_a_longer_pause_before_the_next_attempt(
    start: Callable[..., Site], receiver: Receiver, asked: str, seconds: int
) -> None:
    site = start()
    receiver.answers, receiver.headers = [503], {"Retry-After": asked}
    job_id = site.submit(webhook=receiver.url)
    before, _ = site.redis.time()
    site.succeed(job_id)

    after(site, job_id, 1)

    now, _ = site.redis.time()
    assert before + seconds <= site.redis.zscore(DUE, job_id) <= now + seconds


def test_delivery_ends_after_the_last_pause_or_with_410(
    start: Callable[..., Site], receiver: Receiver
) -> None:
    site = start()
    receiver.answers = [500, 500, 410]
    job_id, other = site.submit(webhook=receiver.url), site.submit(webhook=receiver.url)
    last = len(dispatcher.PAUSES)
    site.redis.hset(f"gdsr:job:{job_id}", "webhook_attempts", last - 1)
    site.succeed(job_id)
    assert after(site, job_id, last)["state"] == "waiting"
    hurry(site, job_id)
    assert after(site, job_id, last + 1)["state"] == "failed"

    site.succeed(other)
    assert after(site, other, 1)["state"] == "failed"
    assert site.redis.zcard(DUE) == 0


def test_one_that_outlives_the_record_of_its_job_is_logged_and_counted(
    start: Callable[..., Site], receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    site = start()
    receiver.answers = [500]
    job_id = site.submit(webhook=receiver.url)
    site.succeed(job_id)
    after(site, job_id, 1)

    site.redis.delete(f"gdsr:job:{job_id}")  # as Redis does when it expires
    hurry(site, job_id)

    wait_for(lambda: not site.redis.zcard(DUE), what="the last attempt")
    failed = 'gdsr_webhooks_total{outcome="failed"} 1.0'
    wait_for(lambda: failed in site.http.get("/metrics").text, what="the count")
    wait_for(lambda: "record has expired (GDSR_RECORD_TTL)" in caplog.text, what="the line")


def test_a_deliverer_that_dies_leaves_its_message_to_another(
    start: Callable[..., Site], receiver: Receiver
) -> None:
    site = start()
    job_id = site.submit(webhook=receiver.url)
    site.server.should_exit = True
    names = threading.enumerate
    wait_for(lambda: "webhooks" not in {thread.name for thread in names()}, what="its end")
    killed = WebhookQueue(site.redis, lease=timedelta(minutes=1))
    site.succeed(job_id)
    assert killed.claim() == job_id
    assert killed.claim() is None

    other = start()
    hurry(other, job_id)  # lets the lease end

    assert is_signed(receiver.messages.get(timeout=60), SECRET)
    assert after(other, job_id, 1)["state"] == "delivered"


@pytest.mark.parametrize(
    "url",
    [
        "https://b.example/", "https://a.example:444/", "https://a.example.evil/",
        "http://a.example/", "https://me@a.example/", "https://a.example@b.example/",
        "https://a.example/#part", "https://a.example\\@b.example", "https://[::1]/", "a.example",
        "https://a.example/ x", "https://a.example/\n", "https://127.0.0.1/", "ftp://a.example",
    ],
)  # fmt: skip
def test_an_address_that_is_not_allowed_is_refused(start: Callable[..., Site], url: str) -> None:
    site = start()

    response = site.post(params={"webhook": url})

    assert (response.status_code, problem_of(response)) == (422, "webhook-not-allowed")
    assert site.stored() == []
    assert site.http.get("/limits").json()["webhooks"] is True


@pytest.mark.parametrize("url", ["https://a.example/größe", "https://[::1]/"])
def test_a_refusal_says_how_an_address_is_written(start: Callable[..., Site], url: str) -> None:
    detail = start().post(params={"webhook": url}).json()["detail"]

    assert "in ASCII" in detail
    assert "host name" in detail


def test_the_port_and_the_case_of_an_allowed_host_may_be_written_out(
    start: Callable[..., Site],
) -> None:
    site = start()
    for url in ("https://A.example", "https://a.example:443/x", "https://a.example?x"):
        assert site.post(params={"webhook": url}).status_code == 202


def test_without_their_settings_webhooks_are_off(site: Site) -> None:
    response = site.post(params={"webhook": "https://a.example/"})

    assert (response.status_code, problem_of(response)) == (422, "webhooks-off")
    assert "/jobs/{id}/events" in response.json()["detail"]
    assert site.http.get("/limits").json()["webhooks"] is False
    assert site.http.get(f"/jobs/{site.submit()}").json()["webhook"] is None


def test_a_name_that_leads_inside_is_not_called(
    start: Callable[..., Site], receiver: Receiver
) -> None:
    site = start(webhook_networks="")
    job_id = site.submit(webhook=receiver.url)
    site.succeed(job_id)

    told = after(site, job_id, 1)

    assert "not public" in told["answer"]
    assert told["state"] == "waiting"  # its operator may correct the name
    assert receiver.messages.empty()


def test_the_name_is_looked_up_once_and_never_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *rest: Any, **more: Any) -> Any:
        """Resolve to an allowed address first, and to another one later."""
        if host == "localhost":
            asked.append(host)
            host = "127.0.0.2" if len(asked) > 1 else "127.0.0.1"
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    target = Target("localhost", receiver.server.server_port, "/")
    trust = ssl.create_default_context(cafile=str(receiver.certificate))
    only = (ipaddress.ip_network("127.0.0.1/32"),)

    answer = deliver(target, "id", b"{}", secrets=[b"s"], networks=only, trust=trust)

    assert (answer.status, asked) == (204, ["localhost"])


def test_a_receiver_whose_certificate_is_not_trusted_gets_nothing(receiver: Receiver) -> None:
    target = Target("localhost", receiver.server.server_port, "/")

    with pytest.raises(Undeliverable, match="certificate"):
        deliver(
            target, "id", b"{}", secrets=[b"s"], networks=HERE, trust=ssl.create_default_context()
        )
    assert receiver.messages.empty()


def test_a_receiver_that_says_nothing_or_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LONGEST_ATTEMPT", timedelta(seconds=0.4))
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                # The header of a long TLS record, then one byte at a time.
                connection.sendall(b"\x16\x03\x03\x40\x00")
                while not done.wait(0.1):
                    connection.sendall(b"\x02")

        thread = threading.Thread(target=drip)
        thread.start()
        target = Target("localhost", listening.getsockname()[1], "/")
        with pytest.raises(Undeliverable, match="no response"):
            deliver(
                target, "id", b"{}", secrets=[b"s"], networks=HERE,
                trust=ssl.create_default_context(),
            )  # fmt: skip
        done.set()
        thread.join()


def test_signatures_are_those_of_the_specification() -> None:
    # The example of the Standard Webhooks libraries.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",  # pragma: allowlist secret
        b'{"test": 2432232314}',
        secrets=[secret, b"another"],
        now=1614265330,
    )

    first, second = signed["webhook-signature"].split()
    assert first == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert second.startswith("v1,")
    assert signed["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_are_called(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
        "::", "::1", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "2001:0:7f00:1::",
    ],
)  # fmt: skip
def test_other_addresses_are_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("hosts", "content", "named"),
    [
        ("a.example", None, "GDSR_WEBHOOK_SECRET_FILE"),
        ("", f"whsec_{SECRET}", "GDSR_WEBHOOK_HOSTS"),
        ("a.example", "", "contains no secret"),
        ("a.example", SECRET, "secret 1"),
        ("a.example", f"whsec_{SECRET}\nwhsec_c2hvcnQ=", "secret 2"),
        ("a.example", "whsec_~~~", "secret 1"),
    ],
)
def test_settings_that_make_no_sense_end_the_start(
    hosts: str, content: str | None, named: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)

    with pytest.raises(ConfigurationInvalid, match=named) as refused:
        Services(
            ServiceSettings(
                blob_dir=tmp_path / "blobs",
                webhook_hosts=hosts,  # type: ignore[arg-type]
                webhook_secret_file=None if content is None else file,
            )
        )
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_a_port_that_is_none_is_refused_at_the_start(tmp_path: Path, port: int) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        ServiceSettings(blob_dir=tmp_path, webhook_hosts=f"a.example:{port}")
