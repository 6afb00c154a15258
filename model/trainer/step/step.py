"""One training step: generator update, discriminator update, moving average.

Nothing waits for the device, so that the whole step can be captured in a CUDA graph. `Terms` are
named `loss_output` and weighted as configured; their sum is the generator's loss.

Shapes: N batch, S x S low-resolution pixels of a patch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.gdsr import SCALE, GDSROutput, Part
from model.postprocessing import back_projected
from model.resize import inner, mirrored
from model.trainer.config import Distill, TrainConfig, Weights
from model.trainer.data.batches import Batch
from model.trainer.losses import (
    adversarial_loss,
    colour_loss,
    discriminator_loss,
    frequency_loss,
    mask_loss,
    perceptual_loss,
    pixel_loss,
)
from model.trainer.parallel import Processes
from model.trainer.precision import autocast
from model.trainer.step.networks import Networks, Optimisers

Terms = Mapping[str, Tensor]
_EAGER_STEPS = 3  # before a step is captured


class Step:
    """A step on the networks of a run."""

    def __init__(
        self, config: TrainConfig, networks: Networks, optimisers: Optimisers, processes: Processes
    ) -> None:
        self.config = config
        self.networks = networks
        self.optimisers = optimisers
        self.processes = processes
        self._parameters = [p for p in networks.generator.parameters() if p.requires_grad]

    def __call__(self, batch: Batch) -> Terms:
        """Run the step; returns its loss terms, averaged over processes."""
        networks, optimisers = self.networks, self.optimisers

        # Update the generator against the fixed discriminator.
        optimisers.generator.zero_grad(set_to_none=True)
        if networks.discriminator is not None:
            networks.discriminator.requires_grad_(requires_grad=False)
        with self.autocast():
            images, hr = self.images(batch)
            teacher = batch.teacher
            if teacher is not None:
                teacher = inner(teacher, SCALE * self.config.losses.margin)
            terms = self.generator_losses(images, hr, teacher)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.processes.average_gradients(self._parameters)
        if self.config.optimiser.clip:
            nn.utils.clip_grad_norm_(self._parameters, self.config.optimiser.clip)
        optimisers.generator.step()

        # Update the discriminator, on the same images.
        if networks.discriminator is not None and optimisers.discriminator is not None:
            optimisers.discriminator.zero_grad(set_to_none=True)
            networks.discriminator.requires_grad_(requires_grad=True)
            with self.autocast():
                terms["discriminator"] = self.discriminator_loss(images, hr)
            terms["discriminator"].backward()  # type: ignore[no-untyped-call]
            self.processes.average_gradients(networks.discriminator.parameters())
            optimisers.discriminator.step()

        # Update the moving average.
        with torch.no_grad():
            torch._foreach_lerp_(
                list(networks.average.parameters()),
                list(networks.generator.parameters()),
                1 - self.config.optimiser.ema,
            )
        seen = self.processes.average(torch.stack([term.detach() for term in terms.values()]))
        return dict(zip(terms, seen.unbind(), strict=True))

    def autocast(self) -> torch.autocast:
        """Autocast context of convolutions; losses are in float32."""
        wanted = self.config.device.precision == "bfloat16"
        return autocast(self.processes.device, wanted=wanted)

    def images(self, batch: Batch) -> tuple[dict[Part, Tensor], Tensor]:
        """The images for the losses: weighted outputs, the mask if it has a loss of its own, and
        their target, (N, 3 or 1, 4S, 4S) or smaller.
        """
        losses, mirror = self.config.losses, self.config.data.mirror
        lr = mirrored(batch.lr, mirror)  # (N, 3, S + 2m, S + 2m)
        if self.config.device.channels_last:
            lr = lr.contiguous(memory_format=torch.channels_last)
        parts: tuple[Part, ...] = (*losses.outputs, *(("mask",) if losses.mask else ()))
        out: GDSROutput = self.networks.generator(lr, parts)
        images: dict[Part, Tensor] = {}
        for output in parts:
            image: Tensor = inner(getattr(out, output), SCALE * mirror)  # (N, 3 or 1, 4S, 4S)
            if losses.back_projection and output != "mask":
                image = back_projected(image, batch.lr)
            images[output] = inner(image, SCALE * losses.margin)
        return images, inner(batch.hr, SCALE * losses.margin)

    def generator_losses(
        self, images: Mapping[Part, Tensor], hr: Tensor, teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted terms, by name."""
        losses, networks = self.config.losses, self.networks
        terms: dict[str, Tensor] = {}

        def add(name: str, weights: Weights, loss: Callable[[Tensor], Tensor]) -> None:
            for output in weights.outputs:
                terms[f"{name}_{output}"] = weights.of(output) * loss(images[output])

        add("pixel", losses.pixel.weights, lambda image: pixel_loss(image, hr))
        if (distill := losses.distill) and teacher is not None:
            add("distill", distill.weights, partial(_distill_loss, distill, teacher))
        if losses.colour:
            add("colour", losses.colour.weights, lambda image: colour_loss(image, hr))
        if losses.mask:
            terms["mask"] = losses.mask.weight * mask_loss(images["mask"], hr)
        if losses.dists and (dists := networks.dists):
            like = teacher if losses.dists.target == "teacher" and teacher is not None else hr
            add(
                "dists", losses.dists.weights,
                lambda image: dists.between(image.float().clamp(0, 1), like).mean(),
            )  # fmt: skip
        if (perceptual := losses.perceptual) and (features := networks.features):
            weights = list(perceptual.taps.values())
            with torch.no_grad():
                target = features(hr if perceptual.target == "photograph" else teacher)
            add(
                "perceptual", perceptual.weights,
                lambda image: perceptual_loss(features(image), target, weights=weights),
            )  # fmt: skip
        if (adversarial := losses.adversarial) and (discriminator := networks.discriminator):
            game, mean = adversarial.game, self.processes.mean
            with torch.no_grad():
                real = discriminator(hr)
            add(
                "adversarial", adversarial.weights,
                lambda image: adversarial_loss(
                    real=real, fake=discriminator(image), game=game, mean=mean
                ),
            )  # fmt: skip
        return terms

    def discriminator_loss(self, images: Mapping[Part, Tensor], hr: Tensor) -> Tensor:
        """The discriminator's loss over the outputs with an adversarial weight."""
        adversarial, discriminator = self.config.losses.adversarial, self.networks.discriminator
        if adversarial is None or discriminator is None:
            return hr.new_zeros(())
        real = discriminator(hr)
        losses = [
            discriminator_loss(
                real=real,
                fake=discriminator(images[output].detach()),
                game=adversarial.game,
                mean=self.processes.mean,
            )
            for output in adversarial.weights.outputs
        ]
        return torch.stack(losses).mean()


class GraphedStep:
    """A step as one CUDA graph, for batches of one shape: a thousand kernels in one launch.

    The first training steps run eagerly, on a side stream: they trigger compilation and fill the
    allocator. Then a step is captured, which runs nothing, and replayed from then on.
    """

    def __init__(self, step: Callable[[Batch], Terms]) -> None:
        self._step = step
        self._taken = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()
        self._batch: Batch | None = None
        self._terms: Terms = {}

    def __call__(self, batch: Batch) -> Terms:
        if self._taken < _EAGER_STEPS:
            self._taken += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                terms = self._step(batch)
            torch.cuda.current_stream().wait_stream(self._stream)
            return terms
        if self._batch is None:
            teacher = None if batch.teacher is None else batch.teacher.clone()
            self._batch = Batch(lr=batch.lr.clone(), hr=batch.hr.clone(), teacher=teacher)
            # Thread-local capture: the loader pins memory in its own thread.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._terms = self._step(self._batch)
        for kept, given in zip(self._batch, batch, strict=True):
            if kept is not None and given is not None:
                kept.copy_(given)
        self._graph.replay()
        return self._terms


def _distill_loss(distill: Distill, teacher: Tensor, image: Tensor) -> Tensor:
    loss = pixel_loss(image, teacher)
    if distill.frequency:
        loss = loss + distill.frequency * frequency_loss(image, teacher)
    return loss


class Entry(NamedTuple):
    """The loss terms of one step; `step` counts from 0."""

    step: int
    terms: dict[str, float]


class LossBuffer:
    """Loss terms in transit: at once on a CPU, one step late on CUDA, so the loop never waits."""

    def __init__(self) -> None:
        self._coming: tuple[int, Terms, Tensor, torch.cuda.Event] | None = None

    def put(self, step: int, terms: Terms) -> Entry | None:
        """Add a step; returns the latest one whose values have arrived."""
        before = self.flush()
        values = torch.stack(list(terms.values()))
        if not values.is_cuda:
            return _entry(step, terms, values)
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._coming = step, terms, pinned, arrived
        return before

    def flush(self) -> Entry | None:
        """Wait for and return the last step that was not returned yet."""
        if self._coming is None:
            return None
        step, terms, values, arrived = self._coming
        self._coming = None
        arrived.synchronize()
        return _entry(step, terms, values)


def _entry(step: int, terms: Terms, values: Tensor) -> Entry:
    return Entry(step, dict(zip(terms, values.tolist(), strict=True)))
