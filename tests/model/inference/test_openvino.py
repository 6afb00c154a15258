"""OpenVINO gives the pictures of torch, and is used only where it is correct and faster."""

import copy
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import TINY

from model.checkpoint import SHIPPED, load_checkpoint
from model.gdsr import GDSR
from model.inference import openvino
from model.inference.forward import Forward, _cpu_has_bfloat16, _picture, measure, prepare
from model.inference.trial import seconds_of_each

pytest.importorskip("openvino")

CPU = torch.device("cpu")
KEPT = np.eye(4, dtype=np.float32)[None]  # every output and the mask of one tile


@pytest.fixture(scope="module")
def lite() -> GDSR:
    return load_checkpoint(SHIPPED / "lite.safetensors").generator


@pytest.fixture
def tiny() -> GDSR:
    torch.manual_seed(0)
    return GDSR(TINY)


@pytest.fixture(scope="module")
def by_torch(lite: GDSR) -> Forward:
    return Forward(lite, device=CPU, precision="float32")


@pytest.fixture(scope="module")
def by_openvino(lite: GDSR) -> Forward:
    forward = Forward(lite, device=CPU, precision="float32")
    forward.use_openvino()
    return forward


@pytest.mark.parametrize("side", [24, 40])  # one compiled network serves every size
@pytest.mark.parametrize(("kind", "most"), [(np.uint8, 1), (np.uint16, 4)])
def test_every_output_is_that_of_torch(
    by_torch: Forward,
    by_openvino: Forward,
    kind: type[np.unsignedinteger],
    most: int,
    side: int,
) -> None:
    tiles = _picture(side).repeat(2, axis=0).astype(kind) * kind(np.iinfo(kind).max // 255)
    weights = KEPT.repeat(2, axis=0)

    for consistent in (False, True):
        expected = by_torch(tiles, weights, consistent=consistent)
        found = by_openvino(tiles, weights, consistent=consistent)
        assert found.shape == expected.shape == (2, 4, 4 * side, 4 * side, 3)
        assert found.dtype == kind
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= most


def test_bfloat16_is_as_close_to_float32_as_the_self_test_demands(
    lite: GDSR, by_torch: Forward
) -> None:
    if not _cpu_has_bfloat16():
        pytest.skip("this CPU has no instructions for bfloat16")
    quick = Forward(lite, device=CPU, precision="bfloat16")
    quick.use_openvino()

    error = quick(_picture(40), KEPT).astype(float) - by_torch(_picture(40), KEPT)

    decibels = 10 * np.log10(255**2 / np.square(error).mean(axis=(0, 2, 3, 4)))
    assert (decibels >= 50).all(), decibels


def test_the_faster_library_serves_and_the_times_are_kept(tiny: GDSR, tmp_path: Path) -> None:
    found, again = (
        prepare(tiny, device="cpu", precision="float32", tile=32, backend=None, cache=tmp_path)
        for _ in range(2)
    )

    times = found.seconds_by_backend
    assert again.seconds_by_backend == times
    assert (found.backend == "openvino") == (times["openvino"] < 0.95 * times["torch"])
    assert [path.name[:6] for path in tmp_path.iterdir()] == ["trial-"]


def test_compiling_does_not_count_as_computing(tiny: GDSR, monkeypatch: pytest.MonkeyPatch) -> None:
    by_openvino = prepare(tiny, device="cpu", precision="float32", tile=32, backend="openvino")
    clock, seen, core = itertools.count(), [], openvino._core()

    class Core:
        def compile_model(self, *given: Any) -> Any:
            seen.append(next(clock))
            return core.compile_model(*given)

    monkeypatch.setattr(openvino, "_core", Core)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    speed = measure(by_openvino, tile=32)

    assert len(seen) == 3
    assert set(speed.values()) == {32**2}  # nothing else looked at the clock


def test_a_spoilt_file_of_times_is_measured_again(tmp_path: Path) -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    seconds_of_each(ways, about="x", folder=tmp_path)
    next(tmp_path.iterdir()).write_text("{")
    calls.clear()

    assert set(seconds_of_each(ways, about="x", folder=tmp_path)) == {"a", "b"}
    assert set(calls) == {"a", "b"}


def test_a_network_that_it_spoils_stays_with_torch(
    tiny: GDSR, caplog: pytest.LogCaptureFixture
) -> None:
    fragile = copy.deepcopy(tiny)
    with torch.no_grad():
        # The function is the same except at the border: the last bias cancels the large one.
        fragile.lf.tail.hr.bias += 1000
        fragile.lf_to_rgb.bias -= 1000 * fragile.lf_to_rgb.weight.sum(dim=(1, 2, 3))

    forward = prepare(fragile, device="cpu", precision="bfloat16", tile=16, backend="openvino")

    assert forward.backend == "torch"
    assert "OpenVINO gives wrong results in bfloat16" in caplog.text


#: In a process of its own, which the signal may end.
_TWO_NETWORKS = """
import os, signal, sys
from model.process import prepare_process
prepare_process(1)
import torch
sys.path[:0] = ["tests/support"]
from networks import TINY
from model.blocks import fold_tails
from model.gdsr import GDSR
from model.inference.openvino import OpenVINOGDSR

signal.signal(signal.SIGTERM, lambda *_: print("in order", flush=True))
generator = GDSR(TINY).eval()
fold_tails(generator)
generator.requires_grad_(False)
networks = [OpenVINOGDSR(generator, precision="float32") for _ in range(2)]
for network in networks:
    network(torch.zeros(1, 3, 16, 16), ["psnr"])
del network
while networks:
    del networks[0]  # the older one first, as a reload does
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_whose_networks_are_gone_still_handles_signals() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _TWO_NETWORKS], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout) == (0, "in order\n"), ended.stderr


#: Needs its own process: it limits the memory and checks what is imported.
_ALONE = """
import resource, sys
from pathlib import Path
from model.process import prepare_process
prepare_process(2)
import numpy as np, torch
sys.path[:0] = ["tests/support"]
from networks import TINY
from model.gdsr import GDSR, PARTS
from model.inference.forward import _picture, prepare
from workers.contract.errors import EngineOutOfMemory
from workers.engine.out_of_memory import OutOfMemoryFallback

torch.manual_seed(0)
generator, how = GDSR(TINY), {"device": "cpu", "precision": "float32", "tile": 64}
forward = prepare(generator, backend="openvino", **how)
weights = np.array([[[part == "fused" for part in PARTS]]], np.float32)
unlimited = resource.getrlimit(resource.RLIMIT_AS)
cut = None
for room in range(20, 400, 20):  # as little memory as some tile fits in, on any processor
    fallback = OutOfMemoryFallback(batch=1, tile=256, release=forward.release)
    forward.release()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room * 2**20, unlimited[1]))
    try:
        cut = fallback.run(forward, _picture(256), weights)
        break
    except EngineOutOfMemory:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
same = OutOfMemoryFallback(batch=1, tile=fallback.tile)
by_torch = same.run(prepare(generator, **how), _picture(256), weights)
apart = np.abs(cut.astype(int) - by_torch.astype(int)).max()
telemetry = sys.modules["openvino_telemetry"]
print(forward.backend, fallback.retries > 0, apart <= 1, telemetry)
"""


@pytest.mark.slow
def test_without_memory_it_goes_on_with_smaller_tiles_and_it_writes_and_sends_nothing(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    said = subprocess.run(
        [sys.executable, "-c", _ALONE],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert said.stdout.split() == ["openvino", "True", "True", "None"], said.stderr
    assert not list(home.iterdir())
