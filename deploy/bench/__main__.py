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
    _option(service, "--model", "lite", "the model")
    _option(service, "--runs", 9, "repetitions")
    clients = (
        "instead: throughput with this many clients in a closed loop, compared to the engine "
        "(default: one picture at a time)"
    )
    service.add_argument("--clients", type=int, help=clients)
    _option(service, "--pictures", 100, "total number of pictures of the clients")
    _option(service, "--trade-off", 0.5, "slider position of the clients' pictures")
    _option(service, "--side", 256, "side of the clients' pictures in pixels")
    engine = kinds.add_parser("engine", help="the network compared to plain implementations")
    device = "cpu or cuda:0 (default: a GPU if there is one)"
    engine.add_argument("--device", default="", dest="device_name", metavar="DEVICE", help=device)
    _several(engine, "--preset", "presets", "preset of the network", "all")
    _several(engine, "--side", "sides", "side of a tile in pixels", "by the device", type=int)
    formats = ("float32", "bfloat16", "float16")
    choice = "the engine's choice"
    _several(engine, "--precision", "precisions", "number format", choice, choices=formats)
    codec = kinds.add_parser(
        "codec", help="PNG compared to Pillow's; other formats; cut and stitch"
    )
    _option(codec, "--side", 2048, "of the picture in pixels")
    halo = kinds.add_parser("halo", help="context that a tile needs: tiled compared to untiled")
    halo.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    halo.add_argument("--data", type=Path, required=True, help="folder of high-resolution pictures")
    queue = kinds.add_parser("queue", help="cost of a job in Redis, and of a blob for the janitor")
    _option(queue, "--jobs", 5000, "how many")
    fleet = kinds.add_parser(
        "fleet", help="many engines on one Redis, store and service: stubs here, and simulated"
    )
    _several(fleet, "--engines", "engines", "how many engines", "1, 4, 16 and 64", type=int)
    _option(fleet, "--seconds", 1.0, "time of an engine per picture")
    _option(fleet, "--side", 256, "of the pictures in pixels")
    _option(fleet, "--pictures", 10, "for each engine")
    fleet.add_argument("--plot", type=Path, help="also draw them into this file (default: not)")
    train = kinds.add_parser("train", help="the training loop compared to a bare loop of its steps")
    _option(train, "--preset", "smoke", "the preset")
    _option(train, "--steps", 50, "of each repetition")
    _several(train, "--set", "overrides", "override KEY=VALUE", "as in the preset", default=[])
    soak = kinds.add_parser("soak", help="memory over many mixed jobs: checks for leaks")
    _option(soak, "--jobs", 300, "how many")
    for kind, rounds in ((engine, 7), (codec, 7), (train, 5)):
        _option(kind, "--rounds", rounds, "repetitions")
    for kind in kinds.choices.values():
        kind.add_argument("--json", type=Path, help="also write them to this file (default: not)")
    return parser


def _option(kind: argparse.ArgumentParser, name: str, default: float | str, about: str) -> None:
    about += " (default: %(default)s)"
    kind.add_argument(name, type=type(default), default=default, help=about)


def _several(
    kind: argparse.ArgumentParser, name: str, to: str, about: str, default_about: str, **more: Any
) -> None:
    about += f"; may be repeated (default: {default_about})"
    kind.add_argument(name, action="append", dest=to, help=about, **more)


if __name__ == "__main__":
    sys.exit(main())
