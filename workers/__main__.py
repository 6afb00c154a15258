"""`gdsr-worker`: one engine per GPU (one on the CPU if there is none), and job workers."""

import argparse
import logging
import sys
from importlib.metadata import version

DESCRIPTION = """Runs the network for queued jobs: one engine process per GPU, or one on the CPU,
and GDSR_JOB_WORKERS job workers beside it. Restarts what dies; ends on SIGTERM after draining.
Settings are GDSR_... environment variables, see docs/settings.md."""


def main() -> int:
    """The console script. Exit status 0, or 1 after a permanent failure."""
    return min(run(), 1)


def run() -> int:
    """Run a worker host until SIGTERM.

    Returns 0, 1 after a permanent failure, or EXIT_CONFIGURATION if a restart would not help.
    """
    parser = argparse.ArgumentParser(prog="gdsr-worker", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.parse_args()

    from workers.contract.errors import ConfigurationInvalid
    from workers.contract.observability import logs
    from workers.contract.queue.connection import check_at_start
    from workers.contract.settings import WorkerSettings
    from workers.host.metrics import observe
    from workers.host.programs import REPORTS, worker_programs
    from workers.host.runtime import runtime_folder
    from workers.host.supervisor import EXIT_CONFIGURATION, Supervisor
    from workers.host.watchdog import watch_engines

    try:
        settings = WorkerSettings.load()
        logs.configure(process="worker", level=settings.log_level)
        with runtime_folder() as runtime:
            programs, engines = worker_programs(settings, runtime)
            check_at_start(settings.redis_url)
            log = logging.getLogger(__name__)
            supervisor = Supervisor(programs, on_ready=lambda: log.info("ready"))
            watch_engines(engines)
            with observe(settings, supervisor, reports=runtime / REPORTS):
                return supervisor.run()
    except ConfigurationInvalid as invalid:
        sys.stderr.write(f"gdsr-worker: {invalid}\n")
        return EXIT_CONFIGURATION


if __name__ == "__main__":
    sys.exit(run())
