"""Decodes files with TensorFlow-IO; run by `audio.tfio`, in an environment of
its own.

  {"path", "max_seconds"}, a line ─→ {"rate", "channels", "frames", "format"} or
    {"reason", "fix"}, a line; then the samples, float32, interleaved

TensorFlow-IO's last release needs numpy < 2, jax needs numpy 2: nothing of
mgrd_jax is imported here.
"""

import contextlib
import json
import os
import re
import sys

_RAM = "ram://clip"
_KINDS = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "OGG"}
_PCM, _EXTENSIBLE = b"\x01\x00", b"\xfe\xff"
# Programs that write WAV to a pipe cannot know the length and put a huge one.
_STREAMED_BYTES = 0x7F000000
# MPEG-4 audio object types; AAC-LC may be extended to HE-AAC.
_AAC_LC, _SBR, _EXTENDED = 2, 5, b"\x56\xe5"
_FULL_SCALE = {"uint8": 128.0, "int16": 32768.0, "int32": 2147483648.0}


class Refused(Exception):
  """A clip that cannot be used: (reason, fix)."""


def main() -> None:
  """Answers requests from stdin until it closes."""
  # Libraries that print must not print into the answers.
  answers = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  import numpy as np
  import tensorflow as tf
  import tensorflow_io as tfio

  _say(answers, {"ready": tfio.__version__})
  for line in sys.stdin:
    asked = json.loads(line)
    try:
      samples, rate, kind = _decode(tf, tfio, **asked)
      wave = np.ascontiguousarray(_unit(np, samples), "<f4")
    except Refused as refused:
      _say(answers, dict(zip(("reason", "fix"), refused.args, strict=True)))
    else:
      frames, channels = wave.shape
      _say(
        answers,
        {"rate": rate, "channels": channels, "frames": frames, "format": kind},
        wave.data,
      )


def _say(answers, head: dict, body=b"") -> None:
  answers.write(json.dumps(head).encode() + b"\n")
  answers.write(body)
  answers.flush()


def _decode(tf, tfio, path: str, max_seconds):
  """(samples (time, channel) as the file has them, rate, format)."""
  try:
    data = tf.io.read_file(path).numpy()
  except tf.errors.NotFoundError:
    raise Refused("no such file", "check the path") from None
  except tf.errors.OpError as error:
    raise Refused("unreadable file", _first_line(error)) from None
  if not data:
    raise Refused("empty file", "replace it by a complete recording")
  try:
    if data[4:8] == b"ftyp":
      return _aac(tfio, data, max_seconds)
    return _other(tf, tfio, data, max_seconds)
  except tf.errors.OpError as error:
    raise Refused(
      "not audio that can be decoded", f"TensorFlow-IO: {_first_line(error)}"
    ) from None


def _other(tf, tfio, data: bytes, max_seconds):
  """WAV, FLAC, OGG Vorbis and MP3, told by their first bytes."""
  integers = False
  if data[:4] == b"RIFF":
    data, integers = _plain_wav(data)
  kind = _KINDS.get(data[:4], "MP3")
  with tf.io.gfile.GFile(_RAM, "wb") as file:
    file.write(data)
  try:
    return *_tensor(tfio, integers, max_seconds), kind
  finally:
    # Its next writer would append.
    tf.io.gfile.remove(_RAM)


def _tensor(tfio, integers: bool, max_seconds):
  clip = tfio.audio.AudioIOTensor(_RAM)
  rate = int(clip.rate.numpy())
  _check_length(int(clip.shape.numpy()[0]), rate, max_seconds)
  samples = clip.to_tensor().numpy()
  if integers and samples.dtype.name == "float32":
    # TensorFlow-IO takes all 32-bit WAV for floats.
    samples = samples.view("<i4")
  return samples, rate


def _aac(tfio, data: bytes, max_seconds):
  """AAC-LC in MP4; the op tells no rate, and takes every object for LC."""
  entry = re.search(rb"stsd.{12}mp4a.{24}(.{2})", data, re.DOTALL)
  rate = int.from_bytes(entry[1], "big") if entry else 0
  if not rate:
    raise Refused("no AAC in this MP4", "convert it to WAV or FLAC")
  if _object_type(data[entry.end() :]) != _AAC_LC:
    raise Refused("not AAC-LC", "convert it to WAV or FLAC")
  samples = tfio.audio.decode_aac(data).numpy()
  _check_length(len(samples), rate, max_seconds)
  return samples, rate, "AAC"


def _object_type(data: bytes) -> int | None:
  """The audio object type in the descriptors of an esds box, if it has any."""
  # ES_Descr, DecoderConfigDescr, DecSpecificInfo: a tag, a length of up to
  # four bytes, and, before the next one, 3 and 13 bytes.
  length = rb"[\x80-\xff]{0,3}[\x00-\x7f]"
  found = re.search(
    rb"esds.{4}\x03%b.{3}\x04%b.{13}\x05%b(.{1,5})" % (length, length, length),
    data,
    re.DOTALL,
  )
  if not found:
    return None
  config = found[1]
  if config[2:4] == _EXTENDED and config[4:5] >= b"\x80":
    return _SBR
  return config[0] >> 3


def _plain_wav(data: bytes) -> tuple[bytes, bool]:
  """(the WAV with no chunk but format and samples, whether it is of integers).

  TensorFlow-IO steps over no pad byte, and knows few other chunks.
  """
  at, form = 12, b""
  while at + 8 <= len(data):
    tag = data[at : at + 4]
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    body = data[at + 8 : at + 8 + size]
    if tag == b"data":
      break
    form = body if tag == b"fmt " else form
    at += 8 + size + size % 2
  else:
    body = b""
  if len(form) < 16 or not body:
    raise Refused("no samples", "replace it by a complete recording")
  if len(body) < size < _STREAMED_BYTES:
    raise Refused("corrupt or cut short", "copy or download it again")
  code = form[:2] if form[:2] != _EXTENSIBLE else form[24:26]
  form = code + form[2:16]
  body = body[: len(body) - len(body) % int.from_bytes(form[12:14], "little")]
  chunks = b"".join(
    tag + len(part).to_bytes(4, "little") + part
    for tag, part in ((b"fmt ", form), (b"data", body))
  )
  head = b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WAVE"
  return head + chunks, code == _PCM


def _check_length(frames: int, rate: int, max_seconds) -> None:
  seconds = frames / rate
  if max_seconds is not None and seconds > max_seconds:
    raise Refused(
      "too long",
      f"{seconds:.1f} s where {max_seconds:g} s are allowed: cut it",
    )


def _unit(np, samples):
  """Samples of any type as float32, full scale 1, as libsndfile scales."""
  scale = _FULL_SCALE.get(samples.dtype.name)
  if scale is None:
    return samples
  wave = samples.astype(np.float32)
  if samples.dtype.name == "uint8":
    wave -= np.float32(128)
  return wave / np.float32(scale)


def _first_line(error) -> str:
  text = re.sub(r"^\{\{.*?\}\}|\[Op:.*", "", str(error.message)).strip()
  return text.splitlines()[0] if text else type(error).__name__


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
    main()
