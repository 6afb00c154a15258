"""A GDSR generator that starts from the blocks of an ESRGAN-class one.

Both are chains of the same RRDBs, but GDSR adds the input of each trunk to its output. An RRDB is
nearly x -> 1.2 x, since it adds a fifth of its input to it, so these sums can be undone:

- `shared` takes the first RRDBs. Its output is nearly k times theirs, k = 1 + 1 / 1.2^n;
- `guide` takes those that follow. RRDBs are homogeneous, so with biases times k their outputs are
  k times as large;
- `hf_extract` and the mask's trunk only scale by a factor: their merging convolutions are zero;
- `hf_merge` subtracts the trunk's input from `guide` and divides by k;
- `hf` and `lf` each take evenly spaced RRDBs of the rest;
- tails and the last convolutions are the teacher's. The first convolution of a tail is fitted by
  least squares to the features that the teacher enlarges.

Shapes: C features, H x W low-resolution pixels. Images are RGB in [0, 1].
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import RRDB, Trunk
from model.checkpoint import CheckpointInvalid
from model.esrgan import ESRGAN
from model.gdsr import GDSR, GDSRConfig

_GAIN = 1.2  # gain of an RRDB whose blocks add nothing
_RIDGE = 1e-6


def warm_start(teacher: ESRGAN, config: GDSRConfig, pictures: Sequence[Tensor]) -> GDSR:
    """A generator of the size `config`, initialised from `teacher`; tails are fitted on `pictures`,
    (3, H, W) each.

    Raises:
        CheckpointInvalid: the teacher has other features or too few blocks.
    """
    blocks = [block for block in teacher.trunk if isinstance(block, RRDB)]
    first = config.shared + config.guide
    if teacher.first.out_channels != config.features or len(blocks) < first + config.hf:
        raise CheckpointInvalid(
            f"the teacher has {len(blocks)} RRDBs of {teacher.first.out_channels} features; "
            f"the network needs {first + config.hf} of {config.features}"
        )
    generator = GDSR(config).requires_grad_(requires_grad=False).eval()
    scale = 1 + _GAIN**-config.shared
    rest = blocks[first:]

    generator.first.load_state_dict(teacher.first.state_dict())
    _fill(generator.shared, blocks[: config.shared])
    _fill(generator.guide, blocks[config.shared : first], scale=scale)
    _fill(generator.hf.trunk, _spread(rest, config.hf))
    guided = scale * (1 + _GAIN**-config.guide)
    _fill(generator.lf.trunk, _spread(rest, config.lf), scale=guided)
    # Trunks that are x -> (1 + 1.2^n) x; their growing convolutions keep their random weights.
    for trunk in (generator.hf_extract, generator.mask.trunk):
        for name, parameter in trunk.named_parameters():
            if ".merge." in name:
                nn.init.zeros_(parameter)
    # `hf_merge` computes (guide - shared) / k.
    features, merge = config.features, generator.hf_merge
    _zero(merge)
    merge.weight[:, :features, 1, 1] = torch.eye(features) / scale
    extracted = 1 + _GAIN**config.hf_extract
    merge.weight[:, features:, 1, 1] = -torch.eye(features) / (scale * extracted)

    for branch in (generator.lf, generator.hf, generator.mask):
        for name in ("up1", "up2", "hr"):
            branch.tail.get_submodule(name).load_state_dict(getattr(teacher, name).state_dict())
    # Start with a uniform mask.
    _zero(generator.mask.tail.hr)
    for last in (generator.lf_to_rgb, generator.hf_to_rgb, generator.fused_to_rgb):
        last.load_state_dict(teacher.to_rgb.state_dict())
    _fit_tails(generator, teacher, pictures)
    return generator


def _fill(trunk: Trunk, blocks: Sequence[RRDB], *, scale: float = 1.0) -> None:
    for ours, theirs in zip(trunk.blocks, blocks, strict=True):
        ours.load_state_dict(theirs.state_dict())
        for name, parameter in ours.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(scale)


def _spread(blocks: Sequence[RRDB], count: int) -> list[RRDB]:
    """The last of `blocks` and others before it, evenly spaced."""
    step = len(blocks) / count
    return [blocks[int((index + 1) * step) - 1] for index in range(count)]


def _fit_tails(generator: GDSR, teacher: ESRGAN, pictures: Iterable[Tensor]) -> None:
    """Fit the first convolutions of all tails, by least squares over all pixels of `pictures`."""
    features = generator.config.features
    size = 9 * features + 1
    branches = (generator.lf, generator.hf, generator.mask)
    squares = torch.zeros(len(branches), size, size, dtype=torch.float64)
    products = torch.zeros(len(branches), size, features, dtype=torch.float64)
    with torch.inference_mode():
        for picture in pictures:
            lr = picture[None]
            wanted = teacher.features(lr)[0].flatten(1).T.double()  # (H W, C)
            shared = generator.shared(generator.first(lr))
            guide = generator.guide(shared)
            guided = torch.cat((guide, generator.hf_extract(shared)), dim=1)
            inputs = (guide, generator.hf_merge(guided), shared)
            for index, (branch, given) in enumerate(zip(branches, inputs, strict=True)):
                seen = F.unfold(branch.trunk(given), 3, padding=1)[0].T.double()  # (H W, 9 C)
                seen = torch.cat((seen, torch.ones(len(seen), 1, dtype=torch.float64)), dim=1)
                squares[index] += seen.T @ seen
                products[index] += seen.T @ wanted
    for index, branch in enumerate(branches):
        ridge = _RIDGE * squares[index].diagonal().mean() * torch.eye(size, dtype=torch.float64)
        found = torch.linalg.solve(squares[index] + ridge, products[index]).float()  # (9 C + 1, C)
        convolution = branch.tail.lr
        convolution.weight.copy_(found[:-1].T.reshape(features, features, 3, 3))
        convolution.get_parameter("bias").copy_(found[-1])


def _zero(convolution: nn.Conv2d) -> None:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
