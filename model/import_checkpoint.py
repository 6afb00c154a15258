"""`gdsr-import`: make a checkpoint of weights that the reference implementation trained."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.gdsr import GDSRConfig


def main() -> int:
    """Read IN, write OUT; exit status 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="gdsr-import",
        description="Make a checkpoint of weights under the reference implementation's names.",
        epilog="The size of the network is told from the shapes of the tensors.",
    )
    parser.add_argument(
        "source",
        metavar="IN",
        type=Path,
        help="a pickled state dict (read without running code), or a .safetensors file",
    )
    parser.add_argument("target", metavar="OUT", type=Path, help="the .safetensors file to write")
    parser.add_argument("--name", help="what the checkpoint is called (default: OUT's stem)")
    parser.add_argument("--license", default="unknown", help="of the weights, an SPDX identifier")
    parser.add_argument("--training", default="unknown", help="how they were trained")
    parser.add_argument("--data", default="unknown", help="on what they were trained")
    parser.add_argument(
        "--consistency", action="store_true",
        help="they were trained on plain bicubic: correct results until they reduce to the input",
    )  # fmt: skip
    options = parser.parse_args()

    # torch takes seconds to import: --help and usage errors come before it.
    import torch

    from model.checkpoint import Card, CheckpointInvalid, build_generator, save_checkpoint
    from model.reference import read_reference, translate

    card = Card(
        name=options.name or options.target.stem,
        training=options.training,
        data=options.data,
        scores={},
        licence=options.license,
        consistency=options.consistency,
    )
    try:
        state = read_reference(options.source)
        config, translated = translate(state)
        generator = build_generator(config, translated)
        if all(tensor.dtype == torch.float16 for tensor in state.values()):
            generator = generator.half()  # nothing is lost, and the file is half as large
        save_checkpoint(options.target, generator, card)
    except CheckpointInvalid as invalid:
        print(f"gdsr-import: {options.source}: {invalid}", file=sys.stderr)
        return 1
    except OSError as failure:  # names the file itself
        print(f"gdsr-import: {failure}", file=sys.stderr)
        return 1
    print(f"{options.target}: {_described(config)}")
    return 0


def _described(config: "GDSRConfig") -> str:
    from model.gdsr import PRESETS

    for name, preset in PRESETS.items():
        if preset == config:
            return name
    return str(config)


if __name__ == "__main__":
    sys.exit(main())
