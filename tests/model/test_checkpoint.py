import hashlib
import json
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from full_disk import files_no_larger_than

from model.checkpoint import (
    SHIPPED,
    Card,
    CheckpointInvalid,
    load_checkpoint,
    read_header,
    replace_card,
    save_checkpoint,
)
from model.evaluate.folder import evaluate
from model.evaluate.methods import of_generator
from model.evaluate.pictures import find_pictures
from model.gdsr import GDSR, PRESETS, GDSRConfig
from model.metrics.perceptual import load_metrics

TINY = GDSRConfig(features=8, growth=4, shared=1, guide=1, lf=1, hf_extract=1, hf=1, mask=1)
CARD = Card(
    name="tiny",
    training="none",
    data="none",
    scores={"Set5": {"psnr": {"psnr_y": 31.25}}},
    licence="Apache-2.0",
)


@pytest.fixture
def generator() -> GDSR:
    torch.manual_seed(0)
    return GDSR(TINY)


@pytest.fixture
def path(tmp_path: Path, generator: GDSR) -> Path:
    save_checkpoint(tmp_path / "tiny.safetensors", generator, CARD)
    return tmp_path / "tiny.safetensors"


def rewrite(
    path: Path,
    *,
    metadata: dict[str, str | None] | None = None,
    tensors: dict[str, torch.Tensor | None] | None = None,
) -> None:
    """Change a checkpoint as a careless program might; None removes an entry."""
    with safetensors.safe_open(path, framework="pt") as file:
        was = file.metadata()
    state = {**safetensors.torch.load_file(path), **(tensors or {})}
    about = {**was, **(metadata or {})}
    safetensors.torch.save_file(
        {name: tensor for name, tensor in state.items() if tensor is not None},
        path,
        {name: text for name, text in about.items() if text is not None},
    )


def test_a_checkpoint_comes_back_bit_for_bit(path: Path, generator: GDSR) -> None:
    checkpoint = load_checkpoint(path)

    assert checkpoint.config == TINY
    assert checkpoint.card == CARD
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    state = checkpoint.generator.state_dict()
    assert all(torch.equal(state[name], was) for name, was in generator.state_dict().items())
    assert state.keys() == generator.state_dict().keys()


def test_half_precision_on_disk_is_single_precision_in_use(path: Path, generator: GDSR) -> None:
    save_checkpoint(path, generator.half(), CARD)

    state = load_checkpoint(path).generator.state_dict()

    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(
        torch.equal(state[name], was.float()) for name, was in generator.state_dict().items()
    )


def test_a_header_is_read_without_the_tensors(path: Path) -> None:
    header = read_header(path)

    assert (header.config, header.card) == (TINY, CARD)
    assert header.sha256 == load_checkpoint(path).sha256


def test_another_card_leaves_the_tensors_alone(path: Path, generator: GDSR) -> None:
    save_checkpoint(path, generator.half(), CARD)
    before = safetensors.torch.load_file(path)

    replace_card(path, replace(CARD, name="other"))

    after = safetensors.torch.load_file(path)
    assert load_checkpoint(path).card.name == "other"
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}


def test_a_card_that_says_nothing_of_consistency_is_without_it(path: Path) -> None:
    old = {name: value for name, value in asdict(CARD).items() if name != "consistency"}
    rewrite(path, metadata={"card": json.dumps(old)})

    assert read_header(path).card == CARD
    assert read_header(path).card.consistency is False


def test_the_shipped_checkpoints_for_clean_pictures_alone_are_consistent() -> None:
    for name, consistent in {
        "lite": True,
        "base": True,
        "lite-real": False,
        "paper-real": False,
    }.items():
        card = read_header(SHIPPED / f"{name}.safetensors").card
        assert card.consistency is consistent


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path: Path, generator: GDSR) -> None:
    before = path.read_bytes()

    with files_no_larger_than(100), pytest.raises(OSError, match="too large"):
        save_checkpoint(path, generator, CARD)

    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": None}, "does not say that it is a GDSR checkpoint; gdsr-import makes one"),
        ({"format": "other"}, "does not say that it is a GDSR checkpoint"),
        ({"format_version": "2"}, "the format version is 2; this program reads 1"),
        ({"format_version": None}, "the format version is None"),
        ({"scale": "2"}, "the scale is 2; this program's is 4"),
        ({"config": None}, "the metadata has no config"),
        ({"config": "{"}, "config: not JSON"),
        ({"config": "[" * 100_000}, "config: not JSON"),
        ({"card": json.dumps(asdict(CARD) | {"name": "\ud800"})}, "card: not JSON"),
        ({"config": "[]"}, "config: must have exactly features, growth, guide"),
        ({"config": '{"features": 8}'}, "config: must have exactly features, growth, guide"),
        ({"card": None}, "the metadata has no card"),
        (
            {"card": json.dumps(asdict(CARD) | {"consistency": "yes"})},
            "card: consistency is 'yes'; it must be true or false",
        ),
        ({"card": "{}"}, "card: must have exactly data, licence, name, scores, training"),
    ],
)
def test_wrong_metadata_is_named(path: Path, metadata: dict[str, str | None], message: str) -> None:
    rewrite(path, metadata=metadata)

    for read in (read_header, load_checkpoint):
        with pytest.raises(CheckpointInvalid, match=message):
            read(path)


@pytest.mark.parametrize("value", [0, -1, 1_000_000, 2.5, "8", True, None])
def test_a_size_that_no_network_has_is_named(path: Path, value: object) -> None:
    config = dict.fromkeys(GDSRConfig.__slots__, 1) | {"growth": value}
    rewrite(path, metadata={"config": json.dumps(config)})

    with pytest.raises(CheckpointInvalid, match=f"config: growth is {value!r}; it must be 1 to"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "scores",
    [
        [],
        {"Set5": 31},
        {"Set5": {"psnr": {"psnr_y": "high"}}},
        {"Set5": {"psnr": {"psnr_y": 10**400}}},
    ],
)
def test_scores_of_another_shape_are_named(path: Path, scores: object) -> None:
    card = {"name": "", "training": "", "data": "", "licence": "", "scores": scores}
    rewrite(path, metadata={"card": json.dumps(card)})

    with pytest.raises(CheckpointInvalid, match="card: scores are data set -> output"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"first.bias": None}, "tensor first.bias is missing"),
        ({"first.bias": None, "first.weight": None}, r"2 tensors \(first.bias, ...\) are missing"),
        ({"extra": torch.zeros(1)}, "tensor extra is not part of this network"),
        ({"first.bias": torch.zeros(9)}, r"first.bias has the shape \[9\]; .* calls for \[8\]"),
        ({"first.bias": torch.zeros(8, dtype=torch.int32)}, "first.bias is torch.int32"),
        ({"first.bias": torch.zeros(8, dtype=torch.float64)}, "first.bias is torch.float64"),
    ],
)
def test_wrong_tensors_are_named(
    path: Path, tensors: dict[str, torch.Tensor | None], message: str
) -> None:
    rewrite(path, tensors=tensors)

    with pytest.raises(CheckpointInvalid, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 7, 8, 100, 5_000, -1])
def test_a_truncated_file_is_named(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])

    for read in (read_header, load_checkpoint):
        with pytest.raises(CheckpointInvalid, match="this is not a whole safetensors file"):
            read(path)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path, generator: GDSR) -> None:
    path = tmp_path / "tiny.safetensors"
    torch.save(generator.state_dict(), path)

    with pytest.raises(CheckpointInvalid, match="this is not a whole safetensors file"):
        load_checkpoint(path)


def test_a_message_is_one_line(path: Path) -> None:
    path.write_bytes(b"\x10" + bytes(7) + b"{" * 100)

    with pytest.raises(CheckpointInvalid) as caught:
        load_checkpoint(path)

    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", ["lite", "base", "lite-real", "paper-real"])
def test_the_shipped_checkpoints_are_what_they_say(name: str) -> None:
    checkpoint = load_checkpoint(SHIPPED / f"{name}.safetensors")

    assert checkpoint.config == PRESETS[name.removesuffix("-real")]
    assert checkpoint.card.name == name
    licence = "BSD-3-Clause" if name == "paper-real" else "Apache-2.0"  # with a teacher's blocks
    assert checkpoint.card.licence == licence
    parameters = checkpoint.generator.parameters()
    assert all(parameter.isfinite().all() for parameter in parameters)
    page = (SHIPPED / f"{name}.md").read_text()
    for data, outputs in checkpoint.card.scores.items():
        for output, values in outputs.items():
            row = "| {} | {} | {psnr_y:.3f} | {ssim_y:.4f} | {rmse_y:.3f} |"
            assert row.format(data, output, **values) in page


@pytest.mark.parametrize(("name", "psnr"), [("lite", 31.2), ("base", 31.4)])
def test_the_shipped_checkpoints_score_what_their_cards_say(name: str, psnr: float) -> None:
    bench = os.environ.get("GDSR_BENCH_DIR")
    if not bench:
        pytest.skip("GDSR_BENCH_DIR does not name a folder with Set5")
    checkpoint = load_checkpoint(SHIPPED / f"{name}.safetensors")

    device = torch.device("cpu")
    scores = evaluate(
        partial(of_generator, generator=checkpoint.generator),
        find_pictures(Path(bench) / "Set5").read(device),
        load_metrics(None, device).metrics,
        trade_offs=(0, 0.5, 1),
    ).scores

    for output, values in checkpoint.card.scores["Set5"].items():
        assert scores[output]["psnr_y"] == pytest.approx(values["psnr_y"], abs=0.002)
        assert scores[output]["rmse_y"] == pytest.approx(values["rmse_y"], abs=0.002)
    assert scores["psnr"]["psnr_y"] == pytest.approx(psnr, abs=0.05)
