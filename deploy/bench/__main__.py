"""gdsr-bench: measure this machine. Each figure comes as minimum, median and maximum."""

import argparse
import json
import sys
from pathlib import Path

DESCRIPTION = "Measure GDSR on this machine; close other programs first."


def main() -> int:
    """Run one benchmark: 0; 1 when it failed, said on stderr; 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="gdsr-bench", description=DESCRIPTION)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    service = kinds.add_parser("service", help="start-up, one picture over HTTP, memory")
    service.add_argument("--model", default="lite")
    service.add_argument("--runs", type=int, default=9)
    halo = kinds.add_parser("halo", help="how much context a tile needs: tiled against untiled")
    halo.add_argument("checkpoint", type=Path)
    halo.add_argument("--data", type=Path, required=True, help="folder of high-resolution pictures")
    halo.add_argument("--keep", type=int, default=48, help="pixels that a tile keeps")
    for kind in (service, halo):
        kind.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    try:
        from model.process import prepare_process

        prepare_process(None)  # before torch is imported
        if arguments.kind == "service":
            from deploy.bench.service import bench_service

            figures: object = bench_service(model=arguments.model, runs=arguments.runs)
        else:
            from deploy.bench.halo import bench_halo

            figures = bench_halo(arguments.checkpoint, arguments.data, keep=arguments.keep)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    except (OSError, ValueError, RuntimeError) as failure:
        sys.stderr.write(f"gdsr-bench: {failure}\n")
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
