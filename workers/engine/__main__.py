"""An engine process: loads checkpoints onto one device, warms up, registers, serves tiles.

Started by the supervisor. On SIGTERM it ends after the current batch, on an unexpected error at
once: the supervisor restarts it.
"""

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

import redis

from workers.contract.errors import ConfigurationInvalid
from workers.contract.observability import logs
from workers.contract.observability.metrics_server import MetricsServer
from workers.contract.queue import engines, reload
from workers.contract.queue.connection import connect
from workers.contract.settings import WorkerSettings
from workers.host.supervisor import EXIT_CONFIGURATION, EXIT_DEVICE
from workers.pictures.extras import installed

log = logging.getLogger(__name__)


def main() -> int:
    """Run one engine until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m workers.engine", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to serve on")
    parser.add_argument("--device", required=True, help="torch device, such as cuda:0 or cpu")
    parser.add_argument("--metrics-port", type=int, help="metrics port; default: none")
    arguments = parser.parse_args()
    try:
        settings = WorkerSettings.load()
        logs.configure(process=f"engine {arguments.device}", level=settings.log_level)
        _serve(
            settings,
            device=arguments.device,
            path=arguments.socket,
            metrics_port=arguments.metrics_port,
        )
    except ConfigurationInvalid as invalid:
        sys.stderr.write(f"engine: {invalid}\n")
        return EXIT_CONFIGURATION
    except RuntimeError as failure:
        if not any(library in str(failure) for library in ("CUDA", "cuDNN")):
            raise
        log.critical("the device failed; only a new process may fix it", exc_info=True)
        os._exit(EXIT_DEVICE)  # destructors use the device again, which may abort or hang
    return 0


def _serve(settings: WorkerSettings, *, device: str, path: Path, metrics_port: int | None) -> None:
    from model.process import prepare_process

    # before torch is imported, which reads it once
    prepare_process(settings.threads, cache=settings.cache_dir)

    import torch

    from workers.engine.loading import load_engine
    from workers.engine.models import Models, follow
    from workers.engine.server import EngineServer
    from workers.engine.telemetry import EngineTelemetry
    from workers.host.watchdog import exit_when_stuck

    client = connect(settings.redis_url, timeout=engines.HEARTBEAT, retries=0)
    followed = 0  # before the files are read; if Redis is down, a request may be processed again
    with suppress(redis.RedisError):
        followed = reload.last_request(client)
    loaded = load_engine(settings, device, default_only=True)
    telemetry = EngineTelemetry(loaded, device=torch.device(device))
    # before the socket exists, which signals readiness to the supervisor
    if metrics_port is not None:
        MetricsServer(telemetry.registry, host=settings.metrics_host, port=metrics_port)
    server = EngineServer(loaded, path=path, computed=telemetry.computed)
    telemetry.watch(server)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.stop).start())
    # the supervisor handles Ctrl-C and stops programs in order
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def info() -> engines.EngineInfo:
        return engines.EngineInfo(
            id=engine_id,
            host=socket.gethostname(),
            device=loaded.device_name,
            tile=max(loaded.tiles),
            default_model=server.loaded.default_model,
            models=server.loaded.models,
            reloaded=models.followed,
            extra_formats=tuple(name.value for name in installed()),
            tiles=server.tiles_done,
            memory_retries=server.fallback.retries,
        )

    engine_id = f"{socket.gethostname()}-{device.replace(':', '')}-{secrets.token_hex(4)}"
    models = Models(server, settings, torch.device(device), followed=followed)
    stopped = threading.Event()

    def beat() -> None:
        down = False
        while True:
            try:
                engines.register(client, info())
                down = False
            except redis.RedisError as failure:
                if not down:
                    log.warning("cannot register: %s", failure)
                down = True
            except Exception:
                log.exception("cannot register, retrying")
            if stopped.wait(engines.HEARTBEAT.total_seconds()):
                return

    register = threading.Thread(target=beat, name="engine-register", daemon=True)
    register.start()
    threading.Thread(
        target=follow, args=(client, models, info, stopped), name="engine-reload", daemon=True
    ).start()
    threading.Thread(
        target=exit_when_stuck, args=(server.overdue, stopped), name="engine-stuck", daemon=True
    ).start()
    log.info("ready: %s", info().model_dump_json(exclude={"models": {"__all__": {"card"}}}))
    try:
        server.serve()
    finally:
        stopped.set()
        register.join()
        try:
            engines.unregister(client, engine_id)
        except redis.RedisError:
            log.warning("cannot unregister; the entry expires by itself")


if __name__ == "__main__":
    sys.exit(main())
