"""Where clips and Examples lie: files beside a manifest, or ArrayRecord shards.

  ref ("a.wav" | "clips.arrayrecord#17") ─ClipStore.wave→ wave_W at 16 kHz

A record of a shard is the clip's int16 little-endian mono PCM at 16 kHz,
uncompressed and alone in its group, so that reading one costs one seek.  A clip
that cannot be read raises; no silence ever takes its place.
"""

import os
import pathlib
from collections.abc import Iterable

import numpy as np
from array_record.python import array_record_module
from jaxtyping import Float32, Shaped

from mgrd_jax.audio import features, io
from mgrd_jax.data import schema

_WRITER_OPTIONS = "group_size:1,uncompressed"


class ClipStore:
  """The clips that a manifest in folder `root` refers to.

  Shards are opened when first needed and stay open; a pickled store (the
  processes that measure get one) opens them anew.

  Args:
    root: the manifest's folder.
    mono: "first" or "mean", see `audio.io.read`.
    max_seconds: clips longer than this raise.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    mono: str = "first",
    max_seconds: int | float | None = None,
  ):
    self.root = pathlib.Path(root)
    self.mono = mono
    self.max_seconds = max_seconds
    self._readers = {}

  def wave(self, ref: str) -> Float32[np.ndarray, " W"]:
    """The clip as float32 mono at 16 kHz.

    Raises:
      io.AudioError: the clip or its shard is missing or corrupt, or the clip
        is too long, or so short that no audio token stands for it.
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
        self.root / file, mono=self.mono, max_seconds=self.max_seconds, name=ref
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

  def _reader(self, file: str):
    if file not in self._readers:
      path = self.root / file
      if not path.is_file():
        raise io.AudioError(file, "no such file", "check the path")
      reader = array_record_module.ArrayRecordReader(str(path))
      # A file of another kind opens without a word and looks empty.
      if not reader.num_records():
        raise io.AudioError(file, "no ArrayRecord of clips", "write it again")
      self._readers[file] = reader
    return self._readers[file]

  def __getstate__(self):
    return self.__dict__ | {"_readers": {}}


def write_clips(
  path: str | os.PathLike, waves: Iterable[Shaped[np.ndarray, " _W"]]
) -> list[str]:
  """Writes clips into one ArrayRecord shard, whole or not at all.

  Args:
    path: the shard, "….arrayrecord"; its folder exists.
    waves: wave_W's at 16 kHz, float32 in [-1, 1] or int16, of any lengths.

  Returns:
    One ref a clip, "name.arrayrecord#i", relative to the shard's folder.

  Raises:
    ValueError: the name does not end in .arrayrecord, there are no clips, or
      one is empty.
  """
  path = pathlib.Path(path)
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
      writer.write(wave_W.astype("<i2").tobytes())
      refs.append(f"{path.name}#{len(refs)}")
    if not refs:
      raise ValueError(f"{path}: no clips to write")
    writer.close()
    os.replace(part, path)
  finally:
    if writer.is_open():
      writer.close()
    part.unlink(missing_ok=True)
  return refs


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
