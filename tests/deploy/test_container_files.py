"""Dockerfile, compose files and .env.example refer only to things that exist."""

import re
import tomllib
from pathlib import Path

import yaml

from service.settings import ServiceSettings
from workers.contract.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OVERLAYS = ("deploy/compose.gpu.yml", "deploy/compose.keys.yml")
SETTINGS = {
    f"GDSR_{name.upper()}" for s in (ServiceSettings, WorkerSettings) for name in s.model_fields
}


def test_every_setting_that_they_name_is_one() -> None:
    for name in ("Dockerfile", "docker-compose.yml", ".env.example", *OVERLAYS):
        named = set(re.findall(r"\bGDSR_[A-Z_]+\b", (ROOT / name).read_text()))
        assert named - SETTINGS - {"GDSR_"} == set(), name


def test_the_images_have_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    dockerfile = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"ARG VERSION=(\S+)", dockerfile)) == {version}
    for name in ("docker-compose.yml", "deploy/compose.gpu.yml"):
        assert set(re.findall(r"IMAGE_TAG:-([\d.]+)}", (ROOT / name).read_text())) == {version}


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    shown = set(re.findall(r"^# ([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))

    assert used - shown == set()


def test_the_compose_file_overrides_only_settings_that_belong_to_the_container() -> None:
    for service in COMPOSE["services"].values():
        fixed = {n for n, value in service.get("environment", {}).items() if "${" not in value}
        ours = {name for name in fixed if name.startswith("GDSR_")}
        assert all(re.search("_(FILE|DIR|HOST|PORT)$", name) for name in ours), ours


def test_the_service_reads_its_api_keys_where_they_are_mounted() -> None:
    overlay = yaml.safe_load((ROOT / "deploy/compose.keys.yml").read_text())
    service = overlay["services"]["service"]

    assert set(service["secrets"]) == set(overlay["secrets"])
    assert service["environment"] == {"GDSR_API_KEYS_FILE": "/run/secrets/api_keys"}


def test_no_document_names_compose_files_on_a_command_line() -> None:
    # The next command without them would replace the GPU's worker, or drop the API keys.
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]:
        assert not re.search(r"docker compose [^\n`]*-f ", path.read_text()), path


def test_a_worker_may_drain_before_it_is_killed() -> None:
    grace = int(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s"))

    assert grace >= WorkerSettings.model_fields["drain"].default.total_seconds() + 30


def test_every_container_is_without_rights_and_within_bounds() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"], name
        assert "mem_limit" in service, name
        assert service["logging"]["options"]["max-size"], name
        published = [port for port in service.get("ports", []) if "127.0.0.1" not in port]
        assert published == [], name
    assert "ports" not in COMPOSE["services"]["redis"]


def test_temporary_files_that_go_into_a_bucket_are_on_the_disk() -> None:
    # Uploads, and the zips that workers pack, of which each may be larger than a memory limit.
    for name in ("service", "worker"):
        service = COMPOSE["services"][name]
        assert "/tmp" in service["volumes"]  # noqa: S108 - of a container
        assert "tmpfs" not in service


def test_the_documented_trainer_may_write_and_run_compiled_kernels() -> None:
    stage = (ROOT / "Dockerfile").read_text().partition(" AS trainer\n")[2]
    caches = re.findall(r"(?:TORCHINDUCTOR|TRITON)_CACHE_DIR=(\S+)", stage)
    mounts = re.findall(r"--tmpfs (\S+):exec,mode=1777", (ROOT / "deploy/README.md").read_text())

    assert caches
    assert all(any(Path(cache).is_relative_to(mount) for mount in mounts) for cache in caches)


def test_no_syntax_line_makes_a_build_fetch_a_frontend() -> None:
    assert not re.search(r"(?im)^#\s*syntax\s*=", (ROOT / "Dockerfile").read_text())
