"""Weights of the reference implementation: names, and detection of the network size.

The reference stores a plain state dict, sometimes with the prefix `module.` (saved from
DataParallel), and omits the index if a trunk has a single RRDB.
"""

import pickle
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import CheckpointInvalid, read_tensors
from model.gdsr import GDSRConfig

_TRUNKS = {
    "body_ex.1": "shared",
    "body_l1": "guide",
    "body_l2": "lf.trunk",
    "body_h1": "hf_extract",
    "body_h2": "hf.trunk",
    "body_m": "mask.trunk",
}
_CONVOLUTIONS = {
    "body_ex.0": "first",
    "concat.0": "hf_merge",
    "LR_conv_l.0": "lf.tail.lr",
    "LR_conv_h.0": "hf.tail.lr",
    "LR_conv_M.0": "mask.tail.lr",
    "upsampler_l.1": "lf.tail.up1.conv",
    "upsampler_h.1": "hf.tail.up1.conv",
    "upsampler_m.1": "mask.tail.up1.conv",
    "upsampler_l.4": "lf.tail.up2.conv",
    "upsampler_h.4": "hf.tail.up2.conv",
    "upsampler_m.4": "mask.tail.up2.conv",
    "HR_conv0_l.0": "lf.tail.hr",
    "HR_conv0_h.0": "hf.tail.hr",
    "HR_conv0_m.0": "mask.tail.hr",
    "HR_conv1_l.0": "lf_to_rgb",
    "HR_conv1_h.0": "hf_to_rgb",
    "HR_conv1_m.0": "fused_to_rgb",
}
_IN_TRUNK = re.compile(
    r"(?P<trunk>.+)\.sub(\.(?P<rrdb>\d{1,4}))?\.RDB(?P<rdb>[1-3])\.conv(?P<conv>[1-5])\.0"
)
# All exceptions that the unpickler was seen to raise on damaged files: it does not validate them.
UNREADABLE_PICKLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


def read_reference(path: Path, *, wrapped: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict in a published file, safetensors or pickled, with its original names.

    A pickle is read with `weights_only`, which allows only tensors and plain containers, no code.
    The state dict is the file's object itself or the first of the entries `wrapped` that exists.

    Raises:
        CheckpointInvalid: the file is neither, or contains something other than named tensors.
        OSError: the file cannot be read.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE_PICKLE as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointInvalid(f"this is not a pickle of weights alone: {reason}") from None
    if isinstance(state, dict):
        state = next((state[name] for name in wrapped if name in state), state)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise CheckpointInvalid("the pickle holds something else than named tensors")
    return state


def translate(state: Mapping[str, Tensor]) -> tuple[GDSRConfig, dict[str, Tensor]]:
    """The configuration derived from the shapes, and the tensors with the names of `model.gdsr`.

    Completeness is checked when the generator is built.

    Raises:
        CheckpointInvalid: a name is not one of the reference's, or the size is unclear.
    """
    translated = {_translate(name): tensor for name, tensor in state.items()}
    if len(translated) < len(state):
        raise CheckpointInvalid("some tensors occur twice, with and without the prefix `module.`")
    return _deduce(translated), translated


def _translate(name: str) -> str:
    part, _, kind = name.removeprefix("module.").rpartition(".")
    ours = _CONVOLUTIONS.get(part)
    if ours is None and (match := _IN_TRUNK.fullmatch(part)) and match["trunk"] in _TRUNKS:
        rdb, conv = int(match["rdb"]) - 1, int(match["conv"])
        last = "merge" if conv == 5 else f"grow.{conv - 1}"
        ours = f"{_TRUNKS[match['trunk']]}.blocks.{int(match['rrdb'] or 0)}.blocks.{rdb}.{last}"
    if ours is None or kind not in {"weight", "bias"}:
        raise CheckpointInvalid(f"tensor {name} is not part of the reference network")
    return f"{ours}.{kind}"


def _deduce(state: Mapping[str, Tensor]) -> GDSRConfig:
    def outputs(part: str) -> int:
        if f"{part}.bias" not in state:
            raise CheckpointInvalid(f"tensor {part}.bias is missing, which gives the size")
        return state[f"{part}.bias"].numel()

    def length(trunk: str) -> int:
        indices = [
            int(name.removeprefix(f"{trunk}.blocks.").partition(".")[0])
            for name in state
            if name.startswith(f"{trunk}.blocks.")
        ]
        return 1 + max(indices, default=0)

    return GDSRConfig(
        features=outputs("first"),
        growth=outputs("shared.blocks.0.blocks.0.grow.0"),
        shared=length("shared"),
        guide=length("guide"),
        lf=length("lf.trunk"),
        hf_extract=length("hf_extract"),
        hf=length("hf.trunk"),
        mask=length("mask.trunk"),
    )
