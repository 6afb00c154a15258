"""Data parallelism with one or several processes, as started by `torchrun`.

Every process takes its part of the batch, and gradients are averaged after the backward pass, as in
DistributedDataParallel, but in one piece: a network of ten million parameters takes a millisecond
between GPUs, and a step that runs the discriminator four times needs no hooks.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.trainer.errors import ConfigInvalid

#: Timeouts of collective operations in a step, and while the first process validates or writes.
_TIMEOUT, _WAIT_TIMEOUT = timedelta(minutes=10), timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """The rank of this process, the size of its process group, and its device."""

    rank: int
    count: int
    device: torch.device
    waiting: "dist.ProcessGroup | None" = None
    """Group for waiting while the first process works; None: there is one process."""

    @property
    def first(self) -> bool:
        """True if this is the process that writes files."""
        return self.rank == 0

    def part(self, batch: int) -> slice:
        """The indices of this process's patches in a batch."""
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        together = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(together, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes' values, differentiable for all of them."""
        mean = values.mean()
        if self.count == 1:
            return mean
        summed: Tensor = _Summed.apply(mean)  # type: ignore[no-untyped-call]
        return summed / self.count

    def average(self, values: Tensor) -> Tensor:
        """Average values over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def wait(self) -> None:
        if self.waiting is not None:
            dist.barrier(group=self.waiting)

    def agree(self, *, elapsed: float, reserve: float, stop: bool) -> tuple[float, float, bool]:
        """The first process's elapsed and reserved time, and whether any process has to stop."""
        if self.count == 1:
            return elapsed, reserve, stop
        totals = torch.tensor([elapsed, reserve, 0.0], device=self.device) * self.first
        totals[2] += float(stop)
        dist.all_reduce(totals)
        return float(totals[0]), float(totals[1]), bool(totals[2] > 0)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(_: object, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: object, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone()
        dist.all_reduce(summed)
        return summed


def is_process_lost(error: Exception) -> bool:
    """True if a collective operation failed, as another process has ended or hangs."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def join(device: str, *, timeout: timedelta = _TIMEOUT) -> Processes:
    """Join the process group described by the environment.

    A collective operation in a step fails after `timeout`; `Processes.wait` waits longer.

    Raises:
        ConfigInvalid: CUDA is configured but not available, or this process has no device.
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise ConfigInvalid("device.name is 'cuda', and there is no CUDA device")
    if cuda and device != "cpu":
        if local_rank >= (devices := torch.cuda.device_count()):
            raise ConfigInvalid(
                f"{devices} CUDA devices are too few: start as many processes (--nproc-per-node), "
                "or set device.name=cpu"
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    else:
        chosen = torch.device("cpu")
    if count > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timeout)
    # A process that dies is still noticed at once: its connections close.
    waiting = dist.new_group(backend="gloo", timeout=_WAIT_TIMEOUT) if count > 1 else None
    return Processes(rank=rank, count=count, device=chosen, waiting=waiting)


def leave(*, together: bool) -> None:
    """Destroy the process group, if there is one.

    After success all processes leave `together`: a process that closed earlier would fail one that
    still waits. After a failure a process does not wait.
    """
    if dist.is_initialized():
        if together:
            dist.barrier()
        dist.destroy_process_group()
