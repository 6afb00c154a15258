"""The HTTP server: one process, with a bounded shutdown."""

import logging
import os
import resource
import socket
from datetime import timedelta
from functools import partial

import uvicorn
from fastapi import FastAPI

from service.http.connections import Connection
from service.settings import ServiceSettings
from workers.contract.errors import ConfigurationInvalid

#: Grace period of requests after SIGTERM.
GRACE = timedelta(seconds=10)
#: Longer than the minute of common proxies: one that sends just as this closes responds 502.
KEEP_ALIVE = timedelta(seconds=75)
#: Open files to ask for; also bounds connections, as each may need a picture file and a Redis
#: connection.
_FILES, _CONNECTIONS = 16_384, 4096

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Uvicorn server that ends waiting requests when it shuts down."""

    def __init__(
        self,
        app: FastAPI,
        listening: socket.socket,
        settings: ServiceSettings,
        *,
        max_connections: int = _CONNECTIONS,
    ) -> None:
        files = raised_file_limit()
        most = min(max_connections, files // 4)
        logger.info("at most %d connections, with %d files", most, files)
        protocol = partial(
            Connection,
            most=most,
            blocked={},
            head=settings.head_timeout,
            body=settings.body_timeout,
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,  # type: ignore[arg-type]
                log_config=None,
                access_log=False,  # the middleware logs requests by route template instead
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=list(settings.trusted_proxies),
                ws="none",
                lifespan="on",
                timeout_keep_alive=int(KEEP_ALIVE.total_seconds()),
                timeout_graceful_shutdown=int(GRACE.total_seconds()),
            )
        )
        self.app = app
        self.listening = listening

    def serve_until_stopped(self) -> None:
        """Serve until a signal, or until `should_exit` is set."""
        host, port = self.listening.getsockname()[:2]
        logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        self.run(sockets=[self.listening])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.app.state.services.stop_waiting()
        await super().shutdown(sockets)


def raised_file_limit() -> int:
    """Raise the limit of open files as far as possible, up to a bound; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


def listen(*, host: str, port: int) -> socket.socket:
    """Open the listening socket.

    Raises:
        ConfigurationInvalid: the port is in use, or the address is not local.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as failure:
        is_name = isinstance(failure, socket.gaierror)
        # The message without Python's repetition of the address.
        reason = failure.strerror if is_name else os.strerror(failure.errno or 0)
        raise ConfigurationInvalid(
            f"cannot listen on {host}:{port}: {reason}; set GDSR_HOST and GDSR_PORT to a "
            "free address"
        ) from None
    # Inherited by connections. Without it a body waits 40 ms for the client's acknowledgement of
    # the head; asyncio sets it only if the protocol is named, which `create_server` does not do.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
