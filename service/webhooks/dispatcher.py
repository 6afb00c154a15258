"""Webhook dispatch: the allow-list of hosts, and the threads that deliver pending webhooks.

Off unless both an allow-list and a secret are configured. Delivery is independent of the job: the
transition that ends a job adds it to an outbox in Redis, and threads of any service process take it
from there.
"""

import base64
import binascii
import logging
import re
import ssl
import threading
from datetime import timedelta
from functools import cached_property
from ipaddress import ip_network

import redis
from prometheus_client import Counter

from service.http.proxy import ROOT
from service.settings import ServiceSettings, read_lines
from service.views import JobView
from service.webhooks.delivery import Target, Undeliverable, deliver
from workers.contract import errors
from workers.contract.observability import logs
from workers.contract.queue.jobs import Job
from workers.contract.queue.records import JobRecords
from workers.contract.queue.webhook_outbox import WebhookQueue, WebhookState

#: Backoff: the pauses before the second attempt, the third and so on, about eight hours in all.
PAUSES = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600, 1800, 7200, 18000))
#: Lease of an attempt: longer than any attempt including name resolution.
LEASE = timedelta(minutes=2)
_THREADS = 4
_POLL_INTERVAL = timedelta(seconds=1)
_URL = re.compile(r"https://([A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?((?:[/?][!-\"$-~]*)?)")
#: Format of Standard Webhooks: `whsec_` and 24 to 64 random bytes in base64.
_SECRET, _SECRET_BYTES = "whsec_", range(24, 65)  # pragma: allowlist secret

logger = logging.getLogger(__name__)


class Webhooks:
    """The allowed hosts, the signing secrets, and the threads that deliver pending webhooks."""

    def __init__(
        self, settings: ServiceSettings, records: JobRecords, *, outcomes: Counter
    ) -> None:
        """Read the settings and the file of secrets; `outcomes` counts the attempts.

        Raises:
            ConfigurationInvalid: only one of hosts and secret is set, or the file is invalid.
        """
        hosts, file = settings.webhook_hosts, settings.webhook_secret_file
        if bool(hosts) != (file is not None):
            raise errors.ConfigurationInvalid(
                "webhooks need both GDSR_WEBHOOK_HOSTS and GDSR_WEBHOOK_SECRET_FILE"
            )
        lines: list[str] = []
        if file is not None:
            lines = " ".join(read_lines(file, setting="GDSR_WEBHOOK_SECRET_FILE")).split()
            if not lines:
                raise errors.ConfigurationInvalid("GDSR_WEBHOOK_SECRET_FILE: it contains no secret")
        self._hosts = {host.lower().removesuffix(":443") for host in hosts}
        self._secrets = [_secret(line, number) for number, line in enumerate(lines, start=1)]
        self._networks = [ip_network(network) for network in settings.webhook_networks]
        self._records, self._outcomes, self._root_path = records, outcomes, settings.root_path
        self._queue = WebhookQueue(records.client, lease=LEASE)
        self._stopping = threading.Event()

    def __bool__(self) -> bool:
        return bool(self._hosts)

    def target(self, url: str) -> Target:
        """Parse and check the URL of a webhook.

        Raises:
            WebhooksOff: webhooks are not configured.
            WebhookNotAllowed: the host is not on the allow-list, or the URL is invalid.
        """
        if not self:
            raise errors.WebhooksOff
        found = _URL.fullmatch(url)
        if found is None:
            raise errors.WebhookNotAllowed(
                "not an https:// URL in ASCII with a host name, without user and fragment"
            )
        host, port, path = found[1].lower(), int(found[2] or 443), found[3]
        target = Target(host=host, port=port, path=path if path[:1] == "/" else f"/{path}")
        if target.place not in self._hosts:
            raise errors.WebhookNotAllowed(f"{target.place} is not an allowed webhook host")
        return target

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """TLS trust: the system's certificates, or those of `SSL_CERT_FILE`."""
        return ssl.create_default_context()

    def start(self) -> None:
        """Start the threads, if webhooks are on."""
        for _ in range(_THREADS if self else 0):
            threading.Thread(target=self._work, name="webhooks", daemon=True).start()

    def stop(self) -> None:
        """Stop taking webhooks. An attempt that ends with the process is repeated."""
        self._stopping.set()

    def _work(self) -> None:
        ROOT.set(self._root_path)
        while not self._stopping.is_set():
            try:
                job_id = self._queue.claim()
                if job_id is not None:
                    self._attempt(job_id)
                    continue
            except redis.RedisError as failure:
                logger.warning("cannot read the webhook outbox: %s", failure)
            except Exception:
                logger.exception("internal error while delivering a webhook")
            self._stopping.wait(_POLL_INTERVAL.total_seconds())

    def _attempt(self, job_id: str) -> None:
        try:
            logs.job_id.set(job_id)
            job = self._records.get(job_id)
        except errors.JobNotFound:  # a job that is deleted leaves the outbox at once
            self._queue.forget(job_id)
            self._outcomes.labels("failed").inc()
            logger.warning("webhook failed: the job's record has expired (GDSR_RECORD_TTL)")
            return
        except errors.JobTooNew:
            return  # a newer release delivers it when the lease ends
        state, answer, pause = self._deliver(job)
        self._queue.settle(job_id, state, answer=answer, pause=pause)
        self._outcomes.labels("retried" if state == "waiting" else state).inc()
        logger.info("webhook %s: %s", state, answer)

    def _deliver(self, job: Job) -> tuple[WebhookState, str, timedelta | None]:
        """Make an attempt; returns the new state, the reason, and the pause before the next one."""
        body = JobView.of(job, position=None).model_dump_json().encode()
        try:
            answered = deliver(
                self.target(str(job.spec.webhook)), job.id, body,
                secrets=self._secrets, networks=self._networks, trust=self._trust,
            )  # fmt: skip
        except (errors.WebhooksOff, errors.WebhookNotAllowed) as refusal:  # since it was queued
            return "failed", str(refusal), None
        except Undeliverable as failure:
            answer, requested = str(failure), timedelta(0)
        else:
            answer, requested = f"status {answered.status}", answered.retry_after
            if 200 <= answered.status < 300:
                return "delivered", answer, None
            if answered.status == 410:  # Standard Webhooks: the receiver has unsubscribed
                return "failed", answer, None
        if job.webhook_attempts >= len(PAUSES):
            return "failed", answer, None
        pause = max(PAUSES[job.webhook_attempts], min(requested, PAUSES[-1]))
        return "waiting", answer, pause


def _secret(line: str, number: int) -> bytes:
    try:
        secret = base64.b64decode(line.removeprefix(_SECRET), validate=True)
    except binascii.Error:
        secret = b""
    if not line.startswith(_SECRET) or len(secret) not in _SECRET_BYTES:
        raise errors.ConfigurationInvalid(
            f"GDSR_WEBHOOK_SECRET_FILE: secret {number} is not `whsec_` and the base64 of 24 to 64 "
            'bytes; make one: echo "whsec_$(openssl rand -base64 32)"'
        )
    return secret
