"""`gdsr-bench`: benchmarks of this machine, each as minimum, median and maximum."""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

DESCRIPTION = "Benchmark GDSR on this machine; close other programs first."


def main() -> int:
    """Run one benchmark. Exit status 0; 1 after a failure, described on stderr; 2 for wrong
    usage.
    """
    parser = argparse.ArgumentParser(prog="gdsr-bench", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    service = kinds.add_parser("service", help="startup time, one picture over HTTP, memory")
    service.add_argument("--model", default="lite", help="the model (default: %(default)s)")
    service.add_argument("--runs", type=int, default=9, help="repetitions (default: %(default)s)")
    service.add_argument(
        "--clients",
        type=int,
        help="instead: throughput with this many clients in a closed loop, compared to the engine "
        "(default: one picture at a time)",
    )
    service.add_argument(
        "--pictures", type=int, default=100,
        help="total number of pictures of the clients (default: %(default)s)",
    )  # fmt: skip
    service.add_argument(
        "--trade-off", type=float, default=0.5,
        help="slider position of the clients' pictures (default: %(default)s)",
    )  # fmt: skip
    service.add_argument(
        "--side", type=int, default=256,
        help="side of the clients' pictures in pixels (default: %(default)s)",
    )  # fmt: skip
    engine = kinds.add_parser("engine", help="the network compared to plain implementations")
    engine.add_argument(
        "--device", default="", help="cpu or cuda:0 (default: a GPU if there is one)"
    )
    engine.add_argument(
        "--preset", action="append", dest="presets", help="may be repeated (default: all)"
    )
    engine.add_argument(
        "--side",
        action="append",
        type=int,
        dest="sides",
        help="tile side in pixels; may be repeated (default: by the device)",
    )
    engine.add_argument(
        "--precision",
        action="append",
        dest="precisions",
        default=[],
        choices=("float32", "bfloat16", "float16"),
        help="may be repeated (default: the engine's choice)",
    )
    codec = kinds.add_parser(
        "codec", help="PNG compared to Pillow's; other formats; cut and stitch"
    )
    codec.add_argument(
        "--side", type=int, default=2048, help="of the picture in pixels (default: %(default)s)"
    )
    halo = kinds.add_parser("halo", help="context that a tile needs: tiled compared to untiled")
    halo.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    halo.add_argument("--data", type=Path, required=True, help="folder of high-resolution pictures")
    halo.add_argument(
        "--keep", type=int, default=48, help="kept pixels per tile side (default: %(default)s)"
    )
    queue = kinds.add_parser("queue", help="cost of a job in Redis, and of a blob for the janitor")
    queue.add_argument("--jobs", type=int, default=5000, help="how many (default: %(default)s)")
    fleet = kinds.add_parser(
        "fleet", help="many engines on one Redis, store and service: stubs here, and simulated"
    )
    fleet.add_argument(
        "--engines", type=int, action="append",
        help="how many; may be repeated (default: 1, 4, 16 and 64)",
    )  # fmt: skip
    fleet.add_argument(
        "--seconds", type=float, default=1.0, help="of an engine for a picture (default: 1)"
    )
    fleet.add_argument(
        "--side", type=int, default=256, help="of the pictures in pixels (default: %(default)s)"
    )
    fleet.add_argument(
        "--pictures", type=int, default=10, help="for each engine (default: %(default)s)"
    )
    fleet.add_argument(
        "--plot", type=Path, help="also draw the results into this file (default: not)"
    )
    train = kinds.add_parser("train", help="the training loop compared to a bare loop of its steps")
    train.add_argument("--preset", default="smoke", help="the preset (default: %(default)s)")
    train.add_argument(
        "--steps", type=int, default=50, help="of each repetition (default: %(default)s)"
    )
    train.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
        help="override a value; may be repeated (default: as in the preset)",
    )  # fmt: skip
    soak = kinds.add_parser("soak", help="memory over many mixed jobs: checks for leaks")
    soak.add_argument("--jobs", type=int, default=300, help="how many (default: %(default)s)")
    for kind, rounds in ((engine, 7), (codec, 7), (train, 5)):
        kind.add_argument(
            "--rounds", type=int, default=rounds, help="repetitions (default: %(default)s)"
        )
    for kind in (service, engine, codec, halo, queue, fleet, train, soak):
        kind.add_argument(
            "--json", type=Path, help="also write the results to this file (default: not)"
        )
    arguments = parser.parse_args()
    try:
        from model.process import prepare_process

        prepare_process(None)  # before torch is imported
        figures = _measure(arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    except (OSError, ValueError, RuntimeError, ImportError) as failure:
        sys.stderr.write(f"gdsr-bench: {failure}\n")
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def _measure(arguments: argparse.Namespace) -> object:
    match arguments.kind:
        case "service" if arguments.clients:
            from deploy.bench.load import bench_load

            return bench_load(
                model=arguments.model,
                trade_off=arguments.trade_off,
                side=arguments.side,
                clients=arguments.clients,
                pictures=arguments.pictures,
            )
        case "service":
            from deploy.bench.service import bench_service

            return bench_service(model=arguments.model, runs=arguments.runs)
        case "engine":
            from deploy.bench.engine import bench_engine

            return bench_engine(
                device_name=arguments.device,
                presets=arguments.presets,
                sides=arguments.sides,
                precisions=arguments.precisions,
                rounds=arguments.rounds,
            )
        case "codec":
            from deploy.bench.codec import bench_codec

            return bench_codec(side=arguments.side, rounds=arguments.rounds)
        case "queue":
            from deploy.bench.queue import bench_queue

            return bench_queue(jobs=arguments.jobs)
        case "fleet":
            from deploy.bench.fleet import bench_fleet, draw_fleet

            figures = bench_fleet(
                engines=arguments.engines or (1, 4, 16, 64),
                seconds=arguments.seconds,
                side=arguments.side,
                pictures=arguments.pictures,
            )
            if arguments.plot:
                draw_fleet(arguments.plot, figures)
            return figures
        case "train":
            return _measure_training(arguments)
        case "soak":
            from deploy.bench.soak import bench_soak

            return bench_soak(jobs=arguments.jobs)
        case _:
            from deploy.bench.halo import bench_halo

            return bench_halo(arguments.checkpoint, arguments.data, keep=arguments.keep)


def _measure_training(arguments: argparse.Namespace) -> object:
    from deploy.bench.train import bench_train
    from model.trainer.config_file import read_preset
    from model.trainer.errors import TrainingError

    try:
        config = read_preset(arguments.preset, arguments.overrides)
        return bench_train(config, rounds=arguments.rounds, steps=arguments.steps)
    except TrainingError as error:
        raise RuntimeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
