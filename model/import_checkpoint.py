"""`gdsr-import`: convert weights of the reference implementation to a checkpoint."""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from model.trainer.errors import TrainingError

if TYPE_CHECKING:
    from model.gdsr import GDSR


_CROP, _CROPS = 32, 60  # pixels a side of a small picture, and how many


def main() -> int:
    """Read IN, write OUT; exit status 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="gdsr-import",
        description="Convert weights with the reference implementation's names to a checkpoint.",
        epilog="The network size is derived from the shapes of the tensors.",
    )
    parser.add_argument("--version", action="version", version=f"gdsr {version('gdsr')}")
    parser.add_argument(
        "source", metavar="IN", type=Path,
        help="a pickled state dict (read without running code), or a .safetensors file",
    )  # fmt: skip
    parser.add_argument("target", metavar="OUT", type=Path, help="the .safetensors file to write")
    parser.add_argument("--name", help="name of the checkpoint (default: OUT's stem)")
    parser.add_argument(
        "--licence", "--license", metavar="LICENCE", default="unknown",
        help="licence of the weights, an SPDX identifier (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--training", default="unknown", help="how they were trained (default: %(default)s)"
    )
    parser.add_argument(
        "--data", default="unknown", help="their training data (default: %(default)s)"
    )
    parser.add_argument(
        "--consistency", action="store_true",
        help="they were trained on plain bicubic: apply back-projection to results by default",
    )  # fmt: skip
    parser.add_argument(
        "--esrgan", metavar="PICTURES", type=Path,
        help=(
            "IN is an ESRGAN-class generator (.pth, .safetensors, ncnn pair): initialise a "
            "network from its blocks, fitted to it on crops of the photographs in this folder "
            "(default: IN is the reference implementation's)"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--preset", choices=("paper", "base"), default="paper",
        help="network size for initialisation from an ESRGAN-class generator (default: paper)",
    )  # fmt: skip
    options = parser.parse_args()

    # Imported late to keep --help and usage errors fast: torch takes seconds.
    import torch

    from model.checkpoint import (
        Card,
        CheckpointInvalid,
        build_generator,
        check_finite,
        save_checkpoint,
    )
    from model.files import check_writable
    from model.gdsr import PRESETS
    from model.reference import read_reference, translate

    card = Card(
        name=options.name or options.target.stem,
        training=options.training,
        data=options.data,
        scores={},
        licence=options.licence,
        consistency=options.consistency,
    )
    try:
        check_writable(options.target)  # before the fit, which takes minutes
        if options.esrgan:
            generator = _started(options.source, options.esrgan, options.preset)
        else:
            state = read_reference(options.source)
            config, translated = translate(state)
            generator = build_generator(config, translated)
            if all(tensor.dtype == torch.float16 for tensor in state.values()):
                generator = generator.half()  # nothing is lost, and the file is half as large
        check_finite(generator)
        save_checkpoint(options.target, generator, card)
    except (CheckpointInvalid, OSError, TrainingError) as failure:
        source = f"{options.source}: " if isinstance(failure, CheckpointInvalid) else ""
        print(f"gdsr-import: {source}{failure}", file=sys.stderr)
        return 1
    sizes = (name for name, preset in PRESETS.items() if preset == generator.config)
    print(f"{options.target}: {next(sizes, generator.config)}")
    return 0


def _started(source: Path, folder: Path, preset: str) -> "GDSR":
    """A network initialised from the blocks of an ESRGAN-class generator."""
    import numpy as np
    import torch

    from model.esrgan import load_esrgan
    from model.gdsr import PRESETS
    from model.resize import bicubic_down
    from model.trainer.data.photographs import find_photographs, usable_pictures
    from model.warm_start import warm_start

    teacher = load_esrgan(source)
    side, crops = 4 * _CROP, []
    random = np.random.default_rng(0)
    paths = random.permutation(np.array(find_photographs(folder), dtype=object))[:_CROPS]
    for picture in usable_pictures(paths, folder=folder, side=side):
        top, left = (int(random.integers(length - side + 1)) for length in picture.shape[:2])
        crop = torch.from_numpy(picture[top : top + side, left : left + side].copy())
        crops.append(bicubic_down(crop.permute(2, 0, 1)).float() / 255)
    return warm_start(teacher, PRESETS[preset], crops)


if __name__ == "__main__":
    sys.exit(main())
