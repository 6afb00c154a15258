"""Health check of a worker's container: it passes if an engine of this host answers.

Imports as little as possible, since it is started every few seconds.
"""

import socket
import sys
import tempfile
from pathlib import Path


def is_listening(path: Path) -> bool:
    """True if something listens on this unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(str(path)) == 0


def main() -> int:
    """Exit status 0 if an engine answers, else 1."""
    engines = Path(tempfile.gettempdir()).glob("gdsr-*/engine*.sock")
    return 0 if any(map(is_listening, engines)) else 1


if __name__ == "__main__":
    sys.exit(main())
