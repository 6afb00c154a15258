"""Settings of `gdsr-service`, in addition to those shared with the workers."""

import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from workers.contract.errors import ConfigurationInvalid
from workers.contract.settings import Seconds, SharedSettings, Values
from workers.contract.validation_messages import shaped

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")


class ServiceSettings(SharedSettings):
    """Settings of the HTTP service."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0: any free port, named in the log."""

    hosts: Values = ()
    """Host names, comma-separated, that a service on loopback without keys also accepts."""

    api_keys_file: Path | None = None
    """File of API keys, `name:sha256` lines (`gdsr-service --new-key NAME`); unset: no keys."""

    admin_keys_file: Path | None = None
    """File of admin keys, in the same format; `/metrics` then needs one; unset: no `/admin`."""

    metrics_port: int | None = Field(default=None, gt=0, le=65535)
    """Separate port for `/metrics`, which needs no key; unset: the service's port."""

    rate_limit: str | None = None
    """Requests per API key, such as `60/minute;999/day`; unset: unlimited."""

    pixels_per_day: int | None = Field(default=None, gt=0)
    """Input pixels per API key and UTC day; unset: unlimited."""

    cache_results: bool = True
    """Give an upload equal to an earlier one of the same key a copy of its result."""

    compat: bool = True
    """Serve the routes of Automatic1111 and LocalAI."""

    cors_origins: Values = ()
    """Origins allowed by CORS, such as `https://a.example`, comma-separated, or `*`."""

    root_path: Annotated[str, shaped(r"(/[A-Za-z0-9._~-]+)*", "a path such as /gdsr")] = ""
    """Path prefix of a reverse proxy, such as `/gdsr`, whether or not the proxy strips it."""

    trusted_proxies: Values = ()
    """Addresses or networks, comma-separated, whose `X-Forwarded-For` and `-Proto` are trusted."""

    result_name: Annotated[str, shaped(r"[^/\\\x00-\x1f]*", "a name without folders")] = (
        "{name}-{scale}x"
    )
    """File name of results: `{name}` of the picture without its extension, `{scale}` such as 4."""

    max_wait: Seconds = timedelta(seconds=60)
    """Maximum of `Prefer: wait`."""

    cancel_abandoned: bool = True
    """Cancel a job without API key, Idempotency-Key and webhook when its waiting client
    disconnects.
    """

    head_timeout: Seconds = timedelta(seconds=20)
    """Timeout for a request head; then the connection is closed."""

    body_timeout: Seconds = timedelta(seconds=30)
    """Timeout for every 16 KiB of a request or response body; then the connection is closed."""

    webhook_hosts: Values = ()
    """Hosts, comma-separated, that may receive webhooks, such as `a.example` or
    `a.example:8443`; empty: none.
    """

    webhook_secret_file: Path | None = None
    """File with the secrets that sign webhooks, one `whsec_...` a line; several for a rotation."""

    webhook_networks: Values = ()
    """Networks, comma-separated, where those hosts may be, besides the public internet."""

    signed_results: Annotated[Seconds, Field(le=timedelta(days=7))] | None = None
    """Lifetime of signed bucket URLs that `/jobs/{id}/result` redirects to; unset: no redirect."""

    @property
    def largest_picture(self) -> int:
        """Maximum input pixels of a picture: a day's quota may be less than GDSR_MAX_PIXELS."""
        return min(self.max_pixels, self.pixels_per_day or self.max_pixels)

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin} is not an origin such as https://a.example:8443")
        return value

    @field_validator("webhook_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST.fullmatch(host) or not 0 < int(host.partition(":")[2] or 443) < 65536:
                raise ValueError(f"{host} is not a host such as a.example or a.example:8443")
        return value

    @field_validator("trusted_proxies", "webhook_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value


def read_lines(file: Path, *, setting: str) -> list[str]:
    """The lines of a file that a setting names.

    Raises:
        ConfigurationInvalid: it cannot be read.
    """
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigurationInvalid(f"{setting}: {failure}") from None
