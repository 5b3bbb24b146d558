"""What signal processing can say of a clip, without a model.

  wave_W -> frames (64 ms, every 10 ms) -> power_RK (shared by all below)
    autocorrelation -> F0, harmonicity      spectrum -> tones, chroma, timbre
    16 ms frames    -> onsets, tempo        levels   -> loudness, dynamics

Numbers only: the thresholds that turn them into words are in
`grounding/verify.py`.  A few transforms of numpy do all of it, about 15 ms for
four seconds; the frames of YIN or pYIN would cost more than the whole.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

FRAME = 1024
HOP_SECONDS = 0.01
FFT = 2048
SILENCE_DBFS = -70.0
F0_RANGE_HZ = (60.0, 500.0)
ACTIVE_BELOW_PEAK_DB = 30.0
# Below, the strongest line of a voice is its fundamental.
TONE_ABOVE_HZ = 325.0


class Facts(TypedDict):
  """Measured quantities of one clip; `nan` where there is nothing to measure.

  duration s; active_share, voiced_share of frames; pauses: seconds of each
  inner silence of 0.2 s or more; level_dbfs of the active part; level_change_db
  from the start of the sound to its end; noise_dbfs, the floor; f0_hz,
  f0_low_hz, f0_high_hz: median, 10th and 90th percentile over voiced frames;
  f0_rise_st over the voiced span and f0_slope_st_s a second, in semitones;
  harmonicity in [0, 1]: mean periodicity of active frames; hnr_db, the same as
  a harmonics-to-noise ratio of voiced frames; high_share: share of power above
  4 kHz in voiced frames; syllable_rate a second of sound; tone_share: share of
  active frames that are one spectral line; tone_hz, its median frequency;
  chroma_share: share of spectral-line power in the strongest three pitch
  classes; mode_score: best major minus best minor triad, in [-1, 1];
  melody_rise_oct: octaves that the part that moves climbs; centroid_hz;
  bright_share: share of power above 2.5 kHz; onset_times s; onset_count;
  tempo_bpm; ioi_cv: coefficient of variation of inter-onset intervals.
  """

  duration: float
  active_share: float
  voiced_share: float
  pauses: tuple[float, ...]
  level_dbfs: float
  level_change_db: float
  noise_dbfs: float
  f0_hz: float
  f0_low_hz: float
  f0_high_hz: float
  f0_rise_st: float
  f0_slope_st_s: float
  harmonicity: float
  hnr_db: float
  high_share: float
  syllable_rate: float
  tone_share: float
  tone_hz: float
  chroma_share: float
  mode_score: float
  melody_rise_oct: float
  centroid_hz: float
  bright_share: float
  onset_times: tuple[float, ...]
  onset_count: int
  tempo_bpm: float
  ioi_cv: float


def facts(wave_W: np.ndarray, rate: int = 16000) -> Facts:
  """Measures every quantity of `Facts`; never fails on odd audio.

  Silence (peak below -70 dBFS), an empty wave included, gives zero counts and
  shares and `nan` for the rest.  ValueError if the wave is not
  one-dimensional or not finite.
  """
  wave_W = np.asarray(wave_W, np.float32)
  if wave_W.ndim != 1 or not np.isfinite(wave_W).all():
    raise ValueError("facts needs one channel of finite samples")
  duration = len(wave_W) / rate
  peak = float(np.abs(wave_W).max(initial=0.0))
  if peak < 10 ** (SILENCE_DBFS / 20):
    return _silent(duration)
  hop = int(rate * HOP_SECONDS)
  frame = round(FRAME * rate / 16000)
  power_RK, hz_K = _power(wave_W, rate, frame, hop, 2 * frame)
  level_R = _frame_level(power_RK, frame)
  active_R = level_R > level_R.max() - ACTIVE_BELOW_PEAK_DB
  f0_R, voicing_R, period_R = _pitch(power_RK, hz_K, rate, frame)
  voiced_R = active_R & (voicing_R > 0.7)
  mean_K = power_RK[active_R].mean(0)
  out = {
    "duration": duration,
    "active_share": float(active_R.mean()),
    "voiced_share": float(voiced_R.mean()),
    "pauses": _pauses(active_R),
    "noise_dbfs": float(np.percentile(level_R, 5)),
    "harmonicity": float(period_R[active_R].mean()),
    "centroid_hz": float((mean_K @ hz_K) / mean_K.sum()),
    "bright_share": float(mean_K[hz_K > 2500].sum() / mean_K.sum()),
  }
  out |= _loudness(level_R, active_R)
  out |= _intonation(f0_R, voiced_R)
  out |= _breath(power_RK, hz_K, period_R, voiced_R)
  out |= {"syllable_rate": _syllable_rate(power_RK, hz_K, active_R)}
  out |= _tones(power_RK, hz_K, active_R)
  out |= _harmony(power_RK, hz_K, active_R)
  out |= _rhythm(wave_W, rate, hop)
  return out


def _silent(duration):
  out = {key: math.nan for key in Facts.__annotations__}
  shares = ("active_share", "voiced_share", "tone_share", "onset_count")
  out |= {key: 0 for key in shares}
  out |= {"duration": duration, "pauses": (), "onset_times": ()}
  return out


def _power(wave_W, rate, frame, hop, size):
  """Power spectra of centred Hann frames: `power_RK`, `hz_K`."""
  padded_W = np.pad(wave_W, frame // 2)
  frames = np.lib.stride_tricks.sliding_window_view(padded_W, frame)[::hop]
  window = np.hanning(frame).astype(np.float32)
  spectra = np.fft.rfft(frames * window, size)
  power_RK = np.square(spectra.real) + np.square(spectra.imag)
  return power_RK, np.fft.rfftfreq(size, 1 / rate)


def _frame_level(power_RK, frame):
  """RMS of each frame in dBFS, the window's own power taken out."""
  weight = np.square(np.hanning(frame)).sum()
  size = 2 * (power_RK.shape[1] - 1)
  mean_R = 2 * power_RK.sum(1) / size / weight
  return 10 * np.log10(mean_R + 1e-12)


def _loudness(level_R, active_R):
  """Level of the active part, and the change of a line fitted through it."""
  index = np.flatnonzero(active_R)
  energy = np.mean(10 ** (level_R[active_R] / 10))
  # The loudest frame of each fifth of a second: notes decay, music may not.
  span = np.arange(index[0], index[-1] + 1)
  parts = np.array_split(level_R[span], max(1, len(span) // 20))
  tops = np.array([part.max() for part in parts])
  change = 0.0
  if len(tops) > 2:
    change = np.polyfit(np.linspace(0, 1, len(tops)), tops, 1)[0]
  return {
    "level_dbfs": float(10 * np.log10(energy)),
    "level_change_db": float(change),
  }


def _pauses(active_R):
  index = np.flatnonzero(active_R)
  gaps = np.diff(index) - 1
  return tuple(float(gap * HOP_SECONDS) for gap in gaps if gap >= 20)


def _pitch(power_RK, hz_K, rate, frame):
  """F0, voicing and periodicity of each frame by autocorrelation.

  The autocorrelation is divided by that of the window (Boersma 1993), so that
  a periodic frame peaks at 1 at its period; the shortest lag within 15 % of
  the best wins, for its multiples are as good.  F0 and voicing come from the
  part below 900 Hz, where breath leaves the harmonics alone; periodicity is
  that of the whole spectrum at the same lag.
  """
  size = 2 * (power_RK.shape[1] - 1)
  window = np.hanning(frame).astype(np.float32)
  own = np.fft.irfft(np.square(np.abs(np.fft.rfft(window, size))))
  first, last = int(rate / F0_RANGE_HZ[1]), int(rate / F0_RANGE_HZ[0])
  own = own[: last + 2] / own[0]

  def correlation(spectra_RK):
    corr = np.fft.irfft(spectra_RK)[:, : last + 2]
    return corr / (corr[:, :1] + 1e-12) / own

  corr = correlation(np.where(hz_K < 900, power_RK, 0))
  inner = corr[:, first : last + 1]
  left, right = corr[:, first - 1 : last], corr[:, first + 1 : last + 2]
  peaks = np.where((inner >= left) & (inner > right), inner, 0.0)
  best_R = peaks.max(1)
  lag_R = np.argmax(peaks >= 0.85 * best_R[:, None], axis=1)
  rows = np.arange(len(corr))
  y0, y1, y2 = (part[rows, lag_R] for part in (left, inner, right))
  curve = y0 - 2 * y1 + y2
  shift_R = np.where(curve < 0, 0.5 * (y0 - y2) / np.minimum(curve, -1e-9), 0.0)
  f0_R = rate / (lag_R + first + np.clip(shift_R, -1, 1))
  whole = correlation(power_RK)
  near = [whole[rows, lag_R + first + step] for step in (-1, 0, 1)]
  return f0_R, y1, np.clip(np.max(near, axis=0), 0.0, 1.0)


def _intonation(f0_R, voiced_R):
  keys = ("f0_hz", "f0_low_hz", "f0_high_hz", "f0_rise_st", "f0_slope_st_s")
  time = np.flatnonzero(voiced_R) * HOP_SECONDS
  if len(time) < 8:
    return dict.fromkeys(keys, math.nan)
  f0 = f0_R[voiced_R]
  low, middle, high = np.percentile(f0, (10, 50, 90))
  pitch = 12 * np.log2(f0 / middle)
  # An octave error is farther off than any phrase moves.
  near = np.abs(pitch) < 9
  slope = 0.0
  if np.ptp(time[near]) > 0.05:
    slope = np.polyfit(time[near], pitch[near], 1)[0]
  rise = slope * np.ptp(time)
  values = (middle, low, high, rise, slope)
  return {key: float(value) for key, value in zip(keys, values, strict=True)}


def _breath(power_RK, hz_K, period_R, voiced_R):
  if not voiced_R.any():
    return {"hnr_db": math.nan, "high_share": math.nan}
  r = np.clip(np.median(period_R[voiced_R]), 0.01, 0.9999)
  mean_K = power_RK[voiced_R].mean(0)
  return {
    "hnr_db": float(10 * np.log10(r / (1 - r))),
    "high_share": float(mean_K[hz_K > 4000].sum() / mean_K.sum()),
  }


def _syllable_rate(power_RK, hz_K, active_R):
  """Peaks of the 200 to 1500 Hz envelope a second of sound.

  A peak counts when 2 dB above the dips beside it and no more than 25 dB below
  the highest (the syllable nuclei of de Jong and Wempe 2009).
  """
  band = (hz_K > 200) & (hz_K < 1500)
  smooth = np.hanning(7) / np.hanning(7).sum()
  level_R = np.convolve(power_RK[:, band].sum(1), smooth, "same")
  level_R = 10 * np.log10(level_R + 1e-12)
  index = np.flatnonzero(active_R)
  span = level_R[index[0] : index[-1] + 1]
  count = len(_summits(span, dip=2.0, floor=span.max() - 25.0))
  # A long frame sees the sound early and late: about 50 ms in all.
  return float(count / max(len(span) * HOP_SECONDS - 0.05, 0.1))


def _summits(curve, *, dip, floor):
  """Indices of maxima above `floor` with falls of `dip` on both sides."""
  found, top, low, rising = [], -math.inf, math.inf, True
  place = 0
  for index, value in enumerate(curve):
    if rising:
      if value > top:
        top, place = value, index
      elif value < top - dip:
        if top > floor:
          found.append(place)
        low, rising = value, False
    elif value < low:
      low = value
    elif value > low + dip:
      top, place, rising = value, index, True
  if rising and top > floor:
    found.append(place)
  return found


def _tones(power_RK, hz_K, active_R):
  """Share of active frames within a third of an octave, and where."""
  loud_RK = power_RK[active_R]
  top_R = loud_RK.argmax(1)
  total = np.cumsum(loud_RK, axis=1)
  low = np.searchsorted(hz_K, hz_K[top_R] * 2 ** (-1 / 6))
  high = np.searchsorted(hz_K, hz_K[top_R] * 2 ** (1 / 6))
  rows = np.arange(len(top_R))
  high = np.minimum(high, len(hz_K) - 1)
  inside = total[rows, high] - total[rows, np.maximum(low - 1, 0)]
  pure_R = (inside > 0.9 * total[:, -1]) & (hz_K[top_R] > TONE_ABOVE_HZ)
  hz = float(np.median(hz_K[top_R[pure_R]])) if pure_R.any() else math.nan
  return {"tone_share": float(pure_R.mean()), "tone_hz": hz}


def _harmony(power_RK, hz_K, active_R):
  """Chroma of the mean spectrum's lines, its triads, and what moves above."""
  band = (hz_K > 240) & (hz_K < 2300)
  # Fifth harmonics are major thirds: keep those of the upper notes out.
  chroma_K = hz_K[band] < 1500
  loud_RK = power_RK[active_R][:, band]
  hz_K = hz_K[band]
  share_RK = loud_RK / (loud_RK.sum(1, keepdims=True) + 1e-12)
  mean_K = share_RK.mean(0)
  inner = mean_K[1:-1]
  line_K = np.zeros_like(mean_K)
  is_line = (inner > mean_K[:-2]) & (inner > mean_K[2:])
  line_K[1:-1] = np.where(is_line, inner, 0) * chroma_K[1:-1]
  octave_K = np.log2(hz_K / 440.0)
  chroma = np.bincount(
    np.round(12 * octave_K).astype(int) % 12, np.sqrt(line_K), minlength=12
  )
  chroma = chroma / (np.linalg.norm(chroma) + 1e-12)
  score = {}
  for name, third in (("major", 4), ("minor", 3)):
    template = np.zeros(12)
    template[[0, third, 7]] = 1 / math.sqrt(3)
    score[name] = max(chroma @ np.roll(template, key) for key in range(12))
  return {
    "chroma_share": float(np.sort(chroma**2)[-3:].sum()),
    "mode_score": float(score["major"] - score["minor"]),
    "melody_rise_oct": _melody_rise(share_RK, octave_K),
  }


def _melody_rise(share_RK, octave_K):
  """Climb, in octaves, of the lowest line that stands above its own median."""
  if len(share_RK) < 20:
    return 0.0
  amp_RK = np.sqrt(share_RK)
  # Tilted down, or bright overtones would pass for the melody.
  moving_RK = (amp_RK - np.median(amp_RK, axis=0)) * 2.0**-octave_K
  top_R = moving_RK.max(1)
  place_R = octave_K[np.argmax(moving_RK > 0.4 * top_R[:, None], axis=1)]
  keep_R = top_R > 0.05
  if keep_R.sum() < 10:
    return 0.0
  time_R = np.linspace(0, 1, len(share_RK))[keep_R]
  return float(np.polyfit(time_R, place_R[keep_R], 1)[0])


def _rhythm(wave_W, rate, hop):
  """Onsets from the rise of band levels, tempo and evenness from onsets."""
  frame = int(rate * 0.016)
  power_RK, hz_K = _power(wave_W, rate, frame, hop // 2, frame)
  edges = np.searchsorted(hz_K, (50, 250, 500, 1000, 2000, 4000))
  bands = np.add.reduceat(power_RK, edges, axis=1)
  level = 10 * np.log10(bands + 1e-12)
  level = np.maximum(level, level.max() - 35.0)
  level = np.pad(level, ((6, 0), (0, 0)), mode="edge")
  rise_R = np.maximum(level[6:] - level[:-6], 0).mean(1)
  step = hop / 2 / rate
  onsets = []
  for place in _summits(rise_R, dip=2.0, floor=4.0):
    if not onsets or place * step - onsets[-1] > 0.15:
      onsets.append(place * step)
  gaps = np.diff(onsets)
  tempo = 60 / float(np.median(gaps)) if len(gaps) else math.nan
  spread = math.nan
  if len(gaps) > 1:
    spread = float(gaps.std() / gaps.mean())
  return {
    "onset_times": tuple(float(round(onset, 3)) for onset in onsets),
    "onset_count": len(onsets),
    "tempo_bpm": tempo,
    "ioi_cv": spread,
  }
