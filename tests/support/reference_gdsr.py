"""A plain second implementation of GDSR's formulas, on tensors with the reference's names."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]

#: Features, growth, and the lengths of the trunks e, l1, l2, h1, h2, m.
PRESET_SIZES = {
    "paper": (64, 32, (2, 10, 5, 5, 10, 5)),
    "base": (64, 32, (2, 3, 2, 2, 3, 2)),
    "lite": (32, 16, (2, 2, 2, 2, 2, 2)),
}
_TRUNKS = ("body_ex.1", "body_l1", "body_l2", "body_h1", "body_h2", "body_m")


def random_state(
    features: int, growth: int, lengths: tuple[int, ...], *, index_single_blocks: bool = False
) -> dict[str, Tensor]:
    """Return random weights under the reference's names, whose outputs are of the order of 1."""
    random = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def convolution(name: str, inputs: int, outputs: int) -> None:
        scale = (0.4 / (9 * inputs)) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(outputs, inputs, 3, 3, generator=random)
        state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=random)

    convolution("body_ex.0", 3, features)
    convolution("concat.0", 2 * features, features)
    for trunk, length in zip(_TRUNKS, lengths, strict=True):
        for i in range(length):
            index = f".{i}" if length > 1 or index_single_blocks else ""
            for j in range(1, 4):
                for k in range(1, 6):
                    convolution(
                        f"{trunk}.sub{index}.RDB{j}.conv{k}.0",
                        features + (k - 1) * growth,
                        growth if k < 5 else features,
                    )
    for branch in "lhm":
        convolution(f"LR_conv_{'M' if branch == 'm' else branch}.0", features, features)
        for name in (f"upsampler_{branch}.1", f"upsampler_{branch}.4", f"HR_conv0_{branch}.0"):
            convolution(name, features, features)
        convolution(f"HR_conv1_{branch}.0", features, 3)
    return state


def plain_gdsr(state: State, lengths: tuple[int, ...], lr: Tensor) -> dict[str, Tensor]:
    """Compute all three outputs: (N, 3, H, W) -> (N, 3, 4H, 4W) each."""
    e, l1, l2, h1, h2, m = lengths
    shared = _trunk(state, "body_ex.1", e, _conv(state, "body_ex.0", lr))
    guide = _trunk(state, "body_l1", l1, shared)
    feat_lf = _tail(state, "l", _trunk(state, "body_l2", l2, guide))
    both = torch.cat((guide, _trunk(state, "body_h1", h1, shared)), dim=1)
    feat_hf = _tail(state, "h", _trunk(state, "body_h2", h2, _conv(state, "concat.0", both)))
    mask = torch.sigmoid(_tail(state, "m", _trunk(state, "body_m", m, shared)))
    return {
        "psnr": _conv(state, "HR_conv1_l.0", feat_lf),
        "gan": _conv(state, "HR_conv1_h.0", feat_hf),
        "fused": _conv(state, "HR_conv1_m.0", mask * feat_hf + (1 - mask) * feat_lf),
    }


def _conv(state: State, name: str, x: Tensor) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)


def _active(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.2 * x, x)


def _trunk(state: State, name: str, length: int, x: Tensor) -> Tensor:
    y = x
    for i in range(length):
        index = f"{name}.sub.{i}" if length > 1 else f"{name}.sub"
        z = y
        for j in range(1, 4):
            z = _rdb(state, f"{index}.RDB{j}", z)
        y = 0.2 * z + y
    return x + y


def _rdb(state: State, name: str, x: Tensor) -> Tensor:
    seen = [x]
    for k in range(1, 5):
        seen.append(_active(_conv(state, f"{name}.conv{k}.0", torch.cat(seen, dim=1))))
    return 0.2 * _conv(state, f"{name}.conv5.0", torch.cat(seen, dim=1)) + x


def _tail(state: State, branch: str, x: Tensor) -> Tensor:
    x = _conv(state, f"LR_conv_{'M' if branch == 'm' else branch}.0", x)
    for index in (1, 4):
        larger = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = _active(_conv(state, f"upsampler_{branch}.{index}", larger))
    return _active(_conv(state, f"HR_conv0_{branch}.0", x))
