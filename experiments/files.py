"""Results on disk: written whole or not at all, and named when damaged."""

import contextlib
import json
import shutil
from collections.abc import Iterator

from etils import epath

from mgrd_jax import paths, processes


def write(path, text: str) -> None:
  """Writes a file whole or not at all; of several processes the first does."""
  if processes.writes():
    paths.write(path, text)


def write_json(path, value) -> None:
  """Writes JSON as `write` does."""
  write(path, json.dumps(value, indent=1, default=float))


def write_lines(path, rows) -> None:
  """Writes jsonl as `write` does."""
  write(path, "".join(json.dumps(r, default=str) + "\n" for r in rows))


def exists(path) -> bool:
  """Whether a file is there, as the first of all processes sees it."""
  return bool(processes.agreed(epath.Path(path).exists()))


REDO = "remove it, and the same command makes it again"


def read_json(path, fix: str = REDO):
  """Reads what `write_json` wrote.

  Raises:
    ValueError: the file is damaged; names it.
  """
  try:
    return json.loads(epath.Path(path).read_bytes())
  except ValueError as error:
    raise ValueError(f"{path}: damaged ({error}); {fix}") from None


def read_lines(path, fix: str = REDO) -> list:
  """Reads what `write_lines` wrote.

  Raises:
    ValueError: a line is damaged; names file and line.
  """
  rows = []
  lines = epath.Path(path).read_bytes().splitlines()
  for number, line in enumerate(lines, 1):
    try:
      rows.append(json.loads(line))
    except ValueError as error:
      raise ValueError(
        f"{path} line {number}: damaged ({error}); {fix}"
      ) from None
  return rows


@contextlib.contextmanager
def new_folder(path) -> Iterator[epath.Path]:
  """A folder to fill, which stands at `path` once all of it is there."""
  path = epath.Path(path)
  part = path.with_name(f".{path.name}.part")
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir(parents=True)
  try:
    yield part
    part.replace(path)
  finally:
    shutil.rmtree(part, ignore_errors=True)
