"""The site withstands overload, misbehaving clients and a long mixed load.

Each drill has a short form (`-m slow`) with checks that hold on any machine. The long form (`make
drills`) also checks speeds and needs a machine to itself.
"""

import asyncio
import bisect
import itertools
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from buckets import S3Server
from drills.site import DrillSite, barcode, drill_site, read
from networks import tiny_checkpoint
from processes import command_line, free_port, wait_for
from receiver import receiving

from service.access.auth import hash_key
from workers.host.parent_death import dying_with_parent

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

MIB = 1024**2
#: Jobs that may wait in the overload drill.
ROOM = 8


def seconds(short: int, long: int) -> "pytest.MarkDecorator":
    return pytest.mark.parametrize(
        "seconds",
        [
            pytest.param(short, marks=pytest.mark.slow, id="short"),
            pytest.param(long, marks=pytest.mark.drill, id="long"),
        ],
    )


@pytest.fixture
def say(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], None]:
    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: {line}\n")

    return say


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny.safetensors", consistency=True)


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


@contextmanager
def memory_of(processes: Callable[[], list[int]]) -> Iterator[list[int]]:
    """Sample the total resident memory of these processes, in bytes, once a second."""
    sizes, over = [], threading.Event()

    def look() -> None:
        while not over.wait(1) or not sizes:
            sizes.append(sum(map(resident, processes())))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield sizes
    finally:
        over.set()
        looking.join()


def grown(sizes: list[int]) -> float:
    """Ratio of the mean of the last third to that of the middle third."""
    third = len(sizes) // 3
    return statistics.fmean(sizes[2 * third :]) / statistics.fmean(sizes[third : 2 * third or 1])


# Overload


class Answer(NamedTuple):
    """A response with its times in seconds."""

    number: int
    asked: float
    answered: float
    status: int
    retry_after: float
    right: bool

    @property
    def milliseconds(self) -> float:
        return 1000 * (self.answered - self.asked)


class Crowd:
    """Cheap clients, since they share the processors with the site: pictures are made beforehand.
    Equal pictures have equal results, so only one result of each picture is decoded.
    """

    def __init__(self, site: DrillSite) -> None:
        self.port = site.port
        self.numbers = itertools.count()
        self.pictures = [barcode(number) for number in range(64)]
        self.results: dict[int, bytes] = {}

    def by_rate(self, rate: float, *, seconds: float) -> list[Answer]:
        """Send requests at a constant rate, whether or not earlier ones are answered."""

        async def one(place: int) -> Answer:
            await asyncio.sleep(place / rate)
            return await self._ask()

        async def all_of_them() -> list[Answer]:
            return await asyncio.gather(*map(one, range(int(rate * seconds))))

        return asyncio.run(all_of_them())

    def in_turn(self, clients: int, *, seconds: float) -> list[Answer]:
        """Run clients that each send the next request when the last one is answered."""
        end, answers = time.monotonic() + seconds, []

        async def one() -> None:
            while time.monotonic() < end:
                answers.append(await self._ask())

        async def all_of_them() -> None:
            await asyncio.gather(*(one() for _ in range(clients)))

        asyncio.run(all_of_them())
        return answers

    async def _ask(self) -> Answer:
        """Send a picture once and wait for the result."""
        number, asked = next(self.numbers) % len(self.pictures), time.monotonic()
        picture = self.pictures[number]
        length = f"Content-Length: {len(picture)}\r\n"
        status, headers, content = await self._exchange(
            "POST /upscale?trade_off=0", length, picture
        )
        job = headers.get("location")
        while status in (202, 409):  # the job takes longer than a request waits
            status, headers, content = await self._exchange(f"GET {job}/result")
        answered, pause = time.monotonic(), float(headers.get("retry-after", 0))
        right = status == 200 and self._is_right(number, content)
        return Answer(number, asked, answered, status, pause, right)

    async def _exchange(
        self, line: str, headers: str = "", body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and content of a response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nPrefer: wait=55\r\n"
        try:
            writer.write(f"{head}{headers}\r\n".encode() + body)
            answered, _, content = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status, *lines = answered.decode().split("\r\n")
        named = (line.partition(": ") for line in lines)
        return int(status.split()[1]), {name.lower(): value for name, _, value in named}, content

    def _is_right(self, number: int, content: bytes) -> bool:
        first = self.results.setdefault(number, content)
        return content == first and (content is not first or read(content) == number)


def goodput(answers: list[Answer], since: float, seconds: float) -> float:
    """Correct pictures per second."""
    return sum(a.right and a.answered <= since + seconds for a in answers) / seconds


@seconds(4, 900)
def test_four_times_as_many_as_can_be_served(
    tmp_path: Path, checkpoint: Path, say: Callable[[str], None], seconds: int
) -> None:
    with drill_site(tmp_path, checkpoint, direct=True, GDSR_MAX_QUEUED_JOBS=str(ROOM)) as site:
        (service,) = site.pids("service")
        crowd = Crowd(site)
        crowd.in_turn(ROOM, seconds=min(4, seconds))  # warm up
        short = min(30, seconds)
        began = time.monotonic()
        peak = goodput(crowd.in_turn(ROOM, seconds=short), began, short)
        with memory_of(lambda: [service]) as sizes:
            began = time.monotonic()
            answers = crowd.by_rate(max(4 * peak, 20), seconds=seconds)
        good, growth = goodput(answers, began, seconds), grown(sizes)

    refused = [a for a in answers if a.status == 503]
    taken = sorted(a.asked for a in answers if a.right)
    waits = [
        (taken[place] - a.asked, a.retry_after)
        for a in refused
        if (place := bisect.bisect(taken, a.asked)) < len(taken)
    ]
    true = sum(wait <= pause for wait, pause in waits) / max(1, len(waits))
    middle = statistics.median(a.milliseconds for a in refused) if refused else 0.0
    say(
        f"peak {peak:.1f} pictures a second; at {len(answers) / seconds:.0f} requests a second "
        f"{good:.1f}; {len(refused)} refused in {middle:.0f} ms at the median; a place was free "
        f"within Retry-After for {true:.0%}; service {max(sizes) // MIB} MiB at most, in the last "
        f"third to the middle one {growth:.3f}"
    )
    others = Counter(a.status for a in answers if not a.right and a.status != 503)
    assert not others
    assert refused
    assert all(a.retry_after >= 1 for a in refused)
    if seconds > 60:
        assert good > 0.9 * peak
        assert middle < 20
        assert true > 0.95
        assert growth < 1.05


# Misbehaving clients


def connected(site: DrillSite, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", site.port), timeout=60)
    connection.sendall(sent)
    return connection


def bad_things(site: DrillSite, luck: random.Random, held: list[socket.socket]) -> None:
    """Act as one misbehaving client of a random kind."""
    head = b"POST /upscale HTTP/1.1\r\nHost: localhost\r\n"
    with suppress(OSError):
        match luck.randrange(8):
            case 0:  # silent connection
                held.append(connected(site))
            case 1:  # stops within the headers
                held.append(connected(site, head))
            case 2:  # stops within the body
                held.append(connected(site, head + b"Content-Length: 90000\r\n\r\n" + bytes(999)))
            case 3:  # disconnects within the body
                connected(site, head + b"Content-Length: 90000\r\n\r\n" + bytes(9999)).close()
            case 4:  # not HTTP
                connected(site, luck.randbytes(300)).close()
            case 5:  # impossible chunk length
                lie = b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nx"
                connected(site, head + lie).close()
            case 6:  # no picture, and a truncated one
                with httpx2.Client(base_url=site.url, timeout=60, trust_env=False) as http:
                    for body in (luck.randbytes(2000), barcode(1)[:1000]):
                        answer = http.post("/upscale", content=body)
                        assert answer.status_code in (202, 415, 422, 503), answer.text
            case _:  # wrong host, foreign origin, unknown job
                with httpx2.Client(base_url=site.url, timeout=60, trust_env=False) as http:
                    name, origin = {"Host": "evil.example"}, {"Origin": "https://evil.example"}
                    assert http.get("/jobs", headers=name).status_code == 421
                    assert http.post("/upscale", headers=origin).status_code == 403
                    assert http.get(f"/jobs/{luck.getrandbits(128):032x}").status_code == 404


@seconds(8, 300)
def test_good_clients_are_served_beside_bad_ones(
    tmp_path: Path, checkpoint: Path, say: Callable[[str], None], seconds: int
) -> None:
    luck, done, held = random.Random(seconds), 0, []
    jobs, most = seconds, 0
    with drill_site(tmp_path, checkpoint) as site, ExitStack() as stack:
        (service,) = site.pids("service")
        stop = threading.Event()

        def worsen() -> None:
            nonlocal done, most
            while not stop.wait(0.02):
                bad_things(site, luck, held)
                done += 1
                most = max(most, resident(service))

        bad = threading.Thread(target=worsen)
        bad.start()
        try:
            with site.driven(jobs, a_second=1):
                pass
        finally:
            stop.set()
            bad.join()
            for connection in held:
                stack.enter_context(connection)
        same = site.pids("service") == [service]
        site.check_results()
        said, fates = site.said(), site.fates

    say(f"{done} bad clients, {len(held)} held; {dict(fates)}; service {most // MIB} MiB at most")
    assert fates == {"right": jobs}
    assert same
    assert "Traceback" not in said
    assert most < 300 * MIB


# Long mixed load


@contextmanager
def further_service(site: DrillSite, log: Path) -> Iterator[str]:
    """Run another service on the same Redis and blob store; yield its address."""
    port = free_port()
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(port)],
            env=site.environment | {"GDSR_BLOB_DIR": str(site.data / "blobs")},
            stdin=subprocess.DEVNULL, stdout=lines, stderr=lines,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with suppress(httpx2.HTTPError):
            return httpx2.get(f"{url}/readyz", trust_env=False).status_code == 200
        return False

    try:
        wait_for(answers, what="a further service")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=300)
    assert process.returncode == 0
    assert "Traceback" not in log.read_text()


class Soak:
    """Clients with API keys that send to one service and fetch from another."""

    def __init__(self, urls: list[str], hook: str) -> None:
        self.urls, self.hook = urls, hook
        self.count: Counter[str] = Counter()
        self.told: set[str] = set()
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()

    def one(self, luck: random.Random) -> None:
        """Send a picture and check everything that its client may do with the job."""
        with self._lock:
            number = next(self._numbers)
        name, stranger = luck.sample(["ann", "ben"], 2)
        key, other = ({"X-API-Key": f"{who}-key"} for who in (name, stranger))
        query = {"trade_off": "0", "webhook": self.hook, "keep_branches": luck.choice(["0", "1"])}
        here, there = luck.sample(self.urls, 2)
        with httpx2.Client(timeout=90, trust_env=False, follow_redirects=True) as http:
            sent = http.post(
                f"{here}/upscale", params=query, content=barcode(number),
                headers={**key, "Idempotency-Key": f"soak-{number}"},
            )  # fmt: skip
            assert sent.status_code == 202, sent.text
            job = f"{there}/jobs/{sent.json()['id']}"
            again = http.post(
                f"{there}/upscale", params=query, content=barcode(number),
                headers={**key, "Idempotency-Key": f"soak-{number}", "Prefer": "wait=60"},
            )  # fmt: skip
            assert again.status_code == 200, again.text
            assert read(again.content) == number
            self.told.add(sent.json()["id"])
            assert http.get(job, headers=other).status_code == 404
            if query["keep_branches"] == "1":
                blend = http.get(
                    f"{job}/result", params={"trade_off": "0.3", "format": "webp"},
                    headers={**key, "Prefer": "wait=60"},
                )  # fmt: skip
                assert blend.status_code == 200, blend.text
                self.count["blended"] += 1
            result = http.get(f"{job}/result", headers=key)
            assert read(result.content) == number
            self.count["right"] += 1


@seconds(8, 900)
def test_several_services_a_bucket_keys_and_webhooks(
    tmp_path: Path, checkpoint: Path, say: Callable[[str], None], seconds: int
) -> None:
    keys, secrets = tmp_path / "keys", tmp_path / "secrets"
    keys.write_text("".join(f"{name}:{hash_key(f'{name}-key')}\n" for name in ("ann", "ben")))
    secrets.write_text(f"whsec_{'c2VjcmV0' * 5}\n")
    bucket = S3Server(tmp_path / "s3.log")
    with ExitStack() as stack:
        stack.callback(bucket.close)
        hooks = stack.enter_context(receiving(tmp_path))
        site = stack.enter_context(
            drill_site(
                tmp_path, checkpoint, **bucket.environment(),
                GDSR_BLOB_URL=f"s3://{bucket.bucket()}/gdsr", GDSR_API_KEYS_FILE=str(keys),
                GDSR_WEBHOOK_HOSTS=hooks.place, GDSR_WEBHOOK_SECRET_FILE=str(secrets),
                GDSR_WEBHOOK_NETWORKS="127.0.0.0/8,::1/128", SSL_CERT_FILE=str(hooks.certificate),
                GDSR_RESULT_TTL="600",
            )
        )  # fmt: skip
        further = [
            stack.enter_context(further_service(site, tmp_path / f"log{number}"))
            for number in range(2)
        ]
        soak = Soak([site.url, *further], f"{hooks.url}/done")
        failures: list[BaseException] = []
        end = time.monotonic() + seconds

        def loop(seed: int) -> None:
            luck = random.Random(seed)
            while time.monotonic() < end and not failures:
                try:
                    soak.one(luck)
                except BaseException as failure:  # noqa: BLE001 - raised below
                    failures.append(failure)

        threads = [threading.Thread(target=loop, args=(seed,)) for seed in range(4)]
        with memory_of(lambda: lasting(site)) as sizes:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]

        heard: Counter[str] = Counter()
        while set(heard) < soak.told:
            message = hooks.messages.get(timeout=300)
            heard[re.search(rb'"id": ?"([0-9a-f]{32})"', message.body)[1].decode()] += 1  # type: ignore[index]
        growth = grown(sizes)
        said = site.said()

    say(
        f"{dict(soak.count)} through 3 services; {len(heard)} webhooks, {sum(heard.values())} "
        f"calls; memory of the last third to the middle one {growth:.3f}"
    )
    assert soak.count["right"] == len(soak.told)
    assert "Traceback" not in said
    if seconds > 60:
        assert growth < 1.05


def lasting(site: DrillSite) -> list[int]:
    """Return the service and the engine, which live as long as the site."""
    found = [*site.pids("service"), *site.pids("workers.engine")]
    return [pid for pid in found if command_line(pid) and os.path.exists(f"/proc/{pid}/status")]  # noqa: PTH110
