"""The device and the settings decide which models an engine serves."""

import os
from pathlib import Path

import pytest

from model.checkpoint import SHIPPED
from workers.contract.errors import ConfigurationInvalid
from workers.engine.checkpoints import default_model, engine_files


def names(places: tuple[Path, ...] = (), *, wanted: str | None = None, device: str) -> set[str]:
    return {path.stem for path in engine_files(places, wanted=wanted, device=device)}


def test_a_gpu_serves_all_shipped_models_and_by_default_the_largest() -> None:
    served = names(device="cuda:1")

    assert served == {path.stem for path in SHIPPED.glob("*.safetensors")}
    assert default_model(None, sorted(served), device="cuda:1") == "paper-real"


def test_a_cpu_serves_the_largest_only_if_it_is_the_default() -> None:
    assert names(device="cuda:0") - names(device="cpu") == {"paper-real"}
    assert "paper-real" in names(wanted="paper-real", device="cpu")
    assert default_model(None, sorted(names(device="cuda:0")), device="cpu") == "lite-real"


def test_every_device_serves_all_files_that_are_configured() -> None:
    everything = {path.stem for path in SHIPPED.glob("*.safetensors")}

    assert names((SHIPPED,), device="cpu") == names((SHIPPED,), device="cuda:0") == everything


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.safetensors")).touch()

    with pytest.raises(ConfigurationInvalid, match=r"caf\\udce9.safetensors' is not text"):
        names((tmp_path,), device="cpu")


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_default_of_models_of_ones_own_is_the_first(device: str) -> None:
    assert default_model(None, ["mine", "other"], device=device) == "mine"
    assert default_model("other", ["mine", "other"], device=device) == "other"
    with pytest.raises(ConfigurationInvalid, match="GDSR_DEFAULT_MODEL is third"):
        default_model("third", ["mine", "other"], device=device)
