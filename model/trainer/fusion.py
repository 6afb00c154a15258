"""Fits the last convolution of `fused` by least squares.

`fused` is then the blend of `psnr` and `gan` by the mask, as closely as one convolution of the
fused features allows. The path from `psnr` through `fused` to `gan` is then straight, so the
difference to `psnr` grows along the whole slider. A freely trained convolution leaves that path.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.gdsr import GDSR, SCALE
from model.trainer.data.photographs import find_photographs, usable_pictures
from model.trainer.degradations.degradations import LIGHT_ALONE, shrink

_SIDE = 72  # of the small pictures
_MAX_PHOTOGRAPHS = 64
_SAMPLES = 6000  # output pixels of each photograph
_RIDGE = 1e-6  # towards the present weights, relative to the features' mean square


def fit_fusion(generator: GDSR, folder: Path) -> None:
    """Replace the weights of `fused_to_rgb`, fitted on up to 64 photographs under `folder`.

    Half of them are made smaller by bicubic, half by the light recipe.

    Raises:
        TrainingError: there is no such folder, or no photograph in it has 288 pixels a side.
    """
    random = torch.Generator().manual_seed(0)
    pictures = _small_pictures(folder, random)
    weight, bias = map(generator.get_parameter, ("fused_to_rgb.weight", "fused_to_rgb.bias"))
    seen: list[Tensor] = []
    hook = generator.fused_to_rgb.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    size = weight[0].numel() + 1
    present = torch.cat((weight.flatten(1).T, bias[None])).double()
    squares = torch.zeros(size, size, dtype=torch.float64)
    products = torch.zeros(size, 3, dtype=torch.float64)
    with torch.no_grad():
        for small in pictures:
            out = generator(small[None] / 255, ("psnr", "fused", "gan", "mask"))
            blended = torch.lerp(out.psnr, out.gan, out.mask)[0].flatten(1).T
            features = F.unfold(seen.pop(), 3, padding=1)[0].T
            chosen = torch.randperm(len(features), generator=random)[:_SAMPLES]
            rows = F.pad(features[chosen], (0, 1), value=1).double()
            squares += rows.T @ rows
            products += rows.T @ blended[chosen].double()
        hook.remove()
        ridge = _RIDGE * squares.diagonal().mean()
        found = torch.linalg.solve(squares + ridge * torch.eye(size), products + ridge * present)
        weight.copy_(found[:-1].T.reshape(weight.shape))
        bias.copy_(found[-1])


def _small_pictures(folder: Path, random: torch.Generator) -> list[Tensor]:
    """(3, 72, 72) levels from the middle of photographs that are large enough."""
    found: list[Tensor] = []
    side = SCALE * _SIDE
    paths = find_photographs(folder)
    chosen = paths[:: max(1, len(paths) // _MAX_PHOTOGRAPHS)][:_MAX_PHOTOGRAPHS]
    for pixels in usable_pictures(chosen, folder=folder, side=side):
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        middle = np.ascontiguousarray(pixels[top : top + side, left : left + side])
        large = torch.from_numpy(middle).permute(2, 0, 1)[None]
        light = len(found) % 2 == 1
        found.append(shrink(large, LIGHT_ALONE if light else None, random)[0].float())
    return found
