"""`gdsr-train`: train GDSR on a folder of photographs."""

import argparse
import os
import sys
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from model.memory import is_out_of_memory
from model.trainer.errors import ConfigInvalid, TrainingError, cause

_FAILED, _USAGE = 1, 2


def main() -> int:
    """The console script. Exit status 0; 1 with one line on stderr; 2 for wrong use or settings."""
    parser = _parser()
    options = parser.parse_args()

    # Imported late to keep --help and usage errors fast: torch takes seconds.
    from model.process import prepare_process

    prepare_process(None)

    from model.trainer.parallel import is_process_lost

    status = _FAILED
    try:
        options.run(options)
    except (TrainingError, OSError) as error:
        reason, status = cause(error), _USAGE if isinstance(error, ConfigInvalid) else _FAILED
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            reason = "out of memory: a smaller data.batch, data.patch or validation.crop needs less"
        elif is_process_lost(error):
            reason = "another process of this run ended or hangs; resume after its error is mended"
        else:
            raise
    except KeyboardInterrupt:
        reason = "interrupted: resuming continues from the last saved state, if there is one"
    else:
        return 0
    sys.stderr.write(f"gdsr-train: {reason}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gdsr-train",
        description="Train GDSR on a folder of photographs.",
        epilog="Several GPUs: torchrun --nproc-per-node N -m model.trainer fit ...",
    )
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    fit = commands.add_parser("fit", help="train, from a preset")
    fit.add_argument(
        "preset", metavar="PRESET", help="a .toml file, or the name of a shipped preset"
    )
    fit.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help=(
            "override a value, for example data.hr_dir=/photographs; may be repeated (default: as "
            "in PRESET)"
        ),
    )  # fmt: skip
    fit.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME-TIME)")
    fit.add_argument(
        "--minutes", type=minutes,
        help=(
            "time budget including annealing and the last validation (default: the run.minutes of "
            "PRESET)"
        ),
    )  # fmt: skip
    fit.set_defaults(run=_fit)

    resume = commands.add_parser("resume", help="resume a stopped run")
    resume.add_argument("out", metavar="RUN", type=Path)
    resume.add_argument(
        "--minutes", type=minutes, help="new time budget of the whole run (default: as before)"
    )
    resume.set_defaults(run=_resume)

    export = commands.add_parser("export", help="export a run's best weights as float16")
    export.add_argument("source", metavar="RUN", type=Path, help="a run, or a checkpoint")
    export.add_argument("target", metavar="OUT", type=Path, help="the .safetensors file to write")
    export.add_argument(
        "--scores", type=Path, metavar="REPORT",
        help=(
            "JSON report of gdsr-evaluate for OUT, which was exported before without this option "
            "(default: no scores)"
        ),
    )  # fmt: skip
    export.add_argument(
        "--fit-fusion", type=Path, metavar="PHOTOGRAPHS",
        help=(
            "fit the last convolution of fused, so that fused is the blend of psnr and gan by the "
            "mask (default: as trained)"
        ),
    )  # fmt: skip
    export.add_argument("--name", help="name of the checkpoint (default: OUT's stem)")
    export.add_argument(
        "--licence", "--license", metavar="LICENCE",
        help="licence of the weights, an SPDX identifier (default: as in RUN)",
    )  # fmt: skip
    export.set_defaults(run=_export)

    plot = commands.add_parser("plot", help="plot a run's curves")
    plot.add_argument("source", metavar="RUN", type=Path)
    plot.add_argument("--out", type=Path, help="the PNG to write (default: RUN/curves.png)")
    plot.set_defaults(run=_plot)
    return parser


def _fit(options: argparse.Namespace) -> None:
    from model.trainer.config_file import read_preset, with_absolute_paths
    from model.trainer.loop import train

    config = read_preset(options.preset, options.overrides)
    if not config.data.hr_dir:
        raise ConfigInvalid("a folder of photographs is required: --set data.hr_dir=DIR")
    if not options.out and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigInvalid("several processes need a common folder: set it with --out")
    if options.minutes:
        config = replace(config, run=replace(config.run, minutes=options.minutes))
    name = f"{config.run.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    # Absolute paths, so that the run can be resumed from any folder.
    train(with_absolute_paths(config), options.out or Path("runs") / name, resume=False)


def _resume(options: argparse.Namespace) -> None:
    from model.trainer.config_file import read_config
    from model.trainer.loop import train
    from model.trainer.run.run import CONFIG

    path = options.out / CONFIG
    if not path.is_file():
        raise TrainingError(f"{options.out} holds no run: there is no {CONFIG}")
    config = read_config(path)
    if options.minutes:
        config = replace(config, run=replace(config.run, minutes=options.minutes))
    train(config, options.out, resume=True)


def _export(options: argparse.Namespace) -> None:
    from model.trainer.run.export import export

    card = export(
        options.source,
        options.target,
        report=options.scores,
        name=options.name,
        licence=options.licence,
        photographs=options.fit_fusion,
    )
    scored = f"scores on {', '.join(card.scores)}" if card.scores else "no scores yet"
    sys.stdout.write(f"{options.target}: {card.name}, {card.training}; {scored}\n")


def _plot(options: argparse.Namespace) -> None:
    from model.trainer.run.log import plot

    target = options.out or options.source / "curves.png"
    plot(options.source, target)
    sys.stdout.write(f"{target}\n")


def minutes(text: str) -> float:
    """A time budget. argparse prints the name of this function if the text is not a number."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
