from dataclasses import replace
from pathlib import Path

import pytest

from model.trainer.config_file import preset_names, read_config, read_preset, write_config
from model.trainer.errors import ConfigInvalid


@pytest.mark.parametrize("name", preset_names())
def test_a_configuration_comes_back_from_its_file_as_it_was(name: str, tmp_path: Path) -> None:
    config = read_preset(name)

    write_config(tmp_path / "config.json", config)

    assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_named_like_its_file(name: str) -> None:
    assert read_preset(name).run.name == name


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.ptach=3", "data.ptach is unknown"),
        ("dta.patch=3", "dta is unknown"),
        ("data.patch=large", "data.patch is 'large'; it must be a whole number"),
        ("data.patch=2.5", "data.patch is 2.5; it must be a whole number"),
        ("run.tensorboard=1", "run.tensorboard is 1; it must be true or false"),
        ("optimiser.learning_rate=true", "optimiser.learning_rate is True; it must be a number"),
        ("optimiser.learning_rate=nan", "it must be a number"),
        ("optimiser.schedule=linear", "it must be one of 'cosine', 'multistep'"),
        ("optimiser.betas=[0.9]", "optimiser.betas is [0.9]; it must be a list of 2 numbers"),
        ("optimiser=3", "optimiser is 3; it must be a table"),
        ("run.steps=0", "run.steps is 0; it must be above 0"),
        ("run.seed=9999999999999999999", "run.seed is 9999999999999999999; it must not be above"),
        ("run.seed=-1", "run.seed is -1; it must not be below 0"),
        ("generator.size.shared=-1", "generator.size.shared is -1; it must be above 0"),
        ("validation.crop=8", "validation.crop is 8; it must be 0 or at least 64"),
        ("validation.crop=-5", "validation.crop is -5; it must be 0 or at least 64"),
        ("optimiser.betas=[1.5, 0.9]", "optimiser.betas is 1.5; it must be below 1"),
        ("optimiser.betas=[-0.5, 0.9]", "optimiser.betas is -0.5; it must not be below 0"),
        ("optimiser.ema=1", "optimiser.ema is 1.0; it must be below 1"),
        ("optimiser.clip=-1", "optimiser.clip is -1.0; it must not be below 0"),
        ("optimiser.warmup=-5", "optimiser.warmup is -5; it must not be below 0"),
        ("run.minutes=-1", "run.minutes is -1.0; it must not be below 0"),
        ("losses.pixel.weights.gan=-1", "losses.pixel.weights.gan is -1.0; it must not be below"),
        ("generator.init_scale=0", "generator.init_scale is 0.0; it must be above 0"),
        ("validation.jpeg_quality=101", "validation.jpeg_quality is 101; it must not be above 100"),
        ("losses.margin=8", "losses.margin is 8; that leaves nothing of a patch of 16"),
        ("losses.margin=-1", "losses.margin is -1; it must not be below 0"),
        ("generator.preset=base", "give either preset or size"),
        ("generator.train=hf", "psnr has a weight, but generator.train='hf' freezes it"),
        ("generator.train=lf", "gan has a weight, but generator.train='lf' freezes it"),
        ("generator.train=mask", "psnr has a weight, but generator.train='mask' freezes it"),
        ("degradation.shares.light=0", "degradation.shares: at least one must be above 0"),
        ("losses.distill.weights.gan=1", "one needs a teacher, and there is no table teacher"),
        ("teacher.side=8", "teacher.side is 8, smaller than a patch of 16"),
        ("data.patterns=2", "data.patterns is 2.0; it must not be above 1"),
        ("teacher.pictures=0", "teacher.pictures is 0; it must be above 0"),
        ("patch", "--set patch: expected table.key=value"),
    ],
)
def test_a_wrong_override_is_named_in_one_line(override: str, said: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read_preset("smoke", [override])

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_preset_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    text = "[run]\nname = 'mine'\nsteps = 5\n[generator]\npreset = 'lite'\n[data]\n"
    text += "[losses.pixel.weights]\nfused = 1\n[optimiser]\nlearning_rate = 1e-4\n"
    (tmp_path / "mine.toml").write_text(text)

    config = read_preset(str(tmp_path / "mine.toml"))

    assert config.losses.outputs == ("fused",)
    assert config.network.features == 32


def test_a_preset_of_ones_own_may_extend_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("extends = 'base_adversarial'\n[losses.adversarial]\nfeatures = 32\n")

    mine, shipped = read_preset(str(path)), read_preset("base_adversarial")

    assert mine.losses.adversarial is not None
    assert shipped.losses.adversarial is not None
    adversarial = replace(shipped.losses.adversarial, features=32)
    assert mine == replace(shipped, losses=replace(shipped.losses, adversarial=adversarial))
    path.write_text("extends = 'mine'\n")
    with pytest.raises(ConfigInvalid, match="no preset mine; there are base_adversarial"):
        read_preset(str(path))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[run]\nname = 'mine'\n")

    with pytest.raises(ConfigInvalid, match=r"run\.steps is missing"):
        read_preset(str(tmp_path / "mine.toml"))


def test_text_may_look_like_a_number() -> None:
    assert read_preset("smoke", ["data.hr_dir=2024"]).data.hr_dir == "2024"


def test_an_output_without_any_weight_is_not_wanted() -> None:
    config = read_preset("smoke", ["losses.pixel.weights.psnr=0"])

    assert config.losses.outputs == ("fused", "gan")


def test_a_discriminator_must_fit_the_patch() -> None:
    with pytest.raises(ConfigInvalid, match="multiple of 32"):
        read_preset("paper_adversarial", ["data.patch=20"])


@pytest.mark.parametrize(
    ("preset", "overrides", "said"),
    [
        ("smoke_adversarial", ["losses.adversarial.weights.gan=0"], "no output has a weight"),
        ("lite_real", ["degradation.light.sigma=[-1, 2]"], "sigma is -1.0; it must not be below 0"),
        (
            "smoke_adversarial",
            ["losses.adversarial.learning_rate=0"],
            "losses.adversarial.learning_rate is 0.0; it must be above 0",
        ),
        (
            "lite_real_gan",
            ["data.patch=4"],
            "losses.colour needs 32 pixels a side; a patch without margins has 16",
        ),
    ],
)
def test_values_that_a_step_could_not_use_are_refused(
    preset: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        read_preset(preset, overrides)


def test_a_preset_in_a_missing_folder_is_no_shipped_one() -> None:
    with pytest.raises(ConfigInvalid, match=r"no preset nowhere/smoke\.toml; there are"):
        read_preset("nowhere/smoke.toml")


def test_no_output_at_all_is_a_mistake() -> None:
    none = [f"losses.pixel.weights.{output}=0" for output in ("psnr", "gan", "fused")]

    with pytest.raises(ConfigInvalid, match="no output has a weight"):
        read_preset("smoke", none)


def test_a_configuration_of_another_version_is_refused(tmp_path: Path) -> None:
    config = read_preset("smoke")
    write_config(tmp_path / "config.json", replace(config, run=replace(config.run, steps=3)))
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"steps"', '"iterations"'))

    with pytest.raises(ConfigInvalid, match=r"run\.iterations is unknown"):
        read_config(tmp_path / "config.json")
