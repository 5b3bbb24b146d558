"""wave_BW -> log-mel, and all frame arithmetic (100 -> 50 -> 25 -> 12.5 Hz).

    |STFT|^2 -> Slaney mel -> log10 -> max(., clip max - 8) -> (. + 4) / 4

Step-Audio's front end: 16 kHz, 479 zeros appended, n_fft 400, hop 160,
periodic Hann, centred with reflection, the last frame dropped.  Qwen2-Audio's
is Whisper's: the same on a clip that zeros pad to 30 s.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

RATE = 16_000
N_FFT = 400
HOP = 160
MELS = 128
TAIL = 479
CHUNK = 25 * RATE
MAX_SAMPLES = 479_680  # 29.98 s: 3000 mel frames, 1500 encoder positions
WINDOW = 30 * RATE  # what Qwen2-Audio pads every clip to
CONVENTIONS = ("hf", "vllm", "qwen2-audio")


def mel_frames(samples):
  """Mel frames R of a clip: ceil(samples / 160) + 2."""
  return (samples + TAIL) // HOP


def encoder_input_len(samples):
  """The length that masks the encoder: R - 2, as in the reference code."""
  return (samples + HOP - 1) // HOP


def conv_frames(mel):
  """Frames after the stride-2 convolution (50 Hz)."""
  return (mel - 1) // 2 + 1


def pooled_frames(mel):
  """Frames that exist after average pooling (25 Hz), valid or not."""
  return conv_frames(mel) // 2


def encoder_frames(input_len):
  """Valid frames after the encoder (25 Hz)."""
  return (input_len + 1) // 2 // 2


def adapter_frames(encoder_len):
  """Valid frames after the adapter (12.5 Hz)."""
  return (encoder_len - 1) // 2 + 1


def fixed_frames(input_len):
  """Valid frames after Qwen2-Audio's encoder (25 Hz)."""
  return (conv_frames(input_len) - 2) // 2 + 1


def token_count(samples: int, convention: str = "hf") -> int:
  """Audio placeholders of one chunk of `samples` at 16 kHz.

  "hf" follows Step-Audio's published modelling code, "vllm" its serving fork,
  which counts the two extra frames; they differ for a quarter of all lengths.
  "qwen2-audio" counts that model's 25 Hz states.

  Raises:
    ValueError: over 479,680 samples (Qwen2-Audio: 480,000), or an unknown
      convention.
  """
  most = WINDOW if convention == "qwen2-audio" else MAX_SAMPLES
  if samples > most:
    raise ValueError(
      f"a chunk of {samples} samples ({samples / RATE:.2f} s) is over the "
      f"limit of {most} ({most / RATE:g} s); split it with features.chunks"
    )
  if convention == "qwen2-audio":
    return fixed_frames(encoder_input_len(samples))
  frames = encoder_input_len(samples)
  if convention == "hf":
    return adapter_frames(encoder_frames(frames))
  if convention == "vllm":
    return adapter_frames(encoder_frames(frames + 2))
  raise ValueError(
    f"unknown token count convention {convention!r}; have {CONVENTIONS}"
  )


def chunks(samples: int, size: int = CHUNK) -> list[tuple[int, int]]:
  """Consecutive spans of at most `size` (25 s), each with its audio span."""
  return [
    (start, min(start + size, samples)) for start in range(0, samples, size)
  ]


@functools.cache
def mel_filters() -> np.ndarray:
  """Slaney-scale, Slaney-normalised filters [M, n_fft/2 + 1], float32."""
  import librosa

  return librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=MELS)


@functools.cache
def _bands(count: int = 2) -> tuple[tuple[slice, np.ndarray], ...]:
  """The filters in `count` groups: the bins that a group reads, its weights.

  A filter is narrow, and low ones read low bins: two groups are half of the
  products of one.
  """
  found = []
  for filters_MW in np.split(mel_filters(), count):
    at = np.flatnonzero(filters_MW.any(axis=0))
    bins = slice(at[0], at[-1] + 1)
    found.append((bins, filters_MW[:, bins]))
  return tuple(found)


def _centred(wave_W, samples, frames: int):
  """What `frames` frames span, the first around sample 0, mirrored there.

  Zeros stand past the clip's own samples.
  """
  half, span = N_FFT // 2, (frames + 2) * HOP
  keep_W = jnp.arange(wave_W.shape[0]) < samples
  wave_W = jnp.where(keep_W, wave_W, 0.0).astype(jnp.float32)
  mirrored_W = wave_W[1 : half + 1][::-1]
  before, after = half - mirrored_W.shape[0], span - half - wave_W.shape[0]
  return jnp.concatenate(
    [jnp.zeros(before), mirrored_W, wave_W, jnp.zeros(after)]
  )


def _log_power(wave_W):
  """log10 of the mel power [R, M] of all whole frames."""
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
  window = window.astype(np.float32)
  # A frame is two and a half hops.
  hops = wave_W.reshape(-1, HOP)
  frame_RW = jnp.concatenate(
    [
      hops[:-2] * window[:HOP],
      hops[1:-1] * window[HOP : 2 * HOP],
      hops[2:, : N_FFT - 2 * HOP] * window[2 * HOP :],
    ],
    axis=1,
  )
  spectrum = jnp.fft.rfft(frame_RW)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  exact = jax.lax.Precision.HIGHEST
  mel_RM = jnp.concatenate(
    [
      jnp.einsum("RW,MW->RM", power[:, bins], filters_MW, precision=exact)
      for bins, filters_MW in _bands()
    ],
    axis=1,
  )
  return jnp.log10(jnp.maximum(mel_RM, 1e-10))


def _by_two(one, wave_BW, len_B):
  """`one` over clips; two at a time stay in a core's cache, all do not."""
  return jax.lax.map(lambda clip: one(*clip), (wave_BW, len_B), batch_size=2)


def log_mel(
  wave_BW: Float[Array, "B W"], len_B: Int[Array, " B"]
) -> Float[Array, "B R M"]:
  """Normalised log-mel of a padded batch; rows do not see their padding.

  Args:
    wave_BW: 16 kHz samples, padded right; what lies past `len_B` is ignored.
    len_B: true samples per row.

  Returns:
    [B, R, 128] with R = mel_frames(W); frames past a row's own
    mel_frames(len) are 0.0, the value the reference pads with.
  """
  frames = mel_frames(wave_BW.shape[1])

  def one(wave_W, samples):
    # The appended zeros are longer than half a window, so the reflection on
    # the right mirrors zeros: plain zero padding is the same.
    log_RM = _log_power(_centred(wave_W, samples, frames))
    keep_R1 = (jnp.arange(frames) < mel_frames(samples))[:, None]
    top = jnp.max(jnp.where(keep_R1, log_RM, -jnp.inf))
    return jnp.where(keep_R1, (jnp.maximum(log_RM, top - 8) + 4) / 4, 0.0)

  return _by_two(one, wave_BW, len_B)


def log_mel_30s(
  wave_BW: Float[Array, "B W"], len_B: Int[Array, " B"]
) -> Float[Array, "B R M"]:
  """Log-mel of clips that zeros pad to 30 s: [B, 3000, 128].

  Whisper's front end, which Qwen2-Audio hears by; `encoder_input_len` says
  how many frames are the clip's.

  Raises:
    ValueError: W is over 480,000.
  """
  if wave_BW.shape[1] > WINDOW:
    raise ValueError(
      f"a clip of {wave_BW.shape[1]} samples is over 30 s; split it with "
      "features.chunks"
    )

  def one(wave_W, samples):
    wave_W = _centred(wave_W, samples, WINDOW // HOP)
    # A clip of 30 s is mirrored at its end as well.
    end, past = N_FFT // 2 + WINDOW, 2 * HOP - N_FFT // 2
    wave_W = wave_W.at[end:].set(wave_W[end - 1 - past : end - 1][::-1])
    log_RM = _log_power(wave_W)
    return (jnp.maximum(log_RM, log_RM.max() - 8) + 4) / 4

  return _by_two(one, wave_BW, len_B)
