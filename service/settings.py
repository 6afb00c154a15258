"""What `gdsr-service` reads from the environment beside what it shares with the workers."""

import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from workers.contract.settings import Seconds, SharedSettings

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")


class ServiceSettings(SharedSettings):
    """Where to listen, and how long to keep a request waiting."""

    host: str = "127.0.0.1"
    """Address that the service listens on."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port that the service listens on; 0: any free one, named in the log."""

    hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names, by commas, that a service on loopback without keys answers to beside local ones."""

    api_keys_file: Path | None = None
    """File of API keys, `name:sha256` lines (`gdsr-service --new-key NAME`); unset: no keys."""

    admin_keys_file: Path | None = None
    """File of admin keys, made like API keys; `/metrics` wants one then; unset: no `/admin`."""

    metrics_port: int | None = Field(default=None, gt=0, le=65535)
    """Port of its own for `/metrics`, asked without a key; unset: the service's port."""

    rate_limit: str | None = None
    """What one API key may send or have made, such as `60/minute;999/day`; unset: any number."""

    pixels_per_day: int | None = Field(default=None, gt=0)
    """Pixels (before scaling) a day (UTC) of one API key; unset: any number."""

    cache_results: bool = True
    """Whether an equal upload of the same key gets a copy of the result, while that is kept."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may use the service, such as `https://a.example`, by commas, or `*`."""

    root_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$")
    """What a proxy puts before all addresses, such as `/gdsr`, whether it cuts it off or not."""

    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks, by commas, whose `X-Forwarded-For` and `-Proto` are believed."""

    result_name: str = Field(default="{name}-{scale}x", pattern=r"^[^/\\\x00-\x1f]*$")
    """How downloads are called: `{name}` of the picture without its ending, `{scale}` such as 4."""

    max_wait: Seconds = timedelta(seconds=60)
    """Longest time that `Prefer: wait` keeps a request open."""

    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts, by commas, that jobs may tell of their end, such as `a.example`; empty: none."""

    webhook_secret_file: Path | None = None
    """File of what webhooks are signed with: `whsec_...`; several while one replaces another."""

    webhook_networks: Annotated[tuple[str, ...], NoDecode] = ()
    """Networks, by commas, that those hosts may be in beside the public internet."""

    signed_results: Annotated[Seconds, Field(le=timedelta(days=7))] | None = None
    """With it `/jobs/{id}/result` redirects to the bucket, by an address that works so long."""

    @field_validator(
        "hosts",
        "cors_origins",
        "trusted_proxies",
        "webhook_hosts",
        "webhook_networks",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin} is no origin such as https://a.example:8443")
        return value

    @field_validator("webhook_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST.fullmatch(host) or not 0 < int(host.partition(":")[2] or 443) < 65536:
                raise ValueError(f"{host} is no host such as a.example or a.example:8443")
        return value

    @field_validator("trusted_proxies", "webhook_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value
