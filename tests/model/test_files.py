"""Files are written atomically."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from model.files import write_atomically


def test_writers_with_the_same_process_id_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    contents = [bytes([number]) * 10_000 for number in range(8)]

    with ThreadPoolExecutor(len(contents)) as pool:  # as in containers that share a folder
        list(pool.map(partial(write_atomically, path), contents * 20))

    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
