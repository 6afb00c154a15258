"""SOAP, the optimiser."""

import torch
from torch import Tensor, nn

from model.trainer.step.soap import SOAP

STEPS = 200


def orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def uneven_rows() -> Tensor:
    """(5, 40), the last row a hundred times as large as the first."""
    return torch.randn(5, 40).double() * torch.logspace(-1, 1, 5).double()[:, None]


def fitted(
    rows: Tensor, target: Tensor, start: Tensor, kind: type[SOAP | torch.optim.Adam] = SOAP
) -> Tensor:
    """Weights after some steps that minimise the squared error of `weights @ rows`."""
    weights = nn.Parameter(start.clone())
    optimiser = kind([weights], lr=0.03, betas=(0.9, 0.99))
    for _ in range(STEPS):
        optimiser.zero_grad()
        (weights @ rows - target).square().mean().backward()
        optimiser.step()
    return weights.detach()


def test_a_rotated_problem_has_the_rotated_solution() -> None:
    """Adam depends on the coordinates of the weights, SOAP does not."""
    torch.manual_seed(0)
    rows, target, start = uneven_rows(), torch.randn(5, 40).double(), torch.randn(5, 5).double()
    left, right = orthogonal(5), orthogonal(5)

    plain = fitted(rows, target, start)
    rotated = fitted(right.mT @ rows, left @ target, left @ start @ right)

    torch.testing.assert_close(rotated, left @ plain @ right, rtol=1e-3, atol=1e-3)


def test_soap_converges_further_than_adam_on_uneven_directions() -> None:
    torch.manual_seed(0)
    rows, start = orthogonal(5) @ uneven_rows(), torch.randn(5, 5).double()
    target = torch.zeros(5, 40).double()

    errors = [
        (fitted(rows, target, start, kind) @ rows).square().mean().item()
        for kind in (SOAP, torch.optim.Adam)
    ]

    assert errors[0] < 0.01 * errors[1]


def test_weights_of_convolutions_biases_and_long_sides_learn() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(128, 3, 3, padding=1)  # 1,152 weights of each output
    images, target = torch.randn(2, 128, 8, 8), torch.randn(3, 1, 1).expand(2, 3, 8, 8)
    optimiser = SOAP(network.parameters(), lr=0.03, betas=(0.9, 0.99))
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = (network(images) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[-1] < 0.01 * losses[0]
    assert all(each.grad is not None for each in network.parameters())
