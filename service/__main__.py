"""`gdsr-service`: the HTTP service of one machine."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="gdsr-service",
        description=(
            "Accepts pictures over HTTP, queues them for workers and serves the results. All "
            "other settings are GDSR_... environment variables; see docs/settings.md."
        ),
    )
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument("--host", help="address to listen on (default: GDSR_HOST, else 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, help="port to listen on (default: GDSR_PORT, else 8000)"
    )
    parser.add_argument(
        "--new-key", metavar="NAME",
        help=(
            "create an API key: printed once, on stderr; its line for GDSR_API_KEYS_FILE goes "
            "to stdout (default: serve)"
        ),
    )  # fmt: skip
    options = parser.parse_args(arguments)
    chosen = {name: value for name, value in vars(options).items() if value is not None}
    if "new_key" in chosen:
        from service.access.auth import KEY_NAME, hash_key, new_key

        name, key = chosen["new_key"], new_key()
        if not KEY_NAME.fullmatch(name):
            parser.error(f"{name!r} is not a valid key name: letters, digits, and . _ - between")
        sys.stderr.write(f"the key (shown only once): {key}\n")
        sys.stdout.write(f"{name}:{hash_key(key)}\n")
        return
    # Before the server handles them, and after it, as uvicorn raises them again.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))

    # Imported late to keep --help fast.
    from service.app import create_app
    from service.http.server import Server, listen
    from service.settings import ServiceSettings
    from workers.contract.errors import ConfigurationInvalid
    from workers.contract.observability import logs
    from workers.contract.observability.metrics_server import MetricsServer
    from workers.contract.queue.connection import check_at_start

    try:
        settings = ServiceSettings.load().model_copy(update=chosen)
        logs.configure(process="service", level=settings.log_level)
        app = create_app(settings)
        listening = listen(host=settings.host, port=settings.port)
        check_at_start(settings.redis_url)
        if settings.metrics_port is not None:
            MetricsServer(
                app.state.services.telemetry.registry,
                host=settings.metrics_host,
                port=settings.metrics_port,
            )
    except ConfigurationInvalid as problem:
        sys.stderr.write(f"gdsr-service: {problem}\n")
        sys.exit(os.EX_CONFIG)  # so that no supervisor tries again
    Server(app, listening, settings).serve_until_stopped()


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


if __name__ == "__main__":
    main()
