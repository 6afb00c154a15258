"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas et al., ICLR 2025, arXiv:2409.11321. Small batches of patches give noisy gradients; SOAP
tolerates several times the learning rate of Adam with them.

Shapes: O output channels of a convolution, I weights of each of them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_DECAY = 0.95  # of the covariances
_EVERY = 20  # steps between two updates of the bases
_MAX_SIDE = 1024  # a longer side has no basis of its own, which would cost more than it gains
_EPSILON = 1e-8


class SOAP(torch.optim.Optimizer):
    """Weights of convolutions are taken as matrices (O, I), biases as one row.

    The first step only initialises the bases. They are updated by one power iteration.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, lr: float, betas: tuple[float, float]
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # a closure is of no use here
        """Update the parameters from their gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, self.state[parameter], group["lr"], group["betas"])


def _update(
    parameter: Tensor, state: dict[str, Any], rate: float, betas: tuple[float, float]
) -> None:
    gradient: Tensor = parameter.grad  # type: ignore[assignment]  # checked by the caller
    gradient = gradient.reshape(len(gradient) if gradient.ndim > 1 else 1, -1)  # (O, I)
    covariances = {"left": gradient @ gradient.mT} if len(gradient) > 1 else {}
    if len(gradient) > 1 and gradient.shape[1] <= _MAX_SIDE:
        covariances["right"] = gradient.mT @ gradient
    if not state:
        state |= {"taken": 0, **{name: torch.zeros_like(gradient) for name in ("mean", "square")}}
        for side, covariance in covariances.items():
            state[side] = covariance
            state[f"{side}_basis"] = torch.linalg.eigh(covariance)[1].flip(1)
        return

    # Adam on the rotated gradient.
    state["taken"] += 1
    mean, square = state["mean"], state["square"]
    mean.lerp_(gradient, 1 - betas[0])
    square.lerp_(_rotated(gradient, state).square(), 1 - betas[1])
    corrected = (square / (1 - betas[1] ** state["taken"])).sqrt_().add_(_EPSILON)
    step = _rotated(mean, state).div_(1 - betas[0] ** state["taken"]).div_(corrected)
    if "left_basis" in state:
        step = state["left_basis"] @ step
    if "right_basis" in state:
        step = step @ state["right_basis"].mT
    parameter.sub_(rate * step.reshape(parameter.shape))

    for side, covariance in covariances.items():
        state[side].lerp_(covariance, 1 - _DECAY)
        if state["taken"] % _EVERY == 0:
            basis = state[f"{side}_basis"]
            order = (basis.mT @ state[side] @ basis).diagonal().argsort(descending=True)
            state["square"] = state["square"].index_select(int(side == "right"), order)
            state[f"{side}_basis"] = torch.linalg.qr(state[side] @ basis[:, order])[0]


def _rotated(matrix: Tensor, state: dict[str, Any]) -> Tensor:
    """A copy of (O, I) in the bases of `state`."""
    if "left_basis" in state:
        matrix = state["left_basis"].mT @ matrix
    if "right_basis" in state:
        matrix = matrix @ state["right_basis"]
    return matrix.clone()
