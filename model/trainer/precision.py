"""Which number format convolutions are trained in: bfloat16 where it is faster, else float32.

On CUDA bfloat16 is taken as configured. A CPU takes it if it multiplies bfloat16 itself
(avx512_bf16, AMX) and a short trial shows that a convolution, forward and backward, takes at most
three quarters of the time that float32 takes.
"""

import time
from functools import lru_cache

import torch

from model.blocks import conv3x3

_SHARE = 0.75
_TURNS = 3


def autocast(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """The context in which networks run on `device`."""
    enabled = wanted and takes_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def takes_bfloat16(device: torch.device) -> bool:
    """Whether `device` trains in bfloat16 when that is wanted."""
    return device.type == "cuda" or _cpu_is_faster_in_bfloat16()


@lru_cache(maxsize=1)
@torch.inference_mode(mode=False)
@torch.enable_grad()
def _cpu_is_faster_in_bfloat16() -> bool:
    """Try both formats once in this process."""
    able = torch.cpu.get_capabilities()
    if not (able.get("avx512_bf16") or able.get("amx_bf16")):
        return False
    return _seconds(bfloat16=True) < _SHARE * _seconds(bfloat16=False)


def _seconds(*, bfloat16: bool) -> float:
    """The shortest of some turns of a convolution of 64 features, forward and backward."""
    conv = conv3x3(64, 64)
    conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    features = torch.rand(4, 64, 64, 64).contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    turns = []
    for _ in range(1 + _TURNS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            conv(features).float().sum().backward()
        turns.append(time.perf_counter() - start)
    return min(turns[1:])
