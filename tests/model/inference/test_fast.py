"""The fast GPU paths keep the network's results; tests marked gpu need a GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from networks import TINY

from model.blocks import RRDB
from model.gdsr import GDSR, PARTS
from model.inference.cuda_graphs import Graphs, compile_blocks, download, upload
from model.inference.forward import Forward, _picture, prepare

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
FUSED = np.array([[[part == "fused" for part in PARTS]]], np.float32)


@pytest.fixture
def generator() -> GDSR:
    torch.manual_seed(0)
    return GDSR(TINY).eval()


#: Needs its own process: torch caches compilations and emits its own deprecation warnings.
_COMPILE = """
import sys, torch
sys.path[:0] = ["tests/support"]
from networks import TINY
from model.inference.cuda_graphs import compile_blocks
from model.gdsr import GDSR
torch.manual_seed(0)
generator = GDSR(TINY).eval().requires_grad_(False)
lr = torch.rand(1, 3, 16, 16)
with torch.inference_mode():
    before = generator(lr)
    print(compile_blocks(generator, torch.rand(1, 8, 16, 16)))
    after = generator(lr)
print(max(float((a - b).abs().max()) for a, b in zip(before[:3], after[:3])) < 1e-4)
"""


def compiled(**environment: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", _COMPILE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


@pytest.mark.slow
def test_a_missing_compiler_is_reported_and_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cache = tmp_path_factory.mktemp("cache")

    said, same = compiled(CXX="/nonexistent/compiler", TORCHINDUCTOR_CACHE_DIR=str(cache))

    assert "/nonexistent/compiler" in said
    assert same == "True"


def test_a_block_that_cannot_be_compiled_runs_as_before(
    generator: GDSR, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        before = generator(lr)

    def no_compiler(block: RRDB, **_: object) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("Failed to find C compiler.\nPlease specify CC")

        block._compiled_call_impl = fail

    monkeypatch.setattr(RRDB, "compile", no_compiler)

    assert compile_blocks(generator, torch.rand(1, 8, 16, 16)) == "Failed to find C compiler."
    with torch.inference_mode():
        after = generator(lr)
    assert torch.equal(before.fused, after.fused)


def test_copies_hold_what_was_copied() -> None:
    tensors = [torch.rand(2, 3), torch.tensor([True, False])]

    there = [upload(tensor, CPU) for tensor in tensors]
    back = download(there)()

    assert all(torch.equal(one, other) for one, other in zip(tensors, back, strict=True))


@pytest.mark.gpu
@gpu
def test_a_replayed_batch_is_the_batch(generator: GDSR) -> None:
    device = torch.device("cuda")
    forward = Forward(generator, device=device, precision="float32")
    graphs = Graphs(forward._ready)
    with torch.inference_mode():
        for seed in range(3):
            torch.manual_seed(seed)
            lr = torch.rand(2, 3, 32, 32, device=device) * 255
            expected = forward._ready(lr, ["fused"]).fused
            torch.testing.assert_close(graphs(lr, ["fused"]).fused, expected)
    assert len(graphs._recorded) == 1


@pytest.mark.gpu
@gpu
def test_batches_that_overlap_do_not_touch_each_other(generator: GDSR) -> None:
    forward = prepare(generator, device="cuda", precision=None, tile=64)
    picture = _picture(128)[0]
    batches = [picture[None, i : i + 64, i : i + 64].copy() for i in range(8)]

    pending = [forward.start(batch, FUSED) for batch in batches]
    results = [wait() for wait in pending]

    for batch, result in zip(batches, results, strict=True):
        assert np.array_equal(result, forward(batch, FUSED))


@pytest.mark.gpu
@gpu
def test_one_compilation_serves_all_blocks(generator: GDSR) -> None:
    torch._dynamo.reset()  # an earlier test may have compiled it
    torch._dynamo.utils.counters.clear()

    assert prepare(generator, device="cuda", precision=None, tile=64).compiled
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
