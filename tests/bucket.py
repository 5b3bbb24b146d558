"""gs:// without a network: fsspec's own local file system under that name."""

import pathlib

import pytest
from etils.epath import backend
from fsspec.implementations import local
from fsspec.registry import _registry


class Bucket(local.LocalFileSystem):
  """Keeps gs://NAME/x in `root`/NAME/x; folders are no things of their own."""

  protocol = ("gs", "gcs")
  root = ""

  def __init__(self, **kwargs):
    super().__init__(auto_mkdir=True, **kwargs)

  @classmethod
  def _strip_protocol(cls, path):
    path = str(path)
    if path.startswith("gs://"):
      if ".." in path.split("/"):
        raise FileNotFoundError(f"{path}: no object has such a name")
      path = f"{cls.root}/{path.removeprefix('gs://')}"
    return super()._strip_protocol(path)

  def glob(self, path, **kwargs):
    """Names begin with their bucket's, as those of a store do."""
    found = super().glob(path, **kwargs)
    return [one.removeprefix(f"{self.root}/") for one in found]


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> tuple[str, pathlib.Path]:
  """(gs://NAME, the folder that it is)."""
  monkeypatch.setattr(Bucket, "root", str(tmp_path / "gs"))
  monkeypatch.setitem(_registry, "gcs", Bucket)
  backend.fsspec_backend._get_filesystem.cache_clear()
  folder = tmp_path / "gs" / "corpora"
  folder.mkdir(parents=True)
  yield "gs://corpora", folder
  backend.fsspec_backend._get_filesystem.cache_clear()
