"""The examples of the documents work when run by bash with curl, and by Python."""

import io
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import Distribution
from pathlib import Path

import hosts
import pytest
from documents import ROOT, blocks, example, read
from factories import engine_info, register
from networks import tiny_checkpoint
from PIL import Image
from processes import ValkeyServer, running_valkey
from serving import Site, served
from wheels import install_alone, run_bare

from service.settings import ServiceSettings

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl"),
]
URL = "http://127.0.0.1:8000"
CLIENT_README = "service/client/README.md"
CLIENT = ROOT / "service" / "client"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service, and a worker host with a tiny network."""
    folder = tmp_path_factory.mktemp("examples")
    with running_valkey(folder / "valkey") as valkey:
        checkpoint = tiny_checkpoint(folder / "tiny.safetensors")
        workers = hosts.Site(valkey.url, folder / "blobs", checkpoint)
        chosen = ServiceSettings(redis_url=valkey.url, blob_dir=folder / "blobs")
        with served(chosen) as site, workers.worker_host():
            yield site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The reader's folder, with the pictures that the examples use."""
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(hosts.noise(30, 40))
    (folder / "second.png").write_bytes(hosts.noise(50, 20, seed=1))
    return folder


def bash(script: str, site: Site, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script.replace(URL, str(site.http.base_url).rstrip("/"))],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        opened.load()
        return opened.size


def readme_curl() -> str:
    return example("README.md", "Over HTTP", "sh")


def test_the_readme_saves_a_picture(site: Site, folder: Path) -> None:
    run = bash(readme_curl(), site, folder)

    assert size(folder / "large.png") == (160, 120), run.stdout + run.stderr


def test_the_readme_prints_an_error_and_saves_nothing(site: Site, folder: Path) -> None:
    (folder / "photo.jpg").write_text("not a picture")

    run = bash(readme_curl(), site, folder)

    assert '"type":"/problems/' in run.stdout.replace(" ", "")
    assert not (folder / "large.png").exists()


def test_the_readme_prints_the_job_and_saves_nothing_where_a_picture_takes_too_long(
    server: ValkeyServer, folder: Path
) -> None:
    slow = ServiceSettings(
        redis_url=server.url, blob_dir=folder / "blobs", max_wait=timedelta(seconds=1)
    )
    with served(slow) as site:
        register(site.redis, engine_info())  # but start no job worker
        run = bash(readme_curl(), site, folder)

    assert '"state":"queued"' in run.stdout
    assert '/result"' in run.stdout
    assert not (folder / "large.png").exists()


@pytest.fixture(scope="module")
def client_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with only gdsr-client and its dependencies."""
    return install_alone(CLIENT, tmp_path_factory.mktemp("wheel"))


def python(code: str, site: Site, folder: Path, client: Path) -> str:
    run = run_bare(client, code.replace(URL, str(site.http.base_url)), folder)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("document", "heading"),
    [("README.md", "From Python"), (CLIENT_README, "One picture")],
)
def test_the_python_of_the_documents_saves_a_picture(
    site: Site, folder: Path, client_alone: Path, document: str, heading: str
) -> None:
    code = example(document, heading, "python")

    said = python(code, site, folder, client_alone)

    assert size(folder / "large.png") == (160, 120), said
    assert re.search(r"^succeeded, png of 160 x 120, \d+ kB$", said, re.MULTILINE), said
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_client_upscales_a_folder(site: Site, folder: Path, client_alone: Path) -> None:
    shutil.copy(folder / "photo.jpg", folder / "other.jpg")

    python(example(CLIENT_README, "Many pictures at a time", "python"), site, folder, client_alone)

    assert size(folder / "photo.large.png") == size(folder / "other.large.png") == (160, 120)


def test_the_client_moves_the_slider(site: Site, folder: Path, client_alone: Path) -> None:
    python(example(CLIENT_README, "Positions of the slider", "python"), site, folder, client_alone)

    sizes = {path.name: size(path) for path in folder.glob("large-*.webp")}
    assert sizes == dict.fromkeys(
        ["large-0.webp", "large-0.25.webp", "large-0.75.webp", "large-1.webp"], (160, 120)
    )


def test_the_client_sends_a_batch(site: Site, folder: Path, client_alone: Path) -> None:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.write(folder / "photo.jpg", "photo.jpg")

    python(example(CLIENT_README, "Batches", "python"), site, folder, client_alone)

    for name in ("large", "crisp"):
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            assert archive.namelist() == [{"large": "photo.png", "crisp": "photo.webp"}[name]]


def test_the_client_brings_nothing_of_the_server_and_one_dependency(
    tmp_path: Path, client_alone: Path
) -> None:
    names = ["gdsr_client", "service", "workers", "pydantic"]
    found = run_bare(
        client_alone,
        f"from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])",
        tmp_path,
    )
    own = {path.name for path in client_alone.iterdir() if not path.is_symlink()}

    assert found.stdout == "['gdsr_client']\n", found.stderr
    assert own - {"__pycache__"} == {"gdsr_client", "gdsr_client-0.1.0.dist-info"}
    assert (client_alone / "gdsr_client" / "py.typed").is_file()
    (info,) = client_alone.glob("gdsr_client-*.dist-info")
    assert [line.partition(">")[0] for line in Distribution.at(info).requires or ()] == ["httpx2"]


def test_waiting_saves_a_picture(site: Site, folder: Path) -> None:
    run = bash(example("docs/http.md", "Waiting for a picture", "sh"), site, folder)

    assert run.returncode == 0, run.stdout + run.stderr
    assert size(folder / "large.png") == (160, 120)


def functions() -> str:
    """`save` and `poll`, without the request after them."""
    waiting = example("docs/http.md", "Waiting for a picture", "sh")
    return waiting.rstrip().rpartition("\n")[0] + "\n"


def test_kept_branches_give_other_positions_the_mask_and_a_region(site: Site, folder: Path) -> None:
    script = functions() + example("docs/http.md", "Kept branches", "sh")

    run = bash(f"set -e\n{script}", site, folder)

    assert run.returncode == 0, run.stdout + run.stderr
    assert size(folder / "large.png") == size(folder / "crisper.webp") == (160, 120)
    assert size(folder / "mask.png") == (160, 120)
    assert size(folder / "corner.png") == (64, 48)


def test_a_map_gives_a_picture(site: Site, folder: Path) -> None:
    script = functions() + example("docs/http.md", "Maps", "sh")

    run = bash(f"set -e\n{script}", site, folder)

    assert run.returncode == 0, run.stdout + run.stderr
    assert size(folder / "painted.webp") == (160, 120)


def test_a_batch_comes_back_as_one_zip(site: Site, folder: Path) -> None:
    if shutil.which("unzip") is None:
        pytest.skip("there is no unzip")
    run = bash(functions() + example("docs/http.md", "Batches", "sh"), site, folder)

    assert run.returncode == 0, run.stdout + run.stderr
    with zipfile.ZipFile(folder / "results.zip") as archive:
        pictures = {name: archive.read(name) for name in archive.namelist()}
    assert list(pictures) == ["photo.webp", "second.webp"]
    assert [Image.open(io.BytesIO(one)).size for one in pictures.values()] == [
        (160, 120),
        (80, 200),
    ]


def test_polling_ends_with_an_error(site: Site, folder: Path) -> None:
    script = example("docs/http.md", "Other results of a batch", "sh")

    run = bash(functions() + script.replace("$other/result", "$other/nothing"), site, folder)

    assert run.returncode == 1
    assert '"status":404' in run.stdout
    assert (folder / "results.zip").exists()
    assert not (folder / "other.zip").exists()


def test_a_batch_gives_other_results(site: Site, folder: Path) -> None:
    script = functions() + example("docs/http.md", "Other results of a batch", "sh")

    run = bash(script, site, folder)

    assert run.returncode == 0, run.stdout + run.stderr
    with zipfile.ZipFile(folder / "other.zip") as archive:
        assert archive.namelist() == ["photo.webp"]


def test_every_example_with_curl_or_python_is_run_by_a_test() -> None:
    """The tests are here, in test_mcp.py and in tests/service/test_examples.py."""
    run = {"Over HTTP", "From Python", "Waiting for a picture", "Kept branches", "Batches"}
    run |= {"Maps", "Other results of a batch", "API keys", "Webhooks"}
    run |= {"One picture", "Many pictures at a time", "Positions of the slider", "MCP"}
    for document in ("README.md", CLIENT_README, "docs/http.md", "docs/operations.md"):
        for part in read(document).split("\n## ")[1:]:
            heading = part.partition("\n")[0]
            asked = [block for block in blocks(part) if "127.0.0.1:8000" in block.text]
            assert heading in run or not asked, f"{document}: {heading}"
