"""Worker hosts on separate networks share the load, and a disconnected one loses no job.

They share a Valkey over TCP and an S3 bucket. Each is a network namespace with a separate link.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from buckets import S3Server
from hosts import Site, WorkerHost, noise
from networks import tiny_checkpoint
from processes import ValkeyServer, command_line, free_port, wait_for

from workers.contract.queue.jobs import Job, JobState

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

#: Address of Valkey and the bucket, as seen from every host.
CENTRE = "10.231.0.1"


def ip(command: str) -> str:
    """Run `ip` and return its output."""
    done = subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)
    return done.stdout


class FarHost:
    """A network namespace whose only link leads to the centre."""

    def __init__(self, number: int, *, owner: int) -> None:
        self.number = number
        self.name = f"gdsr{owner}-{number}"
        self.link, self.far_end = (f"gd{owner}{end}{number}" for end in "nf")

    def open(self) -> None:
        near, far = f"10.231.{self.number}.1", f"10.231.{self.number}.2"
        ip(f"netns add {self.name}")
        ip(f"link add {self.link} type veth peer name {self.far_end} netns {self.name}")
        ip(f"addr add {near}/30 dev {self.link}")
        ip(f"link set {self.link} up")
        ip(f"-n {self.name} addr add {far}/30 dev {self.far_end}")
        ip(f"-n {self.name} link set {self.far_end} up")
        ip(f"-n {self.name} link set lo up")
        ip(f"-n {self.name} route add default via {near}")

    @property
    def within(self) -> tuple[str, ...]:
        """Prefix of a command that is to run on this host."""
        return "ip", "netns", "exec", self.name

    def unplug(self) -> None:
        ip(f"link set {self.link} down")

    def plug_in(self) -> None:
        ip(f"link set {self.link} up")

    def close(self) -> None:
        subprocess.run(["ip", "link", "delete", self.link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


def close_those_of_killed_runs() -> None:
    """Remove the namespaces that killed test runs left behind, which would block later runs."""
    for owner, number in re.findall(r"^gdsr(\d+)-(\d)\b", ip("netns list"), re.MULTILINE):
        if "pytest" in command_line(int(owner)):
            pytest.skip(f"another run of this test is at it: process {owner}")
        FarHost(int(number), owner=int(owner)).close()


@contextmanager
def centre() -> Iterator[None]:
    """Add an address that every host reaches over its own link."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command `ip`")
    close_those_of_killed_runs()
    try:
        ip(f"addr replace {CENTRE}/32 dev lo")
    except subprocess.CalledProcessError as failure:
        pytest.skip(f"no address can be added here: {failure.stderr.strip()}")
    try:
        yield
    finally:
        ip(f"addr del {CENTRE}/32 dev lo")


@pytest.fixture
def far_hosts() -> Iterator[tuple[FarHost, FarHost]]:
    with ExitStack() as stack:
        stack.enter_context(centre())
        hosts = []
        for number in (1, 2):
            host = FarHost(number, owner=os.getpid())
            stack.callback(host.close)
            try:
                host.open()
            except subprocess.CalledProcessError as failure:
                pytest.skip(f"no network namespace can be made: {failure.stderr.strip()}")
            hosts.append(host)
        yield hosts[0], hosts[1]


@pytest.fixture
def site(
    far_hosts: tuple[FarHost, FarHost],  # noqa: ARG001 - the address must be there
    server: ValkeyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    bucket = S3Server(tmp_path / "s3.log", host=CENTRE)
    for name, value in bucket.environment().items():
        monkeypatch.setenv(name, value)
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors")
    url = f"s3://{bucket.bucket()}/pictures"
    site = Site(server.url, tmp_path / "unused", checkpoint, blob_url=url)
    port = str(free_port())
    for name, value in (("protected-mode", "no"), ("bind", CENTRE), ("port", port)):
        site.client.config_set(name, value)
    site.url = f"redis://{CENTRE}:{port}/0"
    yield site
    bucket.close()


def ran_on(job: Job, host: WorkerHost) -> bool:
    """True if a job worker of this host ran the job: worker names are host-pid-random."""
    return job.worker is not None and int(job.worker.split("-")[-2]) in host.job_workers


def test_hosts_share_the_load_and_one_that_is_cut_off_in_mid_tile_loses_nothing(
    site: Site, far_hosts: tuple[FarHost, FarHost]
) -> None:
    one, other = far_hosts
    with site.worker_host(*one.within) as near, site.worker_host(*other.within) as far:
        jobs = [site.ended(job_id) for job_id in
                [site.submit(noise(280, 280, seed=seed)) for seed in range(8)]]  # fmt: skip
        assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 8
        assert any(ran_on(job, near) for job in jobs)
        assert any(ran_on(job, far) for job in jobs)

        picture = noise(400, 400)
        undisturbed = site.result(site.ended(site.submit(picture)))
        job_id = site.submit(picture)
        running = wait_for(lambda: site.in_the_middle(job_id))
        cut, left = (one, far) if ran_on(running, near) else (other, near)
        cut.unplug()
        recovered = site.ended(job_id)
        small = site.ended(site.submit(noise(40, 50)))

        assert ran_on(recovered, left)
        assert recovered.run != running.run
        np.testing.assert_array_equal(site.result(recovered), undisturbed)
        assert small.state is JobState.SUCCEEDED
        assert ran_on(small, left)

        cut.plug_in()  # its late writes are refused, and it takes jobs again
        more = [site.submit(noise(280, 280, seed=seed)) for seed in range(12)]
        assert [site.ended(each).state for each in more] == [JobState.SUCCEEDED] * 12
        assert site.job(job_id) == recovered
        kept = [e.key for e in site.blobs.entries("results") if job_id in e.key]
        assert recovered.result is not None
        assert kept == [recovered.result.key]
