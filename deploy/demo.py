"""`make run`: start the service, send it a photograph three times, keep serving.

The picture goes all the way: HTTP, queue, job worker, engine, and back.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SAMPLE = Path(__file__).parent / "sample" / "kitten.jpg"
_NAMES = {0.0: "faithful", 0.5: "balanced", 1.0: "crisp"}


def main() -> int:
    """Serve until Ctrl-C, or with --once only until the three results are stored."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop when the results are stored")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results")
    arguments = parser.parse_args()

    command = [sys.executable, "-m", "deploy.local", "--port", str(arguments.port)]
    # In a session of its own: Ctrl-C ends this process, which then stops the service in order.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as service:
        try:
            return _show(service, arguments.port, arguments.out, once=arguments.once)
        except KeyboardInterrupt:
            return 0
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()


def _show(service: "subprocess.Popen[str]", port: int, out: Path, *, once: bool) -> int:
    ready = service.stdout.readline() if service.stdout is not None else ""
    if not ready:
        return service.wait() or 1  # it has printed the reason on stderr
    from gdsr_client import Client

    out.mkdir(parents=True, exist_ok=True)
    os.environ["no_proxy"] = "127.0.0.1"  # takes precedence over NO_PROXY
    with Client(f"http://127.0.0.1:{port}") as client:
        for trade_off, name in _NAMES.items():
            target = out / f"{SAMPLE.stem}-x4-{name}.png"
            start = time.perf_counter()
            client.upscale(SAMPLE, target, trade_off=trade_off)
            seconds = time.perf_counter() - start
            print(f"  trade_off {trade_off:g} ({name}): {target}  {seconds:.2f} s", flush=True)
    if once:
        return 0
    print(ready.strip(), flush=True)
    return service.wait()


if __name__ == "__main__":
    sys.exit(main())
