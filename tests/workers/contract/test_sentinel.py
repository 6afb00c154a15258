"""The primary is found through Sentinels, although some are wrong or silent."""

import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from processes import free_port, wait_for
from records import image_info, model_info, options
from sentinels import NAME, SentinelSite

from workers.contract.errors import ConfigurationInvalid
from workers.contract.queue import connection
from workers.contract.queue.admission import QueueLimits
from workers.contract.queue.connection import check_at_start, connect
from workers.contract.queue.jobs import JobState
from workers.contract.queue.queue import JobQueue, new_job_id
from workers.contract.queue.records import JobRecords
from workers.contract.queue.runs import LEASES
from workers.contract.sentinel import NotReplicated, replicated
from workers.jobs.recovery import sweep

pytestmark = pytest.mark.usefixtures("unhurried")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[SentinelSite]:
    servers = SentinelSite(tmp_path)
    yield servers
    servers.close()


def watching(servers: SentinelSite, primary: int, name: str = NAME) -> str:
    """Return the URL of one Sentinel that watches a port."""
    servers.watch(servers.sentinels[0], primary)
    return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{servers.sentinels[0]}/{name}"


@contextmanager
def no_redis() -> Iterator[int]:
    """A server that answers everything with an HTTP error."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_primary_is_found_although_a_sentinel_is_away(servers: SentinelSite) -> None:
    servers.serve(servers.valkeys[0])
    url = watching(servers, servers.valkeys[0]) + "/3"

    check_at_start(url)
    with connect(url, timeout=timedelta(seconds=60), retries=0) as client:
        client.set("word", "text")
    with redis.Redis(port=servers.valkeys[0], db=3) as client:
        assert client.get("word") == b"text"


def test_sentinels_and_servers_have_passwords_of_their_own(tmp_path: Path) -> None:
    servers = SentinelSite(tmp_path, passwords=True)
    plain, file = servers.url.partition("?")[0], tmp_path / "other"
    try:
        servers.serve(servers.valkeys[0])
        servers.watch(servers.sentinels[0], servers.valkeys[0])
        check_at_start(servers.url)
        with connect(servers.url, timeout=timedelta(seconds=60), retries=0) as client:
            assert client.set("word", "text")

        rules = "on", ">asks", "+sentinel|get-master-addr-by-name"
        assert servers.asked(servers.sentinels[0], "acl", "setuser", "asker", *rules)
        file.write_text("asks\n")
        check_at_start(f"{plain}?sentinel_password_file={file}&sentinel_username=asker")

        file.write_text("wrong\n")
        for url, said in [
            (servers.url.replace(":of-servers@", ""), "requires a password"),
            (servers.url.replace("of-servers", "wrong"), "rejects the password"),
            (plain, "Sentinel .* rejects sentinel_username or sentinel_password_file"),
            (f"{plain}?sentinel_password_file={file}", "Sentinel .* rejects"),
            (f"{servers.url}&sentinel_username=nobody", "Sentinel .* rejects"),
            (f"{plain}?sentinel_password_file={file}/none", "sentinel_password_file: .* cannot be"),
        ]:
            with pytest.raises(ConfigurationInvalid, match=said):
                check_at_start(url)
    finally:
        servers.close()


def test_a_name_that_no_sentinel_knows_stops_the_start(servers: SentinelSite) -> None:
    url = watching(servers, free_port(), name="other")
    with pytest.raises(ConfigurationInvalid, match=r"knows no other$"):
        check_at_start(url)


def test_a_server_that_is_no_sentinel_stops_the_start(servers: SentinelSite) -> None:
    servers.serve(servers.valkeys[0])
    with pytest.raises(ConfigurationInvalid, match="is no Sentinel"):
        check_at_start(f"redis+sentinel://127.0.0.1:{servers.valkeys[0]}/{NAME}")


def test_a_primary_that_is_no_redis_stops_the_start(servers: SentinelSite) -> None:
    with no_redis() as port, pytest.raises(ConfigurationInvalid, match=f"{port} is no Redis$"):
        check_at_start(watching(servers, port))


def test_sentinels_that_do_not_answer_do_not_end_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_at_start("redis+sentinel://127.0.0.1:1,127.0.0.1:2/gdsr")

    assert "no Sentinel answers" in caplog.text


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://one:26379", "redis+sentinel:///gdsr", "redis+sentinel://one/gdsr/first",
     "redis+sentinel://one,,two/gdsr", "redis+sentinel://one:port/gdsr"],
)  # fmt: skip
def test_an_invalid_url_of_sentinels_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"^GDSR_REDIS_URL: "):
        check_at_start(url)


def test_a_replica_stops_the_start_and_is_waited_out_later(
    servers: SentinelSite, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection._RetryWhileUnavailable, "logged_at", float("-inf"))
    replica = servers.valkeys[0]
    servers.serve(replica, "--replicaof", "127.0.0.1 1")
    url = watching(servers, replica)

    with pytest.raises(ConfigurationInvalid, match=f"{replica} is a replica$"):
        check_at_start(url)

    patient = connect(url, timeout=timedelta(seconds=60), retries=0, retry_forever=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(patient.set, "word", "text")
        wait_for(lambda: "is a replica" in caplog.text, what="a word in the log")
        servers.asked(replica, "replicaof", "no", "one")
        assert asked.result()


def test_a_write_without_a_replica_is_not_confirmed(servers: SentinelSite) -> None:
    servers.serve(servers.valkeys[0])
    url = watching(servers, servers.valkeys[0])
    with (
        connect(url, timeout=timedelta(seconds=60), retries=0) as client,
        pytest.raises(NotReplicated),
    ):
        replicated(client, lambda to: to.eval("return redis.call('set', 'word', 'text')", 0))


def test_a_worker_outlives_a_failure_that_no_replica_has(servers: SentinelSite) -> None:
    servers.serve(servers.valkeys[0])
    url = watching(servers, servers.valkeys[0])
    with (
        redis.Redis(port=servers.valkeys[0]) as plain,
        connect(url, timeout=timedelta(seconds=5), retries=0, retry_forever=True) as patient,
    ):
        bounds = QueueLimits(jobs=1, pixels=10**9)
        queue = JobQueue(plain, record_ttl=timedelta(hours=1), bounds=bounds, small_pixels=1)
        job_id = queue.submit(new_job_id(), image_info(), options(), model_info()).id
        for run in ("one", "two"):
            assert queue.records.start(job_id, run=run, worker="w")
            plain.zadd(LEASES, {job_id: 1})
            sweep(JobRecords(patient, record_ttl=timedelta(hours=1)), lambda *_: None)

        assert queue.get(job_id).state is JobState.FAILED


def test_a_write_whose_mark_is_refused_is_not_said_to_be_refused(servers: SentinelSite) -> None:
    servers.serve(servers.valkeys[0])
    # as a server does that has become full, or whose replicas have left, with the write itself
    assert servers.asked(servers.valkeys[0], "acl", "setuser", "default", "-set")
    url = watching(servers, servers.valkeys[0])
    with connect(url, timeout=timedelta(seconds=5), retries=0) as client:
        with pytest.raises(NotReplicated):
            replicated(client, lambda to: to.eval("return redis.call('incr', 'word')", 0))
        assert client.get("word") == b"1"
