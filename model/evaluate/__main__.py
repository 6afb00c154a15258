"""`gdsr-evaluate`: scores checkpoints, as a table, as JSON and as a plot.

The scores in a checkpoint's card come from this report and are never written by hand.
"""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path

from model.evaluate.pareto import position_of
from model.memory import is_out_of_memory
from model.trainer.errors import TrainingError

WEIGHTS_VARIABLE = "GDSR_METRIC_WEIGHTS"


def main() -> int:
    """The console script. Exit status 0; 1 with one line on stderr; 2 for wrong usage."""
    parser = _parser()
    options = parser.parse_args()
    if not options.data and not options.pairs:
        parser.error("nothing to evaluate: give --data DIR or --pairs LR_DIR HR_DIR")

    # Imported late to keep --help and usage errors fast: torch takes seconds.
    from model.process import prepare_process

    prepare_process(None)

    from model.evaluate.evaluation import run

    try:
        run(options)
    except (TrainingError, ValueError, OSError) as failure:
        reason = str(failure).strip().partition("\n")[0]
    except (RuntimeError, MemoryError) as failure:
        if not is_out_of_memory(failure):
            raise
        reason = "out of memory: a picture is too large for this device"
    except KeyboardInterrupt:
        return 1
    else:
        return 0
    sys.stderr.write(f"gdsr-evaluate: {reason}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gdsr-evaluate",
        description="Score checkpoints on folders of photographs.",
        epilog="psnr, fused and gan are always evaluated, and bicubic for comparison.",
    )
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", type=Path)
    parser.add_argument(
        "--data", metavar="DIR", type=Path, action="append", default=[],
        help="a folder of photographs, which are downscaled; may be repeated (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", metavar=("LR_DIR", "HR_DIR"), type=Path, nargs=2, action="append", default=[],
        help=(
            "a folder of small pictures, and one with the same pictures, by name, 4 times as "
            "large; may be repeated (default: none)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--peer", metavar="FILE", type=Path, action="append", default=[],
        help=(
            "ESRGAN or Real-ESRGAN x4plus weights to compare with; may be repeated (default: none)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--trade-off", metavar="X,...", type=_trade_offs, default=(),
        help="additional slider positions, 0 = psnr to 1 = gan (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--backprojection", action="store_true",
        help="apply back-projection to each output, so that it downscales to its input",
    )  # fmt: skip
    degraded = parser.add_mutually_exclusive_group()
    degraded.add_argument(
        "--jpeg", metavar="QUALITY", type=int, choices=range(1, 101),
        help="compress the small pictures of --data first, with this JPEG quality (default: not)",
    )  # fmt: skip
    degraded.add_argument(
        "--degrade", choices=("light",),
        help=(
            "make the small pictures of --data with the trainer's light recipe (slight blur, "
            "noise and JPEG), the same for every checkpoint (default: none)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--json", metavar="OUT", type=Path,
        help="write all scores to this JSON file (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--plot", metavar="OUT.png", type=Path,
        help="plot perception against RMSE-Y (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--metric-weights", metavar="DIR", type=Path,
        default=os.environ.get(WEIGHTS_VARIABLE) or None,
        help=f"folder with the weights of NIQE, LPIPS and DISTS (default: ${WEIGHTS_VARIABLE})",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("cpu", "cuda"),
        help="where to compute (default: cuda if available, else cpu)",
    )  # fmt: skip
    return parser


def _trade_offs(text: str) -> tuple[float, ...]:
    positions = []
    for part in text.split(","):
        try:
            position = position_of(part.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part} is neither a number nor a name") from None
        if not 0 <= position <= 1:
            raise argparse.ArgumentTypeError(f"{part} is outside 0 to 1")
        positions.append(position)
    return tuple(positions)


if __name__ == "__main__":
    sys.exit(main())
