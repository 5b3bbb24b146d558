"""File bytes → mono float32 wave_W, decoded by content, never by extension.

  bytes ─soundfile→ (frames, channels) ─one channel→ ─soxr→ wave_W at 16 kHz
"""

import dataclasses
import io
import os
from typing import Protocol, runtime_checkable

import numpy as np
import soundfile
import soxr
from etils import epath
from jaxtyping import Float32, Int16, Shaped

RATE = 16_000

# Programs that write WAV to a pipe cannot know the length and put a huge one.
_STREAMED_BYTES = 0x7F000000
# What is kept as 16-bit integers in floats passes; a mel power still is finite.
_LOUDEST = 1e6
_MP3_SLACK = 4 * 1152  # frames of a codec's delay that decoders count or not


class AudioError(ValueError):
  """A clip that cannot be used: one line with its name, why and what to do."""

  def __init__(self, name: str, reason: str, fix: str):
    super().__init__(f"{name}: {reason}; {fix}")
    self.name, self.reason, self.fix = name, reason, fix

  def __reduce__(self):
    return type(self), (self.name, self.reason, self.fix)


@dataclasses.dataclass(frozen=True)
class Info:
  """The file as it was found: rate in Hz, seconds before resampling."""

  seconds: float
  rate: int
  channels: int
  format: str


@runtime_checkable
class Decode(Protocol):
  """A decoder of files: `audio.tfio.Decoder` is one.

  Returns float32 samples (time, channel) at the file's own rate; raises
  AudioError, of a clip longer than `max_seconds` before it is decoded.
  """

  def __call__(
    self, path: str, *, name: str, max_seconds: int | float | None
  ) -> tuple[np.ndarray, Info]: ...


def read(
  path_or_bytes: str | os.PathLike | bytes,
  *,
  rate: int = RATE,
  mono: str = "first",
  max_seconds: int | float | None = None,
  name: str | None = None,
  decode: Decode | None = None,
) -> tuple[Float32[np.ndarray, " W"], Info]:
  """Decodes WAV, FLAC, OGG (Vorbis, Opus) or MP3 into one channel at `rate`.

  Args:
    path_or_bytes: a file, or its content.
    rate: samples a second of the result, Hz.
    mono: "first" keeps channel 0, as the released Step-Audio front end does
      (its modelling code averages nothing); "mean" averages the channels.
    max_seconds: refuse longer clips, before they are decoded.
    name: what errors call the clip; its path unless given.
    decode: decodes the file instead of libsndfile, from its path.

  Returns:
    wave_W in about [-1, 1] (lossy codecs overshoot a little), and the `Info`.

  Raises:
    AudioError: the file is missing, empty, cut short or no audio; it has no
      samples, or NaN, infinite or absurdly loud ones; it is longer than
      `max_seconds`.
  """
  if mono not in ("first", "mean"):
    raise ValueError(f'mono is "first" or "mean", not {mono!r}')
  if isinstance(path_or_bytes, bytes):
    name = name or "audio bytes"
    frames, info = _decode(path_or_bytes, name, max_seconds)
  else:
    path = os.fspath(path_or_bytes)
    name = name or path or '""'
    if decode is None:
      frames, info = _decode(_file_bytes(path, name), name, max_seconds)
    else:
      frames, info = decode(path, name=name, max_seconds=max_seconds)
  if not np.isfinite(frames).all():
    raise AudioError(
      name, "NaN or infinite samples", "export it again, as 16-bit PCM"
    )
  if len(frames) and np.abs(frames).max() > _LOUDEST:
    raise AudioError(
      name,
      f"samples up to {np.abs(frames).max():.0e}, where full scale is 1",
      "export it again, as 16-bit PCM",
    )
  wave_W = frames[:, 0] if mono == "first" else frames.mean(axis=1)
  if info.rate != rate:
    wave_W = soxr.resample(wave_W, info.rate, rate)
  if not len(wave_W):
    raise AudioError(name, "no samples", "replace it by a complete recording")
  return np.ascontiguousarray(wave_W, np.float32), info


def write_wav(
  path: str | os.PathLike,
  wave_W: Shaped[np.ndarray, " W"],
  rate: int = RATE,
) -> None:
  """Writes 16-bit PCM WAV; float samples beyond [-1, 1) are clipped.

  The file appears whole or not at all.
  """
  if wave_W.dtype != np.int16:
    wave_W = to_int16(wave_W.astype(np.float32))
  target = epath.Path(path)
  part = target.with_name(f".{target.name}.part")
  buffer = io.BytesIO()
  soundfile.write(buffer, wave_W, rate, format="WAV", subtype="PCM_16")
  part.write_bytes(buffer.getvalue())
  part.replace(target)


def to_int16(wave_W: Float32[np.ndarray, " W"]) -> Int16[np.ndarray, " W"]:
  """round(32768·x), clipped to 16 bits; the inverse of `from_int16`."""
  return np.clip(np.rint(wave_W * 32768.0), -32768, 32767).astype(np.int16)


def from_int16(wave_W: Int16[np.ndarray, " W"]) -> Float32[np.ndarray, " W"]:
  """x / 32768, in [-1, 1)."""
  return wave_W.astype(np.float32) / np.float32(32768.0)


def _file_bytes(path: str | os.PathLike, name: str) -> bytes:
  try:
    return epath.Path(path).read_bytes()
  except FileNotFoundError:
    raise AudioError(name, "no such file", "check the path") from None
  except IsADirectoryError:
    raise AudioError(name, "a folder, not a file", "name one clip") from None
  except OSError as error:
    why = error.strerror or type(error).__name__
    raise AudioError(name, "unreadable file", why) from None


def _decode(data: bytes, name: str, max_seconds: int | float | None):
  """The samples as float32 (time, channel), and the Info."""
  if not data:
    raise AudioError(name, "empty file", "replace it by a complete recording")
  cut_short = AudioError(
    name, "corrupt or cut short", "copy or download it again"
  )
  if _wav_lacks_bytes(data) or _ogg_lacks_its_end(data):
    raise cut_short
  try:
    file = soundfile.SoundFile(io.BytesIO(data))
  except (soundfile.LibsndfileError, ValueError, TypeError):
    raise AudioError(
      name,
      "not audio that can be decoded",
      "convert it to WAV, FLAC, OGG or MP3",
    ) from None
  with file:
    info = Info(
      seconds=file.frames / file.samplerate,
      rate=file.samplerate,
      channels=file.channels,
      format=file.format,
    )
    if max_seconds is not None and info.seconds > max_seconds:
      raise AudioError(
        name,
        "too long",
        f"{info.seconds:.1f} s where {max_seconds:g} s are allowed: cut it",
      )
    try:
      frames = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, ValueError):
      raise cut_short from None
    # An MP3 says how long it is, and its decoder gives what there is of it.
    if len(frames) < file.frames - _MP3_SLACK:
      raise cut_short
  return frames, info


def _ogg_lacks_its_end(data: bytes) -> bool:
  """Whether an Ogg file's last page is not whole, or not marked as the last.

  RFC 3533, section 6: flags in byte 5 of a page, from byte 26 on how many
  segments it has, the length of each, and those.
  """
  if data[:4] != b"OggS":
    return False
  page = data[data.rfind(b"OggS") :]
  if len(page) < 27:
    return True
  lengths = page[27 : 27 + page[26]]
  whole = 27 + page[26] + sum(lengths)
  return len(page) < whole or not page[5] & 4


def _wav_lacks_bytes(data: bytes) -> bool:
  """Whether a WAV's data chunk promises more bytes than there are.

  libsndfile would return what is left of a half-copied file without a word.
  """
  if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
    return False
  at = 12
  while at + 8 <= len(data):
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    if data[at : at + 4] == b"data":
      return size < _STREAMED_BYTES and at + 8 + size > len(data)
    at += 8 + size + size % 2
  return False
