import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import free_port

from model.trainer.config import TrainConfig
from model.trainer.config_file import write_config
from model.trainer.errors import ConfigInvalid
from model.trainer.parallel import join

Configure = Callable[..., TrainConfig]
SCRIPT = Path(__file__).with_name("gradients.py")


def together(script: Path, *arguments: str, count: int) -> None:
    """Run a script in `count` connected processes, to a good end."""
    for status, errors in ended_together(script, *arguments, count=count):
        assert status == 0, errors


def ended_together(script: Path, *arguments: str, count: int) -> list[tuple[int, str]]:
    """Run a script in `count` connected processes; their exit statuses and errors."""
    environment = {
        **os.environ,
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "PYTHONPATH": os.pathsep.join(["", *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=250)[1] for process in started]
    return [(process.returncode, said) for process, said in zip(started, errors, strict=True)]


def a_step_of(config: Path, out: Path, *, count: int) -> Any:
    """Return what the first of `count` processes saves after a common step."""
    together(SCRIPT, str(config), str(out), count=count)
    return torch.load(out, weights_only=True)


@pytest.mark.slow
def test_the_others_wait_for_the_first_longer_than_a_step_may_take(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import os, sys, time\n"
        "from datetime import timedelta\n"
        "from pathlib import Path\n"
        "from model.trainer.parallel import join, leave\n"
        "Path(sys.argv[1], os.environ['RANK']).touch()\n"
        "while len(os.listdir(sys.argv[1])) < 2:  # the other may take longer to import\n"
        "    time.sleep(0.01)\n"
        "processes = join('cpu', timeout=timedelta(seconds=20))\n"
        "if processes.first:\n"
        "    time.sleep(22)\n"
        "processes.wait()\n"
        "processes.agree(elapsed=0.0, reserve=0.0, stop=False)\n"
        "leave(together=True)\n"
    )
    (tmp_path / "imported").mkdir()
    together(script, str(tmp_path / "imported"), count=2)


@pytest.mark.slow
def test_a_process_whose_partner_is_killed_ends_with_one_line(
    configure: Configure, tmp_path: Path
) -> None:
    write_config(tmp_path / "config.json", configure("smoke", "run.steps=1000000"))
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from model.trainer import __main__ as command\n"
        "from model.trainer.run import run\n"
        "if os.environ['RANK'] == '1':\n"
        "    check = run.Run.checked\n"
        "    def killed(self, entry):\n"
        "        if entry and entry.step == 3:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return check(self, entry)\n"
        "    run.Run.checked = killed\n"
        "from model.trainer.config_file import read_config\n"
        "from model.trainer.loop import train\n"
        "command._fit = lambda options: train(\n"
        "    read_config(options.out.parent / 'config.json'), options.out, resume=False\n"
        ")\n"
        "sys.argv = ['gdsr-train', 'fit', 'smoke', '--out', sys.argv[1]]\n"
        "sys.exit(command.main())\n"
    )
    ended = ended_together(script, str(tmp_path / "run"), count=2)

    assert [status for status, _ in ended] == [1, -signal.SIGKILL]
    (line,) = [line for line in ended[0][1].splitlines() if not line.startswith("[W")]
    assert line.startswith("gdsr-train: another process of this run ended")


def test_more_processes_than_cuda_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")

    with pytest.raises(ConfigInvalid, match="1 CUDA devices are too few"):
        join("auto")


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(configure: Configure, tmp_path: Path) -> None:
    config = configure("smoke_adversarial", "data.batch=4")
    write_config(tmp_path / "config.json", config)

    runpy.run_path(str(SCRIPT))["main"](tmp_path / "config.json", tmp_path / "one.pt")
    alone = torch.load(tmp_path / "one.pt", weights_only=True)
    both = a_step_of(tmp_path / "config.json", tmp_path / "two.pt", count=2)

    for ours, theirs in zip(both["gradients"], alone["gradients"], strict=True):
        assert ours.keys() == theirs.keys()
        largest = max(float(gradient.abs().max()) for gradient in theirs.values())
        for name, gradient in theirs.items():
            assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=5e-4 * largest), name
    for name, value in alone["terms"].items():
        assert float(both["terms"][name]) == pytest.approx(float(value), rel=1e-4)
    assert both["agreed"] == (1.0, 5.0, True)  # times of the first; the second has to stop
    assert alone["agreed"] == (1.0, 5.0, False)
