"""Where clips and Examples lie: files beside a manifest, or ArrayRecord shards.

  ref ("a.wav" | "clips.arrayrecord#17") ─ClipStore.wave→ wave_W at 16 kHz

A record of a shard is the clip's int16 little-endian mono PCM at 16 kHz,
uncompressed and alone in its group, so that reading one costs one seek.  A clip
that cannot be read raises; no silence ever takes its place.  Where shards.json
stands beside a manifest, its shards are held against their hashes.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
from array_record.python import array_record_module
from etils import epath
from jaxtyping import Float32, Shaped

from mgrd_jax import paths
from mgrd_jax.audio import features, io
from mgrd_jax.data import schema

INDEX = "shards.json"

_WRITER_OPTIONS = "group_size:1,uncompressed"
_REMAKE = "copy it again, or make the shards again"


class ShardError(OSError):
  """A corpus whose shards are not those of its shards.json; one line.

  No `AudioError`: a row with a bad clip can be left out, a lost shard is not
  to go unnoticed.
  """


class ClipStore:
  """The clips that a manifest in folder `root` refers to.

  Shards are opened when first needed and stay open; a pickled store (other
  processes get one) opens them anew.  A shard on gs:// is copied to this
  machine's disk when it is opened.

  Args:
    root: the manifest's folder, here or on gs://.
    mono: "first" or "mean", see `audio.io.read`.
    max_seconds: clips longer than this raise.
    decode: another decoder of files, see `audio.io.read`.

  Raises:
    ShardError: a shard that shards.json names is missing.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    mono: str = "first",
    max_seconds: int | float | None = None,
    decode: io.Decode | None = None,
  ):
    self.root = epath.Path(root)
    self.mono = mono
    self.max_seconds = max_seconds
    self._decode = decode
    self._index = _present(self.root)
    self._readers = {}
    self._copies = None

  def wave(self, ref: str) -> Float32[np.ndarray, " W"]:
    """The clip as float32 mono at 16 kHz.

    Raises:
      io.AudioError: the clip or its shard is missing or corrupt, or the clip
        is too long, or so short that no audio token stands for it.
      ShardError: the shard is not the one that shards.json names.
    """
    wave_W = self._read(ref)
    if not features.token_count(min(len(wave_W), features.CHUNK)):
      raise io.AudioError(
        ref, "too short", "it has no audio token; give at least 0.1 s"
      )
    return wave_W

  def _read(self, ref: str) -> Float32[np.ndarray, " W"]:
    file, record = schema.split_ref(ref)
    if record is None:
      return io.read(
        paths.below(self.root, file),
        mono=self.mono,
        max_seconds=self.max_seconds,
        name=ref,
        decode=self._decode,
      )[0]
    reader = self._reader(file)
    if record >= reader.num_records():
      held = f"{file} holds {reader.num_records()} clips"
      raise io.AudioError(ref, "no such record", held)
    try:
      wave_W = np.frombuffer(reader.read([record])[0], "<i2")
    except (RuntimeError, ValueError):
      raise io.AudioError(
        ref, "corrupt or cut short", "write the shard again"
      ) from None
    seconds = len(wave_W) / io.RATE
    if not len(wave_W):
      raise io.AudioError(ref, "no samples", "write the shard again")
    if self.max_seconds is not None and seconds > self.max_seconds:
      allowed = f"{seconds:.1f} s where {self.max_seconds:g} s are allowed"
      raise io.AudioError(ref, "too long", allowed)
    return io.from_int16(wave_W.astype(np.int16))

  def close(self) -> None:
    """Closes the shards; the next read opens them again."""
    for reader in self._readers.values():
      reader.close()
    self._readers = {}
    if self._copies is not None:
      self._copies.cleanup()
      self._copies = None

  def _reader(self, file: str):
    if file not in self._readers:
      path = paths.below(self.root, file)
      if not path.is_file():
        raise io.AudioError(file, "no such file", "check the path")
      here = self._copy(path) if paths.is_remote(path) else path
      told = self._index.get(file)
      if told and fingerprint(here) != (told["bytes"], told["sha256"]):
        raise ShardError(
          f"{path}: changed since it was made, {INDEX} has another hash; "
          f"{_REMAKE}"
        )
      reader = array_record_module.ArrayRecordReader(str(here))
      # A file of another kind opens without a word and looks empty.
      if not reader.num_records():
        raise io.AudioError(file, "no ArrayRecord of clips", "write it again")
      self._readers[file] = reader
    return self._readers[file]

  def _copy(self, path: epath.Path) -> epath.Path:
    self._copies = self._copies or tempfile.TemporaryDirectory()
    here = epath.Path(self._copies.name) / f"{len(self._readers)}-{path.name}"
    path.copy(here, overwrite=True)
    return here

  def __getstate__(self):
    return self.__dict__ | {"_readers": {}, "_copies": None}


def write_clips(
  path: str | os.PathLike, waves: Iterable[Shaped[np.ndarray, " _W"]]
) -> list[str]:
  """Writes clips into one ArrayRecord shard, whole or not at all.

  Args:
    path: the shard, "….arrayrecord", on this machine; its folder exists.
    waves: wave_W's at 16 kHz, float32 in [-1, 1] or int16, of any lengths.

  Returns:
    One ref a clip, "name.arrayrecord#i", relative to the shard's folder.

  Raises:
    ValueError: the name does not end in .arrayrecord, there are no clips, or
      one is empty.
    OSError: the shard cannot be written, of a full disk for one.
  """
  path = epath.Path(path)
  if path.suffix != ".arrayrecord":
    raise ValueError(f"{path}: name a shard of clips ….arrayrecord")
  part = path.with_name(f".{path.name}.part")
  writer = array_record_module.ArrayRecordWriter(str(part), _WRITER_OPTIONS)
  refs = []
  try:
    for wave_W in waves:
      if not len(wave_W):
        raise ValueError(f"{path}: clip {len(refs)} is empty")
      if wave_W.dtype != np.int16:
        wave_W = io.to_int16(wave_W)
      with _writing(path):
        writer.write(wave_W.astype("<i2").tobytes())
      refs.append(f"{path.name}#{len(refs)}")
    if not refs:
      raise ValueError(f"{path}: no clips to write")
    with _writing(path):
      writer.close()
    os.replace(part, path)
  finally:
    if writer.is_open():
      writer.close()
    part.unlink(missing_ok=True)
  return refs


@contextlib.contextmanager
def _writing(path: epath.Path) -> Iterator[None]:
  try:
    yield
  except RuntimeError as error:
    raise OSError(f"{path}: {str(error).split(';')[0]}") from None


def fingerprint(path: str | os.PathLike) -> tuple[int, str]:
  """(bytes, sha256) of a file on this machine."""
  with open(path, "rb") as file:
    size = os.fstat(file.fileno()).st_size
    return size, hashlib.file_digest(file, "sha256").hexdigest()


def read_index(root) -> dict | None:
  """What shards.json says; None where there is none.

  Raises:
    ShardError: it is damaged.
  """
  path = epath.Path(root) / INDEX
  if not path.is_file():
    return None
  try:
    return json.loads(path.read_bytes())
  except ValueError as error:
    raise ShardError(f"{path}: damaged ({error}); {_REMAKE}") from None


def _present(root) -> dict[str, dict]:
  """What shards.json says of each shard that holds clips.

  One listing instead of a question for each: a corpus has thousands.
  """
  index = read_index(root)
  if index is None:
    return {}
  told = {name: s for name, s in index["shards"].items() if s["rows"]}
  gone = sorted(told.keys() - {path.name for path in root.iterdir()})
  if gone:
    raise ShardError(
      f"{root / gone[0]}: missing ({len(gone)} of the {len(told)} shards that "
      f"{INDEX} names); {_REMAKE}"
    )
  return told


def check_clips(
  store: ClipStore, example: schema.Example
) -> list[schema.Problem]:
  """Decodes each clip of an Example; [] when all are sound."""
  found = []
  for ref in example.audio:
    try:
      store.wave(ref)
    except io.AudioError as error:
      fix = f"{error.name}: {error.fix}"
      found.append(schema.Problem("audio", error.reason, fix))
  return found
