"""GDSR: guided dual networks for single-image super-resolution, by 4.

Two branches share a trunk. The low-frequency branch (lf) is fitted for fidelity; the
high-frequency branch (hf) is fitted for perceived detail and is guided by lf features.
A mask decides, per pixel and feature, which branch the fused image trusts.

Chen et al., IEEE Access 8 (2020), doi:10.1109/ACCESS.2020.2995175.

Shapes: N batch, C features, H x W low-resolution pixels. Images are RGB in [0, 1]; the outputs
are not clamped to it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from model.blocks import Branch, Trunk, conv3x3

SCALE = 4
Output = Literal["psnr", "fused", "gan"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
"""The images, from the most faithful to the crispest."""
Part = Output | Literal["mask"]
PARTS: tuple[Part, ...] = (*OUTPUTS, "mask")
"""All parts that can be requested: the images, and the fusion mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GDSRConfig:
    """The size of a GDSR network: channels, and the number of RRDBs in each trunk."""

    features: int
    growth: int
    shared: int
    guide: int
    lf: int
    hf_extract: int
    hf: int
    mask: int


PRESETS: Mapping[str, GDSRConfig] = {
    "paper": GDSRConfig(
        features=64, growth=32, shared=2, guide=10, lf=5, hf_extract=5, hf=10, mask=5
    ),
    "base": GDSRConfig(features=64, growth=32, shared=2, guide=3, lf=2, hf_extract=2, hf=3, mask=2),
    "lite": GDSRConfig(features=32, growth=16, shared=2, guide=2, lf=2, hf_extract=2, hf=2, mask=2),
}
"""`paper` is the published network; `base` and `lite` are smaller ones of the same design."""


class GDSROutput(NamedTuple):
    """The requested images, (N, 3, 4H, 4W) each; None for the others."""

    psnr: Tensor | None
    gan: Tensor | None
    fused: Tensor | None
    mask: Tensor | None = None
    """(N, 1, 4H, 4W), the mean over features, in [0, 1]: 0 is all of lf, 1 all of hf."""


class GDSR(nn.Module):
    """The generator: one low-resolution image in, up to three super-resolved ones out."""

    def __init__(self, config: GDSRConfig) -> None:
        super().__init__()
        self.config = config
        features = config.features
        trunk = partial(Trunk, features=features, growth=config.growth)
        branch = partial(Branch, features=features, growth=config.growth)
        self.first = conv3x3(3, features)
        self.shared = trunk(config.shared)
        self.guide = trunk(config.guide)
        self.lf = branch(config.lf)
        self.hf_extract = trunk(config.hf_extract)
        self.hf_merge = conv3x3(2 * features, features)
        self.hf = branch(config.hf)
        self.mask = branch(config.mask)
        self.lf_to_rgb = conv3x3(features, 3)
        self.hf_to_rgb = conv3x3(features, 3)
        self.fused_to_rgb = conv3x3(features, 3)

    def forward(self, lr: Tensor, outputs: Collection[Part] = OUTPUTS) -> GDSROutput:
        """Super-resolve a batch: (N, 3, H, W) -> (N, 3, 4H, 4W) for each of `outputs`.

        Only what these need is computed: `psnr` needs neither the hf branch nor the mask, `gan`
        needs neither the second part of the lf branch nor the mask.

        Raises:
            ValueError: `outputs` is empty or names something that is not an output.
        """
        if not outputs or not set(outputs) <= set(PARTS):
            raise ValueError(f"outputs are of {', '.join(PARTS)}; got {list(outputs)}")
        psnr = gan = fused = mean = None
        shared: Tensor = self.shared(self.first(lr))  # (N, C, H, W)
        guide: Tensor = self.guide(shared)  # (N, C, H, W)

        if "psnr" in outputs or "fused" in outputs:
            feat_lf: Tensor = self.lf(guide)  # (N, C, 4H, 4W)
        if "gan" in outputs or "fused" in outputs:
            guided = torch.cat((guide, self.hf_extract(shared)), dim=1)  # (N, 2C, H, W)
            feat_hf: Tensor = self.hf(self.hf_merge(guided))  # (N, C, 4H, 4W)

        if "psnr" in outputs:
            psnr = self.lf_to_rgb(feat_lf)  # (N, 3, 4H, 4W)
        if "gan" in outputs:
            gan = self.hf_to_rgb(feat_hf)  # (N, 3, 4H, 4W)
        if "fused" in outputs or "mask" in outputs:
            # As in the reference, the tail's LeakyReLU stays in front of the sigmoid.
            mask = torch.sigmoid(self.mask(shared))  # (N, C, 4H, 4W)
        if "fused" in outputs:
            fused = self.fused_to_rgb(torch.lerp(feat_lf, feat_hf, mask))  # (N, 3, 4H, 4W)
        if "mask" in outputs:
            # In half precision the mean would be rounded before its conversion to 256 levels.
            mean = mask.mean(dim=1, keepdim=True, dtype=torch.float32)  # (N, 1, 4H, 4W)
        return GDSROutput(psnr=psnr, gan=gan, fused=fused, mask=mean)
