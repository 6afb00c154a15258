"""Takes a training step as one of several processes, and saves the gradients."""

import sys
from pathlib import Path

import torch

from model.trainer.config_file import read_config
from model.trainer.data.batches import Batches
from model.trainer.data.photographs import find_photographs, keep_photographs
from model.trainer.parallel import join, leave
from model.trainer.step.networks import build_networks, build_optimisers
from model.trainer.step.step import Step


def main(config_file: Path, out: Path) -> None:
    torch.set_num_threads(1)
    config = read_config(config_file)
    processes = join("cpu")
    networks = build_networks(config, processes.device)
    optimisers = build_optimisers(config, networks, processes.device)
    folder = Path(config.data.hr_dir)
    photographs, data = keep_photographs(
        find_photographs(folder), config.data, device=processes.device, file=out
    )
    batches = Batches(
        photographs,
        data,
        degradation=config.degradation,
        seed=config.run.seed,
        processes=processes,
    )
    terms = Step(config, networks, optimisers, processes)(batches.at(0))
    elapsed, reserve, stop = processes.agree(
        elapsed=1.0 + processes.rank, reserve=5.0 + processes.rank, stop=processes.rank == 1
    )
    if processes.first:
        parts = (networks.generator, networks.discriminator)
        gradients = [
            {name: each.grad for name, each in part.named_parameters()} for part in parts if part
        ]
        torch.save(
            {"gradients": gradients, "terms": dict(terms), "agreed": (elapsed, reserve, stop)}, out
        )
    leave(together=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
