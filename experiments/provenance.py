"""What results rest on: the commit of the code, and the data.

    examples, clips --of_data--> {part: {count, sha256}} --keep_data-->
        workdir/data.json, or a refusal: a run is of one code's data
"""

import functools
import hashlib
import json
import pathlib
import subprocess
from collections.abc import Iterable, Mapping

from etils import epath

from experiments import files
from mgrd_jax.data import schema

DATA = "data.json"


# Once a process: what has been imported stays as it is, whatever git does.
@functools.cache
def commit() -> str:
  """The commit of this very code, "-dirty" where files differ from it.

  "unknown" without git, or outside of a repository.
  """
  try:
    done = subprocess.run(
      ["git", "describe", "--always", "--dirty", "--exclude=*"],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
    )
  except OSError:
    return "unknown"
  return done.stdout.strip() or "unknown"


def of_data(examples, stores) -> dict[str, dict]:
  """{part: {"count", "sha256"}} of the rows, and of their clips' files.

  By what they hold and in their order; where they lie does not matter.
  """
  found = {}
  for name, own in (("built-in", False), ("manifest", True)):
    rows = [e for e in examples if bool(e.meta.get("own")) == own]
    texts = (json.dumps(schema.to_json(e), sort_keys=True) for e in rows)
    found[f"{name} rows"] = _digest(t.encode() for t in texts)
    paths = stores.paths({ref for e in rows for ref in e.audio})
    found[f"{name} clips"] = _digest(map(_content, paths.items()))
  return found


def keep_data(workdir, data: Mapping) -> None:
  """Keeps what a run's data are beside its results.

  Raises:
    ValueError: the folder holds results from other data; names what changed.
  """
  path = epath.Path(workdir) / DATA
  if path.exists():
    same_data(workdir, data, "choose another --workdir")
  else:
    files.write_json(path, data)


def same_data(folder, data: Mapping, otherwise: str) -> None:
  """Refuses a run that was made from other data.

  Raises:
    ValueError: names what changed, how to undo it and what to do otherwise.
  """
  made = files.read_json(epath.Path(folder) / DATA)
  changed = [
    f"{name}: {made.get(name, {}).get('count', 0)} before, {now['count']} now"
    for name, now in data.items()
    if made.get(name) != now
  ]
  if changed:
    raise ValueError(
      f"{folder}: holds a run from other data (changed: {'; '.join(changed)}); "
      f"put back what there was, or {otherwise}"
    )


def _content(item: tuple[str, epath.Path]) -> bytes:
  name, path = item
  with path.open("rb") as file:
    return name.encode() + hashlib.file_digest(file, "sha256").digest()


def _digest(parts: Iterable[bytes]) -> dict:
  count, told = 0, hashlib.sha256()
  for count, part in enumerate(parts, 1):  # noqa: B007
    told.update(hashlib.sha256(part).digest())
  return {"count": count, "sha256": told.hexdigest()}
