import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from networks import tiny_checkpoint
from PIL import Image
from random_weights import random_alexnet
from torch import Tensor

from model.checkpoint import load_checkpoint, read_header, save_checkpoint
from model.esrgan import ESRGAN
from model.evaluate import __main__ as command
from model.evaluate import pareto
from model.evaluate.folder import evaluate, shown
from model.evaluate.methods import bicubic, of_generator
from model.evaluate.pareto import NAMED_POSITIONS, check_drawable, draw, name_of, position_of
from model.evaluate.pictures import find_pictures
from model.gdsr import OUTPUTS
from model.metrics.fidelity import mse_y, psnr_y
from model.metrics.perceptual import load_metrics
from model.postprocessing import postprocess
from model.resize import bicubic_down, bicubic_up, inner, mirrored
from model.trainer.errors import TrainingError
from model.trainer.run.export import read_scores
from model.trainer.validation import Pair

CPU = torch.device("cpu")
Run = Callable[..., int]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "Holidays"
    (folder / "more").mkdir(parents=True)
    painted(folder / "a.png", width=50, height=39)
    painted(folder / "more" / "b.png", width=44, height=64, seed=1)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["gdsr-evaluate", *map(str, arguments)])
        return command.main()

    monkeypatch.delenv(command.WEIGHTS_VARIABLE, raising=False)
    return run


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with random LPIPS weights, and no others."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    network, heads = random_alexnet(divisor=16)
    torch.save(network, folder / "alexnet-owt-7be5be79.pth")
    torch.save(heads, folder / "alex.pth")
    return folder


def tiny_peer(path: Path) -> Path:
    """Write a small random generator with the tensor names of Real-ESRGAN's files."""
    torch.manual_seed(0)
    names = {"first": "conv_first", "body": "conv_body", "up1.conv": "conv_up1"}
    names |= {"up2.conv": "conv_up2", "hr": "conv_hr", "to_rgb": "conv_last"}
    state = {}
    for name, tensor in ESRGAN(features=8, growth=4, blocks=1).state_dict().items():
        part, _, kind = name.rpartition(".")
        if part.startswith("trunk."):
            _, rrdb, _, rdb, _, *last = part.split(".")
            place = int(last[0]) + 1 if last else 5
            part = f"body.{rrdb}.rdb{int(rdb) + 1}.conv{place}"
        state[f"{names.get(part, part)}.{kind}"] = tensor
    if path.suffix == ".pth":
        torch.save({"params_ema": state}, path)
    else:
        safetensors.torch.save_file(state, path)
    return path


def painted(path: Path, *, width: int, height: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = 128 + 60 * np.sin(x / 5 + seed)[..., None] + 40 * np.cos(y / 7)[..., None]
    pixels = waves + random.normal(0, 8, (height, width, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def grey(level: int, *, side: int) -> Tensor:
    return torch.full((3, side, side), level, dtype=torch.uint8)


def small_picture(*, height: int = 9, width: int = 14) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)


def test_a_place_on_the_slider_has_the_name_of_the_output_there() -> None:
    assert [name_of(place) for place in (0, 0.25, 0.5, 0.9, 1)] == [
        "psnr",
        "0.25",
        "fused",
        "0.9",
        "gan",
    ]
    assert [position_of(name) for name in ("psnr", "0.25", "fused", "gan")] == [0, 0.25, 0.5, 1]
    assert set(NAMED_POSITIONS) == set(OUTPUTS)


def test_the_outputs_are_those_of_the_whole_picture_with_its_context(checkpoint: Path) -> None:
    generator, lr = load_checkpoint(checkpoint).generator, small_picture(height=18, width=20)

    with torch.inference_mode():
        images = shown(of_generator(lr, generator=generator), (0, 0.5, 1))
        context = mirrored(lr[None] / 255, 16)
        expected = generator(context)

    for output in OUTPUTS:
        levels = 255 * inner(postprocess(getattr(expected, output), context)[0], 64)
        assert images[output].shape == (3, 72, 80)
        assert (images[output] - levels).abs().max() < 0.51  # rounding


def test_between_two_outputs_is_their_blend_in_pixel_space(checkpoint: Path) -> None:
    generator = load_checkpoint(checkpoint).generator

    with torch.inference_mode():
        outputs = of_generator(small_picture(), generator=generator)
    images = {name: image.float() for name, image in shown(outputs, (0, 0.1, 0.5, 0.75, 1)).items()}

    for name, blend in {
        "0.1": 0.8 * images["psnr"] + 0.2 * images["fused"],
        "0.75": (images["fused"] + images["gan"]) / 2,
    }.items():
        assert (images[name] - blend).abs().max() <= 1  # each is rounded separately


def test_back_projection_makes_an_output_shrink_to_what_it_was_made_from(
    checkpoint: Path,
) -> None:
    generator, lr = load_checkpoint(checkpoint).generator, small_picture(height=30, width=30)
    lr = lr // 3 + 80  # so that nothing is clamped

    with torch.inference_mode():
        plain, projected = (
            shown(of_generator(lr, generator=generator, back_projection=on), (1,))["gan"]
            for on in (False, True)
        )

    def off(image: Tensor) -> float:
        return (bicubic_down(image).float() - lr.float()).abs().mean().item()

    assert off(projected) < off(plain) / 2


def test_a_network_that_gives_nan_is_not_scored(checkpoint: Path) -> None:
    generator = load_checkpoint(checkpoint).generator
    generator.get_parameter("hf_to_rgb.bias").data[1] = math.nan

    with pytest.raises(ValueError, match="output gan is not finite"), torch.inference_mode():
        of_generator(small_picture(), generator=generator)


def test_a_folder_scores_the_means_over_its_pictures(photographs: Path) -> None:
    pictures = find_pictures(photographs)
    psnr, _, rmse = load_metrics(None, CPU).metrics

    scores = evaluate(bicubic, pictures.read(CPU), [psnr, rmse]).scores["bicubic"]

    images = [pair.hr for pair in pictures.read(CPU)]
    assert [tuple(image.shape) for image in images] == [(3, 36, 48), (3, 64, 44)]
    again = [bicubic_up(bicubic_down(image)) for image in images]
    pairs = list(zip(again, images, strict=True))
    assert scores["psnr_y"] == pytest.approx(np.mean([psnr_y(*pair) for pair in pairs]), abs=1e-3)
    assert scores["rmse_y"] == pytest.approx(
        math.sqrt(np.mean([mse_y(*pair) for pair in pairs])), abs=1e-3
    )


def test_pictures_that_were_compressed_score_lower_the_more_they_were(photographs: Path) -> None:
    pictures = find_pictures(photographs)
    psnr = load_metrics(None, CPU).metrics[:1]

    plain, fine, coarse = (
        evaluate(bicubic, pictures.read(CPU, jpeg=quality), psnr).scores["bicubic"]["psnr_y"]
        for quality in (None, 95, 10)
    )

    assert plain > fine > coarse + 1


def test_scores_that_are_not_finite_are_left_out() -> None:
    flat = Pair(lr=grey(90, side=32), hr=grey(90, side=128))

    found = evaluate(bicubic, [flat], load_metrics(None, CPU).metrics)

    assert found.scores == {"bicubic": {"ssim_y": 1.0, "rmse_y": 0.0}}
    assert "lr_psnr" not in found.places["bicubic"]


def test_a_report_has_everything_and_a_checkpoint_is_found_in_it_by_its_digest(
    run: Run,
    checkpoint: Path,
    photographs: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    other = tiny_checkpoint(tmp_path / "other.safetensors", seed=1)
    out = tmp_path / "scores.json"

    status = run(
        checkpoint, other, "--data", photographs, "--trade-off", "0.25,gan", "--json", out,
        "--plot", tmp_path / "plot.png", "--metric-weights", weights,
    )  # fmt: skip

    said = capsys.readouterr()
    assert status == 0, said.err
    report = json.loads(out.read_text())
    assert report["pictures"] == {"Holidays": 2}
    assert report["back_projection"] is False
    assert list(report["bicubic"]["Holidays"]) == ["psnr_y", "ssim_y", "rmse_y", "lpips"]
    assert [judged["name"] for judged in report["checkpoints"]] == ["tiny", "other"]
    scores = read_scores(out, sha256=read_header(other).sha256)
    assert scores == report["checkpoints"][1]["scores"]
    assert list(scores["Holidays"]) == ["psnr", "0.25", "fused", "gan"]
    assert "Holidays, 2 pictures" in said.out
    assert f"{scores['Holidays']['0.25']['lpips']:.4f}" in said.out
    assert said.err.count("is left out") == 3
    assert "the mesh is left out on Holidays: it needs 104x104 pixels" in said.err
    for name in ("bicubic", "tiny", "other"):
        assert f"Character: {name}" in said.out
    assert "mesh" not in report["character"]["tiny"]["places"]["Holidays"]["gan"]
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 600


def test_pairs_and_peers_are_in_the_same_report(
    run: Run,
    checkpoint: Path,
    photographs: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small, large = tmp_path / "Canon" / "LR", tmp_path / "Canon" / "HR"
    for folder, side in ((small, 32), (large, 128)):
        folder.mkdir(parents=True)
        painted(folder / "a.png", width=side, height=side)
    other, again = tiny_peer(tmp_path / "other.safetensors"), tiny_peer(tmp_path / "tiny.pth")
    out = tmp_path / "scores.json"

    status = run(
        checkpoint, "--data", photographs, "--pairs", small, large,
        "--peer", other, "--peer", again, "--json", out, "--metric-weights", weights,
    )  # fmt: skip

    said = capsys.readouterr()
    assert status == 0, said.err
    report = json.loads(out.read_text())
    assert report["pairs"] == ["Canon/LR"]
    assert report["pictures"] == {"Holidays": 2, "Canon/LR": 1}
    assert [peer["name"] for peer in report["peers"]] == ["other", str(again)]  # a checkpoint's too
    for peer in report["peers"]:
        assert set(peer["scores"]["Canon/LR"]) == {"psnr_y", "ssim_y", "rmse_y", "lpips"}
    assert report["peers"][0]["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    assert list(report["original"]["Canon/LR"]) == ["mesh", "mesh_allowance"]
    assert list(report["character"]) == ["bicubic", "other", str(again), str(checkpoint)]
    peer, judged = (report["character"][name] for name in ("other", str(checkpoint)))
    figures = {"lr_psnr", "mesh", "mesh_ratio", "mesh_ratio_worst", "shift", "shift_worst"}
    assert set(peer["places"]["Canon/LR"]["other"]) == figures
    assert set(judged["places"]["Canon/LR"]["gan"]) == figures
    assert (list(peer["overshoot"]), list(judged["overshoot"])) == (["other"], list(OUTPUTS))
    assert (peer["slider"], peer["mask"]) == ({}, {})
    assert set(judged["slider"]["Canon/LR"]) == {"rmse", "lpips"}
    assert len(judged["slider"]["Canon/LR"]["lpips"]["distances"]) == 11
    assert set(judged["mask"]["Holidays"]) == {"p5", "p95"}
    assert "Canon/LR: slider RMSE" in said.out


def test_back_projection_is_for_peers_too(
    run: Run, checkpoint: Path, tmp_path: Path, photographs: Path
) -> None:
    out, peer = tmp_path / "scores.json", tiny_peer(tmp_path / "peer.safetensors")

    shown = []
    for more in ((), ("--backprojection",)):
        assert run(checkpoint, "--data", photographs, "--peer", peer, "--json", out, *more) == 0
        character = json.loads(out.read_text())["character"]
        shown.append(character["peer"]["places"]["Holidays"]["peer"]["lr_psnr"])

    plain, projected = shown
    assert projected > plain + 3


def test_a_digest_that_is_not_in_the_report_has_no_scores(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    plain = {"back_projection": False, "jpeg": None, "degrade": None, "pairs": []}
    path.write_text(json.dumps({"checkpoints": [], **plain}))
    with pytest.raises(TrainingError, match="no scores of the checkpoint abc"):
        read_scores(path, sha256="abc")

    for otherwise in (
        {"jpeg": 75},
        {"degrade": "light"},
        {"back_projection": True},
        {"pairs": ["Canon/LR"]},
    ):
        path.write_text(json.dumps({"checkpoints": [], **plain, **otherwise}))
        with pytest.raises(TrainingError, match="measured with --jpeg, --degrade, --pairs or"):
            read_scores(path, sha256="abc")

    path.write_text(json.dumps({"Set5": {}}))
    with pytest.raises(TrainingError, match="is not a report of gdsr-evaluate"):
        read_scores(path, sha256="abc")


def test_two_checkpoints_with_one_name_go_by_their_paths(
    run: Run, checkpoint: Path, photographs: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.safetensors"
    loaded = load_checkpoint(checkpoint)
    save_checkpoint(again, loaded.generator, loaded.card)
    out = tmp_path / "scores.json"

    assert run(checkpoint, again, "--data", photographs, "--json", out) == 0

    names = [judged["name"] for judged in json.loads(out.read_text())["checkpoints"]]
    assert names == [str(checkpoint), str(again)]


def test_a_metric_that_a_picture_is_too_small_for_is_left_out_and_said(
    run: Run, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Stamps"
    folder.mkdir()
    painted(folder / "stamp.png", width=40, height=18)

    assert run(checkpoint, "--data", folder, "--json", tmp_path / "scores.json") == 0

    assert "SSIM-Y is left out on Stamps: it needs 19x19 pixels" in capsys.readouterr().err
    report = json.loads((tmp_path / "scores.json").read_text())
    assert list(report["bicubic"]["Stamps"]) == ["psnr_y", "rmse_y"]


def test_pictures_too_small_for_every_metric_are_still_measured_otherwise(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Dots"
    folder.mkdir()
    painted(folder / "dot.png", width=8, height=4)

    assert run(checkpoint, "--data", folder, "--json", tmp_path / "scores.json") == 0

    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["bicubic"]["Dots"] == {}
    assert "shift" in report["character"]["bicubic"]["places"]["Dots"]["bicubic"]


def test_brackets_in_names_are_shown(
    run: Run, checkpoint: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photographs.rename(photographs.with_name("Holidays [red]"))

    assert run(checkpoint, "--data", folder) == 0

    assert "Holidays [red], 2 pictures" in capsys.readouterr().out


def refused(run: Run, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the last error line of a run that must fail."""
    assert run(*arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("gdsr-evaluate: ")
    return line


def test_an_evaluation_that_cannot_run_ends_with_one_line(
    run: Run,
    checkpoint: Path,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty, broken, other = tmp_path / "empty", tmp_path / "broken", tmp_path / "o" / "Holidays"
    thin = tmp_path / "thin"
    for folder in (empty, broken, other, thin):
        folder.mkdir(parents=True)
    painted(thin / "line.png", width=40, height=3)
    (broken / "x.png").write_bytes(b"no picture")
    painted(other / "a.png", width=40, height=40)
    no_checkpoint = tmp_path / "x.safetensors"
    no_checkpoint.write_bytes(b"nothing")

    def line(*arguments: object) -> str:
        return refused(run, capsys, *arguments)

    assert f"no picture in {empty}" in line(checkpoint, "--data", empty)
    assert "no folder" in line(checkpoint, "--data", tmp_path / "nowhere")
    assert f"{broken / 'x.png'} is broken" in line(checkpoint, "--data", broken)
    assert f"{thin / 'line.png'} has 40x3 pixels" in line(checkpoint, "--data", thin)
    assert f"{no_checkpoint}: " in line(no_checkpoint, "--data", photographs)
    assert "nowhere.safetensors" in line(tmp_path / "nowhere.safetensors", "--data", photographs)
    assert "called Holidays" in line(checkpoint, "--data", photographs, "--data", other)
    peer = ("--data", photographs, "--peer", checkpoint)
    assert f"{checkpoint}: this is not an RRDB generator" in line(checkpoint, *peer)
    assert "has no partner" in line(checkpoint, "--pairs", photographs, other)
    plot = ("--plot", tmp_path / "plot.png")
    assert "a plot needs LPIPS or NIQE" in line(checkpoint, "--data", photographs, *plot)
    nowhere = ("--json", tmp_path / "no" / "scores.json")
    assert "there is no folder" in line(checkpoint, "--data", photographs, *nowhere)
    if not torch.cuda.is_available():
        cuda = ("--device", "cuda")
        assert "no CUDA device" in line(checkpoint, "--data", photographs, *cuda)


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_evaluated(
    run: Run,
    checkpoint: Path,
    photographs: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    data = (checkpoint, "--data", photographs, "--metric-weights", weights)

    for option in ("--json", "--plot"):
        assert f"{tmp_path} cannot be written" in refused(run, capsys, *data, option, tmp_path)
    line = refused(run, capsys, *data, "--plot", tmp_path / "plot.docx")
    assert "plot.docx has no suffix of an image format" in line


@pytest.mark.parametrize("place", ["1.5", "-0.1", "sharp", "nan", ""])
def test_a_place_that_is_not_on_the_slider_is_wrong_usage(
    run: Run, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run("x.safetensors", "--data", ".", f"--trade-off=0.5,{place}")

    assert end.value.code == 2
    assert "--trade-off" in capsys.readouterr().err


def test_nothing_to_evaluate_on_is_wrong_usage(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run("x.safetensors")

    assert end.value.code == 2
    assert "give --data DIR or --pairs LR_DIR HR_DIR" in capsys.readouterr().err


def test_help_comes_without_what_takes_seconds_to_load() -> None:
    code = (
        "import sys; sys.argv = ['gdsr-evaluate', '--help']\n"
        "from model.evaluate.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'PIL', 'rich', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def scores(*values: float) -> dict[str, dict[str, float]]:
    names = ("psnr", "0.25", "fused", "gan")
    return {
        name: {"rmse_y": 10 + place, "lpips": value}
        for place, (name, value) in enumerate(zip(names, values, strict=True))
    }


def test_the_plot_has_the_papers_methods_where_the_axis_allows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"

    draw(
        path,
        bicubic={"Urban100": {"rmse_y": 20.0, "lpips": 0.5}, "Set5": {"rmse_y": 12.0}},
        curves={
            "one": {"Urban100": scores(0.4, 0.3, 0.2, 0.2), "Set5": {"psnr": {"rmse_y": 9.0}}},
            "two": {"Urban100": scores(0.3, 0.3, 0.1, 0.1), "Set5": {"psnr": {"rmse_y": 8.0}}},
        },
    )

    with Image.open(path) as image:
        assert image.height > image.width  # one row per set, and one column, as there is no NIQE


def test_a_plot_needs_matplotlib_and_something_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pareto, "find_spec", lambda _: None)

    with pytest.raises(TrainingError, match="a plot needs matplotlib"):
        check_drawable(Path("plot.png"), ["psnr_y", "niqe"])
    with pytest.raises(ValueError, match="LPIPS or NIQE"):
        check_drawable(Path("plot.png"), ["psnr_y", "dists"])


def test_a_picture_that_does_not_fit_into_memory_is_reported_in_one_line(
    run: Run,
    checkpoint: Path,
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch, "stack", lambda *_: torch.empty(10**13))

    assert run(checkpoint, "--data", photographs) == 1

    assert "gdsr-evaluate: out of memory: a picture is too large" in capsys.readouterr().err
