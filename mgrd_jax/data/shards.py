"""A corpus as ArrayRecord shards: many workers, resumed, hashed.

  Examples ─plan→ Unit: a shard's refs ─make, N at a time→ shard, receipt
    ─seal→ shards.json, manifest.jsonl

Shard, receipt, shards.json and manifest each appear whole and in this order, so
a folder with a manifest is whole.  The same call after a kill keeps the shards
that their receipts describe and makes the others.  Folders are local or on
gs://.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

from etils import epath

from mgrd_jax import paths
from mgrd_jax.audio import io
from mgrd_jax.data import schema, sources

MANIFEST = "manifest.jsonl"

_RECEIPTS = ".receipts"
_INPUTS = "inputs.json"


class FolderError(ValueError):
  """A folder that holds something else; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Unit:
  """A shard to be: its name, and the refs of the clips that go into it."""

  name: str
  refs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far a call of `write` is; `kept` shards were there before it."""

  shards: int
  total: int
  kept: int
  clips: int
  refused: int


@dataclasses.dataclass(frozen=True)
class Result:
  """What `write` did.

  Attributes:
    examples: those whose clips are all sound, with refs into the shards.
    refused: ref → what is wrong with the clip.
    shards: how many hold them.
    made: how many of them this call made; the others were whole.
    found: the whole result was there already.
  """

  examples: list[schema.Example]
  refused: dict[str, schema.Problem]
  shards: int
  made: int
  found: bool


def plan(examples: Sequence[schema.Example], size: int) -> list[Unit]:
  """The clips of each `size` examples are a shard, each clip in its first.

  Decided before a clip is read, so shards can be made in any order.
  """
  units, placed = [], set()
  for number, start in enumerate(range(0, len(examples), size)):
    refs = dict.fromkeys(
      r for e in examples[start : start + size] for r in e.audio
    )
    new = tuple(r for r in refs if r not in placed)
    placed.update(new)
    if new:
      units.append(Unit(f"clips-{number:05d}.arrayrecord", new))
  return units


def write(
  examples: Sequence[schema.Example],
  root: str | os.PathLike,
  out: str | os.PathLike,
  *,
  inputs: str,
  size: int,
  workers: int,
  store: Callable[[], sources.ClipStore],
  progress: Callable[[Progress], None] = lambda done: None,
) -> Result:
  """Copies Examples and their clips into shards in the folder `out`.

  Args:
    examples: good rows of a manifest; equal rows give equal shards.
    root: the manifest's folder.
    out: new, or that of an earlier such call.
    inputs: names what decides on the result: rows and settings.
    size: examples a shard.
    workers: shards made at once.  Threads: reading, decoding, resampling and
      hashing let go of the interpreter, and a decoder may be a process.
    store: opens a `ClipStore` of root; called once a worker.
    progress: called after each shard.

  Raises:
    FolderError: out holds other things, or a result from other inputs.
    OSError: a file could not be written or a shard not be made; what is
      whole stays for the next call.
  """
  root, out = epath.Path(root), epath.Path(out)
  units = plan(examples, size)
  # One a worker: an open decoder or shard is of one thread.
  stores = [store() for _ in range(min(workers, len(units)))]
  sealed = _claim(out, inputs)
  known = sources.read_index(out)["shards"] if sealed else None
  receipts: dict[str, dict] = {}
  made = clips = refused = 0
  working = _receipts(units, root, out, known=known, stores=stores)
  with contextlib.closing(working):
    for name, receipt, is_new in working:
      receipts[name] = receipt
      made += is_new
      clips += receipt["rows"]
      refused += len(receipt["refused"])
      done = len(receipts)
      progress(Progress(done, len(units), done - made, clips, refused))
  placed, wrong = _placed(units, receipts)
  result = Result(
    [_moved(e, placed) for e in examples if not wrong.keys() & set(e.audio)],
    wrong,
    shards=sum(r["rows"] > 0 for r in receipts.values()),
    made=made,
    found=sealed and not made,
  )
  if not result.examples:
    _abandon(out, receipts)
  elif not result.found:
    _seal(out, inputs, receipts, result.examples)
  (out / _RECEIPTS).rmtree(missing_ok=True)
  return result


def _claim(out, inputs: str) -> bool:
  """Whether `out` is a whole result of these inputs; makes it ours if new."""
  receipts = out / _RECEIPTS
  index = sources.read_index(out)
  unfinished = _json(receipts / _INPUTS)
  found = index or unfinished
  if found is None:
    if out.exists() and (not out.is_dir() or any(_foreign(out))):
      raise FolderError(
        f"{out}: holds other things; name another --out or remove it first"
      )
    paths.write(receipts / _INPUTS, json.dumps({"inputs": inputs}))
  elif found["inputs"] != inputs:
    what = "an earlier" if index else "an unfinished"
    raise FolderError(
      f"{out}: holds {what} result from other inputs; name another --out or "
      "remove it first"
    )
  return index is not None and (out / MANIFEST).exists()


def _foreign(out) -> Iterator[str]:
  return (p.name for p in out.iterdir() if p.name != _RECEIPTS)


def _receipts(
  units, root, out, *, known, stores
) -> Iterator[tuple[str, dict, bool]]:
  """(name, receipt, made now) of each shard, as they get whole."""
  idle: queue.SimpleQueue = queue.SimpleQueue()
  for one in stores:
    idle.put(one)

  def make(unit):
    own = idle.get()
    try:
      return unit.name, *_make(unit, root, out, own, known)
    finally:
      idle.put(own)

  pool = futures.ThreadPoolExecutor(max(1, len(stores)), "shard")
  try:
    todo = [pool.submit(make, unit) for unit in units]
    for done in futures.as_completed(todo):
      yield done.result()
  finally:
    # What is being made gets whole; the rest is not begun.
    pool.shutdown(cancel_futures=True)
    for one in stores:
      one.close()


def _make(unit: Unit, root, out, store, known) -> tuple[dict, bool]:
  """(receipt, whether it had to be made) of one shard."""
  path = out / _RECEIPTS / f"{unit.name}.json"
  inputs = _stamp(unit, root)
  found = _json(path) if known is None else known.get(unit.name)
  if found and found["inputs"] == inputs:
    if _is_whole(out / unit.name, found):
      return found, False
  elif known is not None:
    raise FolderError(
      f"{out}: holds an earlier result from other inputs (clips of "
      f"{unit.name} have changed); name another --out or remove it first"
    )
  receipt = {"inputs": inputs, **_fill(unit, out, store)}
  paths.write(path, json.dumps(receipt))
  return receipt, True


def _fill(unit: Unit, out, store) -> dict:
  """Decodes a shard's clips into it; says what it holds."""
  rows, refused = 0, []

  def waves():
    nonlocal rows
    for ref in unit.refs:
      try:
        wave_W = store.wave(ref)
      except io.AudioError as error:
        refused.append([ref, error.reason, f"{error.name}: {error.fix}"])
      else:
        rows += 1
        yield wave_W

  kept = waves()
  first = next(kept, None)
  told = {"bytes": 0, "sha256": ""}
  if first is not None:
    size, sha256 = _write_shard(out / unit.name, itertools.chain([first], kept))
    told = {"bytes": size, "sha256": sha256}
  return {"rows": rows, **told, "refused": refused}


def _write_shard(path, waves) -> tuple[int, str]:
  """Writes a shard, here or on gs://; returns its bytes and sha256."""
  with paths.staged(path) as here:
    sources.write_clips(here, waves)
    return sources.fingerprint(here)


def _is_whole(path, receipt: dict) -> bool:
  if not receipt["rows"]:
    return True
  if not path.is_file():
    return False
  if not paths.is_remote(path):
    told = receipt["bytes"], receipt["sha256"]
    return sources.fingerprint(path) == told
  # An object is whole or absent, and its hash would cost its download: that is
  # checked when it is read.
  return path.stat().length == receipt["bytes"]


def _stamp(unit: Unit, root) -> str:
  """What a shard is made from: its refs, sizes and times of their files."""
  digest = hashlib.sha256()
  for ref in unit.refs:
    try:
      found = paths.stamp(paths.below(root, schema.split_ref(ref)[0]))
    except OSError:
      # A row that names a missing clip is refused when it is read.
      found = None
    digest.update(repr((ref, found)).encode())
  return digest.hexdigest()


def _placed(units, receipts) -> tuple[dict, dict]:
  """(old ref → new ref of each stored clip, ref → Problem of each other)."""
  placed, wrong = {}, {}
  for unit in units:
    for ref, reason, fix in receipts[unit.name]["refused"]:
      wrong[ref] = schema.Problem("audio", reason, fix)
    kept = (ref for ref in unit.refs if ref not in wrong)
    placed |= {ref: f"{unit.name}#{i}" for i, ref in enumerate(kept)}
  return placed, wrong


def _moved(example: schema.Example, placed: dict) -> schema.Example:
  audio = tuple(placed[ref] for ref in example.audio)
  return dataclasses.replace(example, audio=audio)


def _seal(out, inputs: str, receipts: dict, examples) -> None:
  shards = {name: receipts[name] for name in sorted(receipts)}
  index = {
    "inputs": inputs,
    "rows": sum(r["rows"] for r in shards.values()),
    "shards": shards,
  }
  paths.write(out / sources.INDEX, json.dumps(index, indent=1) + "\n")
  schema.write_manifest(out / MANIFEST, examples)


def _abandon(out, receipts: dict) -> None:
  """Removes what a call without a usable row has made of `out`."""
  for name in receipts:
    (out / name).unlink(missing_ok=True)
  (out / _RECEIPTS).rmtree(missing_ok=True)
  if not paths.is_remote(out) and not any(out.iterdir()):
    out.rmdir()


def _json(path) -> dict | None:
  """A receipt; None where there is none, or a damaged one."""
  try:
    return json.loads(path.read_bytes())
  except (FileNotFoundError, ValueError):
    return None
