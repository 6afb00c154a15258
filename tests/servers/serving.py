"""A service on a real socket in this process, with access to its queue and store."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from factories import photo, saved
from processes import wait_for

from service.app import create_app
from service.http.server import Server, listen
from service.settings import ServiceSettings
from workers.contract.blobs.base import StoredBlob
from workers.contract.blobs.open import open_blobs
from workers.contract.images.formats import ResultFormat
from workers.contract.queue.connection import connect
from workers.contract.queue.jobs import Job, JobResult
from workers.contract.queue.records import JobRecords
from workers.contract.settings import WorkerSettings
from workers.tasks.upscale import CONTEXT, TaskContext

#: Starts a service with the given settings.
Serve = Callable[..., "Site"]
PICTURE = saved(photo(20, 30), "PNG")
#: Seconds; longer than a service may hold a response back.
TIMEOUT = 100


class Site:
    """One service: `http` is its client's side; the rest is what workers and operators do."""

    def __init__(self, http: httpx2.Client, settings: ServiceSettings, server: Server) -> None:
        self.http = http
        self.settings = settings
        self.server = server
        self.redis = connect(settings.redis_url, timeout=timedelta(seconds=60), retries=0)
        self.records = JobRecords(self.redis, record_ttl=settings.record_ttl)
        self.blobs = open_blobs(settings, patience=timedelta(seconds=10))

    def post(self, content: Any = PICTURE, **options: Any) -> httpx2.Response:
        return self.http.post("/upscale", content=content, **options)

    def submit(self, content: bytes = PICTURE, **params: Any) -> str:
        """Send a picture and return the id of its job."""
        response = self.post(content, params=params)
        assert response.status_code == 202, response.text
        job_id: str = response.json()["id"]
        return job_id

    @contextmanager
    def posting(self, **headers: str) -> Iterator[tuple[Future[httpx2.Response], str]]:
        """Send a request that waits; yield its future response and the id of its job."""
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.post, headers=headers)
            yield answer, wait_for(self.records.active, what="the job")[0]

    def start(self, job_id: str) -> None:
        assert self.records.start(job_id, run="run", worker="worker")

    def succeed(
        self,
        job_id: str,
        picture: bytes = b"picture",
        *,
        kept: timedelta = timedelta(hours=1),
        branches: dict[str, StoredBlob] | None = None,
        format: ResultFormat = ResultFormat.PNG,  # noqa: A002
    ) -> Job:
        """Act as a worker: start the job, store a result, record the success."""
        self.start(job_id)
        blob = self.blobs.write(f"results/{job_id}", [picture])
        result = JobResult(
            key=blob.key,
            size=blob.size,
            sha256=blob.sha256,
            format=format,
            width=120,
            height=80,
            model="lite",
            checkpoint="0" * 64,
            device="cpu",
            precision="float32",
            seconds={"queue": 0.1, "decode": 0.1, "infer": 0.1, "encode": 0.1},
            expires_at=datetime.now(UTC) + kept,
            branches=branches or {},
        )
        assert self.records.succeed(job_id, run="run", result=result)
        return self.records.get(job_id)

    def stored(self) -> list[str]:
        """Return the names of all files in the blob folder."""
        return sorted(
            str(path.relative_to(self.blobs.root))
            for path in self.blobs.root.rglob("*")
            if path.is_file()
        )


@contextmanager
def served(settings: ServiceSettings, *, port: int = 0, **limits: int) -> Iterator[Site]:
    """Serve until the end of the block; `limits` are those of the server."""
    listening = listen(host=settings.host, port=port)
    server = Server(create_app(settings), listening, settings, **limits)
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    try:
        address = "http://{}:{}".format(*listening.getsockname())
        with httpx2.Client(base_url=address, timeout=TIMEOUT) as http:
            site = Site(http, settings, server)
            yield site
            site.redis.close()
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def working(site: Site, run: str = "run") -> Iterator[None]:
    """Run the block in the context of a task in a job worker's child."""
    shared = site.settings.model_dump(include=set(WorkerSettings.model_fields))
    settings = WorkerSettings.model_validate(shared | {"engine_patience": timedelta(seconds=0.1)})
    token = CONTEXT.set(
        TaskContext(
            run=run, worker="worker", settings=settings, records=site.records, blobs=site.blobs,
            engine_sockets=(),
        )
    )  # fmt: skip
    try:
        yield
    finally:
        CONTEXT.reset(token)


def problem_of(response: httpx2.Response) -> str:
    """Check the shape of a problem document and return its slug."""
    document = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert document["status"] == response.status_code
    assert document["title"]
    assert document["instance"] == response.request.url.path
    slug: str = document["type"].removeprefix("/problems/")
    return slug
