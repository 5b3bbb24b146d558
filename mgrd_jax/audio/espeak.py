"""espeak-ng through its wheel: the one place that loads the library.

  text, voice -> samples at the library's own rate

espeak-ng is GPL: an optional extra (`[tiny]`), loaded inside the call and
unloaded after it.  It keeps oscillator and flutter phases across utterances and
offers no reset, so that a fresh load (about 3 ms) is the only way to the same
samples for the same arguments, and no handle is left to share.
"""

from __future__ import annotations

import ctypes

import numpy as np

_SYNCHRONOUS = 2  # samples go to the callback, no sound device is opened
_RATE, _PITCH, _RANGE = 1, 3, 4  # the library's parameter numbers
_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(
  ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def speak(
  text: str,
  voice: str,
  *,
  wpm: float = 175,
  seed: int = 0,
  intonation: int = 0,
) -> tuple[np.ndarray, int]:
  """Speaks `text`; float32 `wave_W` and its sampling rate in Hz.

  `voice` is an accent or accent+variant ("en-us+f2"); espeak-ng refuses an
  unknown accent, and ignores an unknown variant.  `intonation` is its pitch
  range, 0 (monotone but for pitch commands in the text) to 100.  ImportError
  naming the extra if espeak-ng is absent, ValueError for an unknown accent.
  The same samples each time, unless something else in the process holds the
  same library open.
  """
  try:
    import espeakng_loader
  except ImportError as error:
    raise ImportError(
      "speech needs espeak-ng: pip install 'mgrd_jax[tiny]'"
    ) from error
  chunks = []

  @_CALLBACK
  def keep(samples, count, _):
    if samples and count > 0:
      chunks.append(ctypes.string_at(samples, 2 * count))
    return 0

  lib = ctypes.CDLL(espeakng_loader.get_library_path())
  data = espeakng_loader.get_data_path().encode()
  try:
    native = lib.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
    if native <= 0:
      raise RuntimeError("espeak-ng did not start")
    lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))
    lib.espeak_SetSynthCallback(keep)
    if lib.espeak_SetVoiceByName(voice.encode()) != 0:
      raise ValueError(f"espeak-ng has no voice {voice!r}")
    lib.espeak_SetParameter(_RATE, round(wpm), 0)
    lib.espeak_SetParameter(_PITCH, 50, 0)
    lib.espeak_SetParameter(_RANGE, intonation, 0)
    raw = text.encode() + b"\0"
    lib.espeak_Synth(raw, len(raw), 0, 1, 0, _UTF8, None, None)
  finally:
    lib.espeak_Terminate()
    _unload(lib)
  wave_W = np.frombuffer(b"".join(chunks), np.int16).astype(np.float32) / 32768
  return wave_W, native


def _unload(lib):
  import _ctypes

  if hasattr(_ctypes, "dlclose"):
    _ctypes.dlclose(lib._handle)
  else:
    _ctypes.FreeLibrary(lib._handle)
