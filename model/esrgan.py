"""The generator of ESRGAN and Real-ESRGAN (RRDBNet, by 4), and its published weights.

Used as a teacher (`model.trainer.data.teacher`) and for comparison (`gdsr-evaluate --peer`). Its
RRDBs are those of `model.blocks`. Weights are a state dict in a `.pth` or `.safetensors` file, with
the names of ESRGAN or of BasicSR, or a pair of ncnn files, `.param` and `.bin`.

Wang et al., "ESRGAN" (2018), arXiv:1809.00219; Wang et al., "Real-ESRGAN" (2021), arXiv:2107.10833.
The ncnn format: Tencent/ncnn, docs/developer-guide/operation-param-weight-table.md.

Shapes: N batch, C features, G growth, H x W low-resolution pixels. Images are RGB in [0, 1].
"""

import io
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import NEGATIVE_SLOPE, RRDB, Enlarge, conv3x3
from model.checkpoint import CheckpointInvalid, load_weights
from model.reference import read_reference

NOT_ESRGAN = "this is not an RRDB generator by 4 (ESRGAN, Real-ESRGAN x4plus)"
_NCNN_MAGIC = "7767517"
_FLOAT16, _FLOAT32 = 0x01306B47, 0
_NCNN_LAYERS = frozenset(
    {"Input", "Convolution", "Split", "Concat", "Eltwise", "BinaryOp", "Interp"}
)
_IN_RRDB = re.compile(
    r"(?:body|RRDB_trunk|model\.1\.sub)\.(?P<rrdb>\d{1,3})\.(?:rdb|RDB)(?P<rdb>[1-3])"
    r"\.conv(?P<conv>[1-5])(?:\.0)?"
)
_AFTER_TRUNK = re.compile(r"model\.1\.sub\.\d{1,3}")
_CONVOLUTIONS = {
    "conv_first": "first",
    "conv_body": "body",
    "conv_up1": "up1.conv",
    "conv_up2": "up2.conv",
    "conv_hr": "hr",
    "conv_last": "to_rgb",
    "trunk_conv": "body",
    "upconv1": "up1.conv",
    "upconv2": "up2.conv",
    "HRconv": "hr",
    "model.0": "first",
    "model.3": "up1.conv",
    "model.6": "up2.conv",
    "model.8": "hr",
    "model.10": "to_rgb",
}


class ESRGAN(nn.Module):
    """The generator; Real-ESRGAN x4plus has 23 RRDBs of 64 features and growth 32."""

    def __init__(self, *, features: int = 64, growth: int = 32, blocks: int = 23) -> None:
        super().__init__()
        self.first = conv3x3(3, features)
        self.trunk = nn.Sequential(*(RRDB(features=features, growth=growth) for _ in range(blocks)))
        self.body = conv3x3(features, features)
        self.up1 = Enlarge(features)
        self.up2 = Enlarge(features)
        self.hr = conv3x3(features, features)
        self.to_rgb = conv3x3(features, 3)

    def features(self, lr: Tensor) -> Tensor:
        """The features before upsampling: (N, 3, H, W) -> (N, C, H, W)."""
        first: Tensor = self.first(lr)
        deep: Tensor = self.body(self.trunk(first))
        return first + deep

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 4H, 4W), not clamped."""
        enlarged = self.up2(self.up1(self.features(lr)))  # (N, C, 4H, 4W)
        image: Tensor = self.to_rgb(F.leaky_relu_(self.hr(enlarged), NEGATIVE_SLOPE))
        return image


def load_esrgan(path: Path) -> ESRGAN:
    """Load weights; for an ncnn pair `path` is either file.

    Raises:
        CheckpointInvalid: the file is damaged or has another architecture.
        OSError: the file cannot be read.
    """
    if path.suffix in {".param", ".bin"}:
        state = _read_ncnn(path.with_suffix(".param"), path.with_suffix(".bin"))
    else:
        # BasicSR nests the state dict.
        state = _translated(read_reference(path, wrapped=("params_ema", "params")))
    return _built(state)


def _translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    translated = {}
    for original, tensor in state.items():
        name = original.removeprefix("module.")
        part, _, kind = name.rpartition(".")
        ours = _CONVOLUTIONS.get(part)
        if match := _IN_RRDB.fullmatch(part):
            last = "merge" if match["conv"] == "5" else f"grow.{int(match['conv']) - 1}"
            ours = f"trunk.{int(match['rrdb'])}.blocks.{int(match['rdb']) - 1}.{last}"
        elif _AFTER_TRUNK.fullmatch(part):
            ours = "body"
        if ours is None or kind not in {"weight", "bias"}:
            raise CheckpointInvalid(f"{NOT_ESRGAN}: tensor {name} is not part of one")
        translated[f"{ours}.{kind}"] = tensor
    return translated


def _read_ncnn(param: Path, weights: Path) -> dict[str, Tensor]:
    """The tensors of an ncnn pair, whose convolutions are stored in execution order."""
    convolutions = list(_ncnn_convolutions(param))
    blocks, rest = divmod(len(convolutions) - 6, 15)
    if rest or blocks < 1:
        raise CheckpointInvalid(f"{NOT_ESRGAN}: {param.name} has {len(convolutions)} convolutions")
    with torch.device("meta"):
        modules = ESRGAN(blocks=blocks).named_modules()  # in execution order too
    names = [name for name, module in modules if isinstance(module, nn.Conv2d)]

    stream = io.BytesIO(weights.read_bytes())

    def take(size: int, name: str) -> bytearray:
        taken = bytearray(stream.read(size))
        if len(taken) < size:
            raise CheckpointInvalid(f"{weights.name} ends within the weights of {name}")
        return taken

    state = {}
    for name, (outputs, count) in zip(names, convolutions, strict=True):
        if outputs < 1 or count < 1 or count % (9 * outputs):
            raise CheckpointInvalid(f"{NOT_ESRGAN}: {param.name} has a convolution that is not 3x3")
        (flag,) = struct.unpack("<I", take(4, name))
        if flag not in {_FLOAT16, _FLOAT32}:
            raise CheckpointInvalid(
                f"{weights.name}: the weights of {name} are of kind 0x{flag:08x}; float16 "
                "(0x01306b47) and float32 (0) are read"
            )
        dtype, size = (torch.float16, 2) if flag == _FLOAT16 else (torch.float32, 4)
        padded = torch.frombuffer(take(-(-size * count // 4) * 4, name), dtype=dtype)  # to 4 bytes
        state[f"{name}.weight"] = padded[:count].reshape(outputs, -1, 3, 3)
        state[f"{name}.bias"] = torch.frombuffer(take(4 * outputs, name), dtype=torch.float32)
    if surplus := stream.read():
        read = stream.tell() - len(surplus)
        raise CheckpointInvalid(
            f"{weights.name} has {stream.tell():,} bytes; {param.name} calls for {read:,}"
        )
    return state


def _ncnn_convolutions(param: Path) -> Iterator[tuple[int, int]]:
    """Number of outputs and of weights of each convolution in a `.param` file."""
    lines = param.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != _NCNN_MAGIC:
        raise CheckpointInvalid(f"{param.name} is not an ncnn .param file")
    for line in lines[2:]:
        kind, *words = line.split() or [""]
        if kind and kind not in _NCNN_LAYERS:
            raise CheckpointInvalid(f"{NOT_ESRGAN}: {param.name} has a layer {kind}")
        if kind == "Convolution":
            values = dict(word.split("=", 1) for word in words if "=" in word)
            try:
                yield int(values["0"]), int(values["6"])
            except (KeyError, ValueError):
                raise CheckpointInvalid(f"{param.name}: {line.strip()!r} is damaged") from None


def _built(state: Mapping[str, Tensor]) -> ESRGAN:
    """Build a generator with these weights, in float32, with the size given by their shapes."""
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("trunk.")}
    try:
        features = state["first.bias"].numel()
        growth = state["trunk.0.blocks.0.grow.0.bias"].numel()
    except KeyError as missing:
        raise CheckpointInvalid(f"{NOT_ESRGAN}: tensor {missing.args[0]} is missing") from None
    with torch.device("meta"):
        generator = ESRGAN(features=features, growth=growth, blocks=max(blocks) + 1)
    try:
        load_weights(generator, state)
    except CheckpointInvalid as invalid:
        raise CheckpointInvalid(f"{NOT_ESRGAN}: {invalid}") from None
    return generator.eval().requires_grad_(requires_grad=False)
