"""The stack of the compose file in an engine, with requests and commands for it."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from containers.steps import Failed, run

#: Ignores proxy settings: requests go directly to the published port.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A copy of the tree, its compose file, and the engine that runs it."""

    tree: Path
    environment: Mapping[str, str]
    port: int
    prometheus_port: int

    def compose(self, *arguments: str, ok: bool = True) -> str:
        """Run docker-compose and return its output."""
        ended = run(
            ["docker-compose", "--profile", "monitoring", *arguments],
            environment=self.environment,
            cwd=self.tree,
            ok=ok,
        )
        return ended.stdout + ended.stderr

    def docker(self, *arguments: str, ok: bool = True) -> str:
        """Run docker and return its standard output."""
        ended = run(["docker", *arguments], environment=self.environment, cwd=self.tree, ok=ok)
        return ended.stdout.strip()

    def config(self) -> Any:
        """Return the compose file with all variables filled in."""
        return json.loads(self.compose("config", "--format", "json"))

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        found = self.compose("ps", "--all", "--quiet", service).split()
        if len(found) != 1:
            raise Failed(f"{service} has {len(found)} containers")
        return found[0]

    def inspect(self, service: str) -> Any:
        (shown,) = json.loads(self.docker("inspect", self.container(service)))
        return shown

    def inside(self, service: str, *command: str, ok: bool = True) -> str:
        """Run a command in a service's container and return its standard output."""
        return self.docker("exec", self.container(service), *command, ok=ok)

    def up(self, services: Sequence[str]) -> None:
        """Start these services from existing images and wait until they are healthy."""
        self.compose("up", "--detach", "--wait", "--no-build", "--pull", "never", *services)

    def ask(self, path: str, *, data: bytes | None = None, **headers: str) -> Answer:
        """Send a request to the published port; status 0 means that nothing answered."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=data,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        try:
            with _OPENER.open(request, timeout=120) as answer:
                return Answer(answer.status, _lower(answer.headers), answer.read())
        except urllib.error.HTTPError as refusal:
            return Answer(refusal.code, _lower(refusal.headers), refusal.read())
        except (OSError, http.client.HTTPException):
            return Answer(0, {}, b"")

    def queue(self, picture: bytes, query: str = "") -> str:
        """Send a picture and return the path of its job.

        Raises:
            Failed: it was not accepted.
        """
        answer = self.ask(f"/upscale{query}", data=picture, Content_Type="image/png")
        if answer.status != http.client.ACCEPTED:
            raise Failed(f"the picture was answered with {answer.status}: {answer.body[:300]!r}")
        return answer.headers["location"]

    def tiles_done(self, job: str) -> int:
        """Return the number of finished tiles of a running job; 0 when it does not run."""
        answer = self.ask(job)
        if answer.status != http.client.OK or answer.document["state"] != "running":
            return 0
        return int(answer.document["progress"]["tiles_done"])

    def in_the_middle(self, job: str) -> None:
        """Wait until a job runs and has finished a tile.

        Raises:
            Failed: it never did.
        """
        deadline = time.monotonic() + 120
        while not self.tiles_done(job):
            if time.monotonic() > deadline:
                raise Failed(f"{job} does not run: {self.ask(job).body[:300]!r}")
            time.sleep(0.1)

    def state(self, job: str) -> str:
        """Return the state of a job, or the response status if that is an error."""
        answer = self.ask(job)
        return (
            str(answer.document["state"])
            if answer.status == http.client.OK
            else f"status {answer.status}"
        )

    def measured(self, expression: str) -> dict[str, float]:
        """Return the values of a PromQL query by job; empty when Prometheus does not answer."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?" + urllib.parse.urlencode(
            {"query": expression}
        )
        try:
            with _OPENER.open(url, timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            return {}
        return {series["metric"].get("job", ""): float(series["value"][1]) for series in found}


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
