"""Paths of this machine or of a store such as gs://, and files written whole.

    "out/run" | "gs://bucket/run" --epath.Path--> mkdir, iterdir, read, write

pathlib would make gs:/bucket/run of the second.
"""

import contextlib
import os
import posixpath
import tempfile
from collections.abc import Iterator

from etils import epath


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path lies on a store, where only objects are, and no folders."""
  return "://" in os.fspath(path)


def absolute(path: str | os.PathLike) -> epath.Path:
  """The path from the root; one of a store is so already."""
  path = epath.Path(path)
  return path if is_remote(path) else path.resolve()


def upwards(folder: str | os.PathLike) -> Iterator[epath.Path]:
  """The folder and all above it, up to the root or the bucket."""
  folder = epath.Path(folder)
  yield folder
  for above in folder.parents:
    # What is above a bucket would be named as a bucket itself.
    if not is_remote(folder) or len(above.parts) > 2:
      yield above


def below(root: str | os.PathLike, file: str) -> epath.Path:
  """`root / file`; where no `..` is understood, on a store, it is resolved."""
  if not is_remote(root):
    return epath.Path(root) / file
  scheme, _, rest = os.fspath(root).partition("://")
  rest = posixpath.normpath(posixpath.join(rest, file))
  return epath.Path(f"{scheme}://{rest}")


def stamp(path: str | os.PathLike) -> tuple[int, int]:
  """(bytes, time of the last change) of a file; in ns, on a store in s.

  Raises:
    OSError: there is none.
  """
  if is_remote(path):
    found = epath.Path(path).stat()
    return found.length, found.mtime
  found = os.stat(path)
  return found.st_size, found.st_mtime_ns


def write(path: str | os.PathLike, data: str | bytes) -> None:
  """Writes a file whole or not at all, text as UTF-8; makes its folder.

  Raises:
    OSError: it cannot be written, of a full disk for one.
  """
  path = epath.Path(path)
  if not is_remote(path):
    path.parent.mkdir(parents=True, exist_ok=True)
  part = _part(path)
  part.write_bytes(data.encode() if isinstance(data, str) else data)
  part.replace(path)


@contextlib.contextmanager
def staged(path: str | os.PathLike) -> Iterator[epath.Path]:
  """A file of this machine to be written, which comes to stand at `path`.

  It is `path` itself but for a store, to which it is then copied.
  """
  path = epath.Path(path)
  if not is_remote(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    here = epath.Path(folder) / path.name
    yield here
    part = _part(path)
    here.copy(part, overwrite=True)
    part.replace(path)


def _part(path: epath.Path) -> epath.Path:
  """Where a file is written before it stands at `path`.

  On a store too: an upload that breaks off may leave its beginning.
  """
  return path.with_name(f".{path.name}.part")
