"""Paths here and on gs://: joined, told apart, and written whole."""

import os

import pytest
from etils import epath

from mgrd_jax import paths
from tests.bucket import bucket  # noqa: F401


def test_a_path_of_a_store_stays_one():
  assert paths.is_remote("gs://corpora/run")
  assert paths.is_remote(epath.Path("gs://corpora") / "run")
  assert not paths.is_remote("out/run")
  assert str(paths.absolute("gs://corpora/run")) == "gs://corpora/run"
  assert str(paths.absolute("out/../run")) == f"{os.getcwd()}/run"


@pytest.mark.parametrize(
  "folder, above",
  [
    ("gs://corpora/run/stages", ["gs://corpora/run", "gs://corpora"]),
    ("gs://corpora", []),
    ("out/run", ["out", "."]),
    ("/out/run", ["/out", "/"]),
  ],
)
def test_what_is_above_a_folder_ends_at_the_root_or_the_bucket(folder, above):
  assert list(map(str, paths.upwards(folder))) == [folder, *above]


@pytest.mark.parametrize(
  "root, file, want",
  [
    ("gs://corpora/raw", "../clips/a.wav", "gs://corpora/clips/a.wav"),
    ("gs://corpora/raw", "a.wav", "gs://corpora/raw/a.wav"),
    ("out/raw", "../a.wav", "out/raw/../a.wav"),
  ],
)
def test_a_file_beside_a_manifest_is_found_on_a_store_too(root, file, want):
  assert str(paths.below(root, file)) == want


def test_a_file_is_written_with_its_folder_and_nothing_beside_it(
  tmp_path,
  bucket,  # noqa: F811
):
  name, folder = bucket
  for root, there in ((tmp_path / "here", tmp_path / "here"), (name, folder)):
    path = epath.Path(root) / "a" / "b.json"
    paths.write(path, "old, and longer")
    paths.write(path, "né")
    assert (there / "a" / "b.json").read_bytes() == "né".encode()
    paths.write(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert [p.name for p in (there / "a").iterdir()] == ["b.json"]
    size, changed = paths.stamp(path)
    assert size == 1 and changed > 0
    with pytest.raises(OSError):
      paths.stamp(path.with_name("none"))


def test_what_is_staged_stands_in_its_place_when_it_is_whole(
  tmp_path,
  bucket,  # noqa: F811
):
  name, folder = bucket
  for root, there in ((tmp_path / "here", tmp_path / "here"), (name, folder)):
    with paths.staged(epath.Path(root) / "a" / "shard") as file:
      assert not paths.is_remote(file)
      file.write_bytes(b"all of it")
    assert (there / "a" / "shard").read_bytes() == b"all of it"


def test_an_upload_that_is_broken_off_leaves_nothing_under_the_name(
  bucket,  # noqa: F811
):
  name, folder = bucket
  with pytest.raises(KeyError), paths.staged(f"{name}/a/shard") as file:
    file.write_bytes(b"half")
    raise KeyError
  assert not (folder / "a").exists()
