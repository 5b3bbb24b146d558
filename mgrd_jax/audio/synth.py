"""Clips whose acoustic facts are known: speech, music, series of events.

  attributes, rng -> wave_W float32, 16 kHz, 1.5 to 4 s, |wave| < 1

Every function is deterministic given its arguments and `rng`, holds no state
between calls and works in a spawned process.  Speech needs the optional extra
`[tiny]` (espeak-ng).
"""

from __future__ import annotations

import math

import numpy as np
import soxr

from mgrd_jax.audio import espeak

RATE = 16000
MIN_SECONDS = 1.5
MAX_SECONDS = 4.0

PITCH = ("high", "low")
CONTOUR = ("rising", "falling")
SPEECH_RATE = ("fast", "slow")
LOUDNESS = ("loud", "soft")
QUALITY = ("clear", "breathy")
MODE = ("major", "minor")
TEMPO = ("fast", "slow")
TIMBRE = ("bright", "dark")
DYNAMICS = ("swelling", "fading")
REGULARITY = ("regular", "irregular")

# Median F0 bands in Hz, words a minute, RMS of the voiced part in dBFS and
# beats a minute: what the two words of each attribute mean in this file.
F0_HZ = {"low": (108.0, 126.0), "high": (205.0, 245.0)}
WORDS_PER_MIN = {"slow": (104, 118), "fast": (250, 290)}
SPEECH_DBFS = {"soft": (-36.0, -30.0), "loud": (-20.0, -14.5)}
BEATS_PER_MIN = {"slow": (60.0, 82.0), "fast": (150.0, 190.0)}
SLOWEST_FALLBACK_WPM = 145
# F0 of the first word to the last, in semitones, around the median.
CONTOUR_SEMITONES = (7.0, 9.0)

# The unseen voices are one variant that no training voice has, and one accent
# that no training voice has.
VOICES = {
  "en-us+f1": "train",
  "en-us+f2": "train",
  "en-us+f4": "train",
  "en-us+steph": "train",
  "en-gb-x-rp+f1": "train",
  "en-gb-x-rp+f2": "train",
  "en-gb-x-rp+f5": "train",
  "en-gb-x-rp+linda": "train",
  "en-gb-scotland+f2": "train",
  "en-gb-scotland+f4": "train",
  "en-gb-scotland+steph": "train",
  "en-us-nyc+f1": "train",
  "en-us-nyc+f5": "train",
  "en-us-nyc+linda": "train",
  "en-us+f3": "test",
  "en-gb-x-rp+f3": "test",
  "en-gb-scotland+f3": "test",
  "en-029+f2": "test",
  "en-029+f4": "test",
  "en-029+steph": "test",
}

# Measured with espeak-ng 1.52 at pitch range 0: F0 in Hz at pitch 50, and the
# playback speed that puts both F0 bands inside the reach of the pitch control.
_VARIANTS = {
  "f1": (159.8, 1.00),
  "f2": (169.6, 0.95),
  "f3": (177.8, 0.92),
  "f4": (160.9, 1.00),
  "f5": (183.7, 0.92),
  "steph": (173.6, 1.00),
  "linda": (214.1, 0.84),
}
# F0 relative to that at pitch 50, measured for f2 at every ninth step.
_PITCH_STEPS = np.arange(0, 100, 9)
_PITCH_CURVE = np.array(
  [0.61, 0.66, 0.71, 0.78, 0.857, 0.945, 1.044, 1.15, 1.282, 1.423, 1.58, 1.75]
)

INSTRUMENTS = {
  "organ": "train",
  "strings": "train",
  "flute": "train",
  "reed": "train",
  "piano": "train",
  "pluck": "train",
  "electric": "train",
  "harp": "test",
  "accordion": "test",
  "bell": "test",
}
# Amplitude of harmonics 1.., attack s, decay time constant s (inf: sustained),
# vibrato depth in cents, index of frequency modulation.
_TIMBRES = {
  "organ": ((1, 0.8, 0.5, 0.5, 0.2, 0.3, 0.1, 0.3), 0.02, math.inf, 0, 0),
  "strings": ((1, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2), 0.06, math.inf, 12, 0),
  "flute": ((1, 0.4, 0.15, 0.08, 0.04, 0.02), 0.04, math.inf, 8, 0),
  "reed": ((1, 0.1, 0.7, 0.1, 0.5, 0.1, 0.3), 0.03, math.inf, 0, 0),
  "piano": ((1, 0.6, 0.4, 0.3, 0.2, 0.12, 0.08), 0.004, 0.45, 0, 0),
  "pluck": ((1, 0.8, 0.7, 0.5, 0.45, 0.3, 0.3, 0.2), 0.002, 0.25, 0, 0),
  "electric": ((1, 0.3, 0.2), 0.004, 0.6, 0, 0.8),
  "harp": ((1, 0.5, 0.35, 0.2, 0.12, 0.06), 0.003, 0.35, 0, 0),
  "accordion": ((1, 0.6, 0.5, 0.6, 0.3, 0.3, 0.2), 0.04, math.inf, 15, 0),
  "bell": ((1, 0.5, 0.3), 0.003, 0.5, 0, 0.5),
}
# Exponent of the harmonic amplitudes.
_TIMBRE_POWER = {"bright": 0.5, "dark": 2.0}
# Roots of the five keys, A4 B4 C#5 D#5 F5: the melody ends below 2.1 kHz.
_ROOTS_HZ = 440.0 * 2.0 ** (np.arange(5) * 2 / 12)

TONAL_KINDS = ("beep", "chirp", "buzz")
EVENT_KINDS = ("beep", "chirp", "buzz", "click", "noise", "knock")
EVENT_F0_HZ = {"low": (340.0, 440.0), "high": (1300.0, 1900.0)}
MAX_EVENTS = 6
MIN_GAP = 0.25


def speech(
  text: str,
  *,
  voice: str,
  pitch: str,
  contour: str,
  rate: str,
  loudness: str,
  quality: str,
  rng: np.random.Generator,
  max_seconds: float = MAX_SECONDS,
) -> np.ndarray:
  """Speaks `text` with five known binary attributes; float32 `wave_W`.

  Median F0 in `F0_HZ[pitch]`; words step 7 to 9 semitones up or down over the
  phrase; `WORDS_PER_MIN[rate]`; the voiced part at `SPEECH_DBFS[loudness]`;
  breathy: harmonics weakened, noise that follows the envelope added.  A slow
  phrase too long for `max_seconds` is spoken a little faster, up to
  145 words a minute, and refused with ValueError beyond.  ValueError for
  unknown values, ImportError naming the extra where espeak-ng is absent.
  """
  _member("pitch", pitch, PITCH)
  _member("contour", contour, CONTOUR)
  _member("rate", rate, SPEECH_RATE)
  _member("loudness", loudness, LOUDNESS)
  _member("quality", quality, QUALITY)
  _member("voice", voice, VOICES)
  words = text.split()
  if not words:
    raise ValueError("speech needs at least one word")
  base, speed = _VARIANTS[voice.split("+")[1]]
  centre = rng.uniform(*F0_HZ[pitch])
  span = rng.uniform(*CONTOUR_SEMITONES) * (1 if contour == "rising" else -1)
  f0 = _word_f0(words, centre, span)
  marked = _marked(words, f0 / (base * speed))
  lead = rng.uniform(0.05, 0.3)
  room = max_seconds - lead - 0.05
  wpm = float(rng.uniform(*WORDS_PER_MIN[rate]))
  seed = int(rng.integers(2**31))
  for _ in range(3):
    wave, native = espeak.speak(marked, voice, wpm=wpm / speed, seed=seed)
    wave = _trim(soxr.resample(wave, native * speed, RATE).astype(np.float64))
    seconds = len(wave) / RATE
    if seconds <= room:
      break
    wpm *= 1.03 * seconds / room
    if rate == "fast" or wpm > SLOWEST_FALLBACK_WPM:
      raise ValueError(
        f"{text!r} spoken {rate} by {voice} lasts {seconds:.2f} s and does "
        f"not fit {max_seconds:g} s"
      )
  if len(words) == 1:
    wave = _glide(wave, span)
  if quality == "breathy":
    wave = _breathe(wave, rng)
  wave = wave / _active_rms(wave) * _amp(rng.uniform(*SPEECH_DBFS[loudness]))
  return _finish(wave, lead, rng)


def music(
  *,
  mode: str,
  tempo: str,
  contour: str,
  timbre: str,
  dynamics: str,
  instrument: str,
  rng: np.random.Generator,
) -> np.ndarray:
  """Plays repeated triads under a melody of chord tones; `wave_W`.

  One triad and one melody note a beat at `BEATS_PER_MIN[tempo]`; the melody
  climbs or falls by about 1.5 octaves; bright strengthens, dark weakens the
  upper harmonics; the level changes by 14 to 20 dB over the clip.  ValueError
  for unknown values.
  """
  _member("mode", mode, MODE)
  _member("tempo", tempo, TEMPO)
  _member("contour", contour, CONTOUR)
  _member("timbre", timbre, TIMBRE)
  _member("dynamics", dynamics, DYNAMICS)
  _member("instrument", instrument, INSTRUMENTS)
  bpm = rng.uniform(*BEATS_PER_MIN[tempo])
  lead = rng.uniform(0.05, 0.2)
  beat = 60.0 / bpm
  beats = min(int((MAX_SECONDS - lead) / beat), int(rng.integers(7, 10)))
  total = int(beats * beat * RATE)
  starts = np.round(np.arange(beats) * beat * RATE).astype(int)
  triad = (0, 4, 7) if mode == "major" else (0, 3, 7)
  root = _ROOTS_HZ[rng.integers(len(_ROOTS_HZ))]
  ladder = [12 * octave + step for octave in (0, 1) for step in triad]
  rungs = np.round(np.linspace(0, len(ladder) - 1, beats)).astype(int)
  if contour == "falling":
    rungs = rungs[::-1]
  tone = _tone(instrument, timbre, rng)
  time_W = np.arange(total) / RATE
  chord_W = sum(tone(root * 2 ** (step / 12), time_W) for step in triad)
  wave_W = np.zeros(total)
  gains = rng.uniform(0.9, 1.1, beats)
  for index, start in enumerate(starts):
    stop = starts[index + 1] if index + 1 < beats else total
    span_W = time_W[: stop - start]
    f0 = root * 2 ** (ladder[rungs[index]] / 12)
    # The dark filter must not drown the top of the melody.
    level = 1.2 / min(1.0, float(_tilt_gain(f0, timbre)))
    both_W = 0.5 * chord_W[start:stop] + level * tone(f0, span_W)
    wave_W[start:stop] = both_W * _envelope(span_W, instrument)
  wave_W = _tilt(wave_W, timbre)
  for beat_W, gain in zip(np.split(wave_W, starts[1:]), gains, strict=True):
    beat_W *= gain / beat_W.std()
  swing = rng.uniform(14, 20) * (1 if dynamics == "swelling" else -1)
  wave_W *= _amp(swing * (np.linspace(0, 1, total) - 0.5))
  wave_W *= _amp(rng.uniform(-9, -3)) / np.abs(wave_W).max()
  return _finish(wave_W, lead, rng)


def events(
  *,
  kinds: tuple[str, ...],
  pitch: str,
  regularity: str,
  rng: np.random.Generator,
) -> np.ndarray:
  """A series of 1 to 6 events, one of `kinds` after the other; `wave_W`.

  `pitch` places the tonal kinds (`TONAL_KINDS`) in `EVENT_F0_HZ[pitch]` and
  leaves the others alone.  Onsets are at least `MIN_GAP` s apart: evenly
  (within 1 %) if regular, else short and long gaps in random order.  The
  spacing of fewer than three events says nothing.  ValueError for unknown
  values, no event, or more than six.
  """
  _member("pitch", pitch, PITCH)
  _member("regularity", regularity, REGULARITY)
  for kind in kinds:
    _member("kind", kind, EVENT_KINDS)
  if not 1 <= len(kinds) <= MAX_EVENTS:
    raise ValueError(f"events takes 1 to {MAX_EVENTS} kinds, not {len(kinds)}")
  lead = rng.uniform(0.1, 0.3)
  gaps = _gaps(len(kinds) - 1, regularity, rng)
  onsets = np.concatenate([[0.0], np.cumsum(gaps)])
  f0 = rng.uniform(*EVENT_F0_HZ[pitch])
  wave_W = np.zeros(int((onsets[-1] + 0.25) * RATE))
  for kind, onset in zip(kinds, onsets, strict=True):
    start = int(onset * RATE)
    one = _event(kind, f0, rng) * rng.uniform(0.85, 1.0)
    wave_W[start : start + len(one)] += one
  wave_W *= _amp(rng.uniform(-14, -6))
  return _finish(wave_W, lead, rng)


def _word_f0(words, centre, span):
  """F0 of each word in Hz: a straight line in semitones over the phrase."""
  if len(words) == 1:
    return np.array([centre])
  # Longer words weigh more, so that the median stays at `centre`.
  size = np.array([len(word) for word in words], float)
  middle = np.cumsum(size) - size / 2
  position = (middle - middle[0]) / (middle[-1] - middle[0])
  half = np.interp(size.sum() / 2, middle, position)
  return centre * 2 ** (span * (position - half) / 12)


def _marked(words, ratio):
  """Text with espeak's embedded pitch command before each word."""
  steps = np.interp(ratio, _PITCH_CURVE, _PITCH_STEPS).round().astype(int)
  return " ".join(
    f"\x01{step}P{word}" for step, word in zip(steps, words, strict=True)
  )


def _trim(wave_W):
  loud = np.flatnonzero(np.abs(wave_W) > 0.02 * np.abs(wave_W).max(initial=0))
  if loud.size == 0:
    raise ValueError("espeak-ng returned silence")
  return wave_W[loud[0] : loud[-1] + 1]


def _glide(wave_W, span):
  """Slides F0 by `span` semitones: playback speed changes along the word."""
  speed_W = 2 ** (span * (np.linspace(0, 1, len(wave_W)) - 0.5) / 12)
  place_W = np.cumsum(speed_W)
  place_W = place_W[place_W < len(wave_W)]
  return np.interp(place_W, np.arange(len(wave_W)), wave_W)


def _breathe(wave_W, rng):
  box = np.ones(160) / 160
  envelope_W = np.sqrt(np.convolve(wave_W**2, box, "same"))
  soft_W = np.convolve(wave_W, np.hanning(12) / np.hanning(12).sum(), "same")
  noise_W = np.diff(rng.standard_normal(len(wave_W) + 1)) / math.sqrt(2)
  return 0.45 * soft_W + rng.uniform(0.5, 0.8) * envelope_W * noise_W


def _active_rms(wave_W, frame=320):
  power = np.square(wave_W[: len(wave_W) // frame * frame])
  power = power.reshape(-1, frame).mean(1)
  return math.sqrt(power[power > 0.01 * power.max()].mean())


def _tone(instrument, timbre, rng):
  """The instrument's waveform: (f0 in Hz, times in s) -> samples."""
  partials, _, _, cents, index = _TIMBRES[instrument]
  partials = np.asarray(partials) ** _TIMBRE_POWER[timbre]
  size = 2048
  turns = np.arange(size) * (2 * math.pi / size)
  phases = rng.uniform(0, 2 * math.pi, len(partials))
  bank = np.sin(np.outer(np.arange(1, len(partials) + 1), turns))
  wobble = rng.uniform(4.5, 6.0)

  def tone(f0, time_W):
    count = max(1, min(len(partials), int(7500 / f0)))
    table = partials[:count] @ bank[:count]
    phase_W = f0 * time_W + phases[0] / (2 * math.pi)
    if cents:
      depth = f0 * (2 ** (cents / 1200) - 1) / (2 * math.pi * wobble)
      phase_W = phase_W + depth * np.sin(2 * math.pi * wobble * time_W)
    if index:
      swing_W = np.sin(4 * math.pi * f0 * time_W) * np.exp(-time_W / 0.3)
      phase_W = phase_W + index / (2 * math.pi) * swing_W
    return table[(phase_W * size).astype(np.int64) & (size - 1)]

  return tone


def _envelope(time_W, instrument):
  _, attack, decay, _, _ = _TIMBRES[instrument]
  left_W = time_W[-1] - time_W
  shape_W = np.minimum(1, time_W / attack) * np.minimum(1, left_W / 0.03)
  if math.isfinite(decay):
    return shape_W * np.exp(-time_W / decay)
  # A sustained tone sags a little, or repeated notes would fuse.
  return shape_W * (0.55 + 0.45 * np.exp(-time_W / 0.15))


def _tilt_gain(hz, timbre):
  """The filter of bright (rising from 1 to 4 kHz) or dark (low-pass)."""
  if timbre == "bright":
    return np.clip(np.asarray(hz) / 1000, 1, 4)
  return 1 / (1 + (np.asarray(hz) / 1400) ** 4)


def _tilt(wave_W, timbre):
  # A power of two: FFTs of prime lengths cost ten times more.
  spectrum = np.fft.rfft(wave_W, 1 << 16)
  gain = _tilt_gain(np.linspace(0, RATE / 2, len(spectrum)), timbre)
  return np.fft.irfft(spectrum * gain)[: len(wave_W)]


def _gaps(count, regularity, rng):
  if count == 0:
    return np.zeros(0)
  if regularity == "regular":
    gap = rng.uniform(0.3, min(0.6, 3.2 / count))
    return gap * rng.uniform(0.99, 1.01, count)
  # At least one short and one long gap where there are two.
  is_long = rng.permutation(np.arange(count) % 2 == 0)
  short = rng.uniform(MIN_GAP + 0.01, 0.34, count)
  return np.where(is_long, rng.uniform(0.65, 0.85, count), short)


def _event(kind, f0, rng):
  if kind in TONAL_KINDS:
    time_W = np.arange(int(0.14 * RATE)) / RATE
    sweep_W = 1 + (2.0 * time_W if kind == "chirp" else 0.0 * time_W)
    phase_W = 2 * math.pi * f0 * time_W * sweep_W
    tone_W = np.sin(phase_W)
    if kind == "buzz":
      tone_W *= 0.55 + 0.45 * np.sin(2 * math.pi * 30 * time_W)
    edge_W = np.minimum(time_W, time_W[-1] - time_W) / 0.008
    return tone_W * np.minimum(1, edge_W)
  if kind == "click":
    time_W = np.arange(int(0.012 * RATE)) / RATE
    return rng.choice([-1.0, 1.0], len(time_W)) * np.exp(-time_W / 0.003)
  if kind == "noise":
    time_W = np.arange(int(0.16 * RATE)) / RATE
    edge_W = np.minimum(time_W, time_W[-1] - time_W) / 0.01
    noise_W = 0.35 * rng.standard_normal(len(time_W))
    return np.clip(noise_W, -1, 1) * np.minimum(1, edge_W)
  time_W = np.arange(int(0.12 * RATE)) / RATE
  body_W = np.sin(2 * math.pi * 110 * time_W) * np.exp(-time_W / 0.03)
  tap_W = 0.3 * rng.standard_normal(len(time_W)) * np.exp(-time_W / 0.004)
  return body_W + tap_W


def _finish(wave_W, lead, rng):
  """Lead-in, padding to 1.5 s, faint noise, no clipping; float32."""
  head = int(lead * RATE)
  total = max(int(MIN_SECONDS * RATE), head + len(wave_W) + int(0.05 * RATE))
  total = min(total, int(MAX_SECONDS * RATE))
  wave_W = wave_W[: total - head]
  out_W = np.zeros(total)
  out_W[head : head + len(wave_W)] = wave_W
  peak = np.abs(out_W).max()
  noise = _amp(rng.uniform(-46, -38)) * _active_rms(out_W)
  out_W = out_W + noise * rng.standard_normal(total)
  if peak > 0.95:
    out_W = np.tanh(out_W / 0.95) * 0.95
  return out_W.astype(np.float32)


def _amp(decibel):
  return 10 ** (np.asarray(decibel) / 20)


def _member(name, value, allowed):
  if value not in allowed:
    known = ", ".join(allowed)
    raise ValueError(f"{name} must be one of {known}; not {value!r}")
