"""The number format of convolutions in training: bfloat16 where it is faster, else float32.

On CUDA bfloat16 is used as configured. A CPU uses it if it has bfloat16 instructions (avx512_bf16,
AMX) and a short trial shows that a convolution, forward and backward, takes at most three quarters
of its time in float32.
"""

import timeit
from functools import lru_cache

import torch

from model.blocks import conv3x3

_SHARE = 0.75
_TURNS = 3


def autocast(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """The autocast context for `device`."""
    enabled = wanted and takes_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def takes_bfloat16(device: torch.device) -> bool:
    """True if `device` trains in bfloat16 if configured."""
    return device.type == "cuda" or _cpu_is_faster_in_bfloat16()


@lru_cache(maxsize=1)
@torch.inference_mode(mode=False)
@torch.enable_grad()
def _cpu_is_faster_in_bfloat16() -> bool:
    """Time both formats once per process."""
    able = torch.cpu.get_capabilities()
    if not (able.get("avx512_bf16") or able.get("amx_bf16")):
        return False
    return _seconds(bfloat16=True) < _SHARE * _seconds(bfloat16=False)


def _seconds(*, bfloat16: bool) -> float:
    """Minimum time of a convolution of 64 features, forward and backward."""
    conv = conv3x3(64, 64)
    conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    features = torch.rand(4, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    features.requires_grad_()

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            conv(features).float().sum().backward()

    return min(timeit.repeat(run, number=1, repeat=1 + _TURNS)[1:])
