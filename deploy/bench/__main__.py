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
    train = kinds.add_parser("train", help="the training loop against a bare loop of its steps")
    train.add_argument("--preset", default="smoke")
    train.add_argument("--rounds", type=int, default=5)
    train.add_argument("--steps", type=int, default=50)
    train.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    for kind in (service, halo, train):
        kind.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    try:
        from model.process import prepare_process

        prepare_process(None)  # before torch is imported
        if arguments.kind == "service":
            from deploy.bench.service import bench_service

            figures: object = bench_service(model=arguments.model, runs=arguments.runs)
        elif arguments.kind == "train":
            from dataclasses import asdict

            from model.trainer.bench import bench_train
            from model.trainer.config_file import read_preset
            from model.trainer.faults import TrainingFault

            try:
                config = read_preset(arguments.preset, arguments.overrides)
                measured = bench_train(config, rounds=arguments.rounds, steps=arguments.steps)
            except TrainingFault as fault:
                raise RuntimeError(str(fault)) from None
            print(measured)
            figures = asdict(measured)
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
