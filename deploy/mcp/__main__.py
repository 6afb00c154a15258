"""`gdsr-mcp`: serves its tools on stdin and stdout, or as streamable HTTP on loopback."""

import argparse
import os
import sys
from importlib.metadata import version

from deploy.local import port
from deploy.mcp.roots import open_roots


def main() -> int:
    """The console script. Exit status 0; 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="gdsr-mcp",
        description="Offer upscaling by a GDSR service to programs that speak the Model Context "
        "Protocol, on stdin and stdout. GDSR_API_KEY is the API key to send.",
    )
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument(
        "roots", metavar="FOLDER", nargs="+",
        help="a folder whose pictures may be read, and where results may be written",
    )  # fmt: skip
    parser.add_argument(
        "--server", metavar="URL", default="http://127.0.0.1:8000",
        help="the GDSR service (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--http", metavar="PORT", type=port,
        help="serve streamable HTTP at http://127.0.0.1:PORT/mcp (default: stdin and stdout)",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        roots = open_roots(arguments.roots)
    except (OSError, ValueError) as wrong:
        parser.error(str(wrong))
    try:
        from deploy.mcp.tools import create_server
    except ModuleNotFoundError as missing:
        parser.error(f"{missing.name} is not installed; make setup installs it")

    server = create_server(roots, arguments.server, os.environ.get("GDSR_API_KEY"))
    try:
        if arguments.http is None:
            server.run("stdio")
        else:
            sys.stderr.write(f"gdsr-mcp: http://127.0.0.1:{arguments.http}/mcp\n")
            server.run("streamable-http", host="127.0.0.1", port=arguments.http)
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
