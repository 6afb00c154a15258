"""`gdsr-bench`: benchmarks of this machine, each as minimum, median and maximum."""

import argparse
import json
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model.trainer.errors import TrainingError

DESCRIPTION = "Benchmark GDSR on this machine; close other programs first."


def main() -> int:
    """Run one benchmark. Exit status 0; 1 after a failure, shown on stderr; 2 for wrong usage."""
    options = vars(_parser().parse_args())
    kind, file = options.pop("kind"), options.pop("json")
    try:
        from model.process import prepare_process

        prepare_process(None)  # before torch is imported
        figures = _measure(kind, options)
        if file:
            file.write_text(json.dumps(figures, indent=2) + "\n")
    except (OSError, ValueError, RuntimeError, ImportError, TrainingError) as failure:
        sys.stderr.write(f"gdsr-bench: {failure}\n")
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def _measure(kind: str, options: dict[str, Any]) -> object:
    """Call `bench_KIND` of the module `KIND`, with the options as keyword arguments."""
    if kind == "train":
        from model.trainer.config_file import read_preset

        options["config"] = read_preset(options.pop("preset"), options.pop("overrides"))
    return getattr(import_module(f"deploy.bench.{kind}"), f"bench_{kind}")(**options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gdsr-bench", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    service = kinds.add_parser("service", help="startup time, one picture over HTTP, memory")
    service.add_argument("--model", default="lite", help="the model (default: %(default)s)")
    _number(service, "--runs", 9, "repetitions")
    service.add_argument(
        "--clients", type=int,
        help="instead: throughput with this many clients in a closed loop, compared to the engine "
        "(default: one picture at a time)",
    )  # fmt: skip
    _number(service, "--pictures", 100, "total number of pictures of the clients")
    _number(service, "--trade-off", 0.5, "slider position of the clients' pictures")
    _number(service, "--side", 256, "side of the clients' pictures in pixels")
    engine = kinds.add_parser("engine", help="the network compared to plain implementations")
    engine.add_argument(
        "--device", default="", dest="device_name", metavar="DEVICE",
        help="cpu or cuda:0 (default: a GPU if there is one)",
    )  # fmt: skip
    engine.add_argument(
        "--preset", action="append", dest="presets", help="may be repeated (default: all)"
    )
    engine.add_argument(
        "--side", action="append", type=int, dest="sides",
        help="tile side in pixels; may be repeated (default: by the device)",
    )  # fmt: skip
    engine.add_argument(
        "--precision", action="append", dest="precisions", default=[],
        choices=("float32", "bfloat16", "float16"),
        help="may be repeated (default: the engine's choice)",
    )  # fmt: skip
    codec = kinds.add_parser(
        "codec", help="PNG compared to Pillow's; other formats; cut and stitch"
    )
    _number(codec, "--side", 2048, "of the picture in pixels")
    halo = kinds.add_parser("halo", help="context that a tile needs: tiled compared to untiled")
    halo.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    halo.add_argument("--data", type=Path, required=True, help="folder of high-resolution pictures")
    queue = kinds.add_parser("queue", help="cost of a job in Redis, and of a blob for the janitor")
    _number(queue, "--jobs", 5000, "how many")
    fleet = kinds.add_parser(
        "fleet", help="many engines on one Redis, store and service: stubs here, and simulated"
    )
    fleet.add_argument(
        "--engines", type=int, action="append",
        help="how many; may be repeated (default: 1, 4, 16 and 64)",
    )  # fmt: skip
    _number(fleet, "--seconds", 1.0, "time of an engine per picture")
    _number(fleet, "--side", 256, "of the pictures in pixels")
    _number(fleet, "--pictures", 10, "for each engine")
    fleet.add_argument(
        "--plot", type=Path, help="also draw the results into this file (default: not)"
    )
    train = kinds.add_parser("train", help="the training loop compared to a bare loop of its steps")
    train.add_argument("--preset", default="smoke", help="the preset (default: %(default)s)")
    _number(train, "--steps", 50, "of each repetition")
    train.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
        help="override a value; may be repeated (default: as in the preset)",
    )  # fmt: skip
    soak = kinds.add_parser("soak", help="memory over many mixed jobs: checks for leaks")
    _number(soak, "--jobs", 300, "how many")
    for kind, rounds in ((engine, 7), (codec, 7), (train, 5)):
        _number(kind, "--rounds", rounds, "repetitions")
    for kind in kinds.choices.values():
        kind.add_argument(
            "--json", type=Path, help="also write the results to this file (default: not)"
        )
    return parser


def _number(kind: argparse.ArgumentParser, name: str, default: float, meaning: str) -> None:
    kind.add_argument(
        name, type=type(default), default=default, help=f"{meaning} (default: {default:g})"
    )


if __name__ == "__main__":
    sys.exit(main())
