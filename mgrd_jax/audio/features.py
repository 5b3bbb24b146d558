"""wave_BW -> log-mel, and all frame arithmetic (100 -> 50 -> 25 -> 12.5 Hz).

    |STFT|^2 -> Slaney mel -> log10 -> max(., clip max - 8) -> (. + 4) / 4

Step-Audio's front end: 16 kHz, 479 zeros appended, n_fft 400, hop 160,
periodic Hann, centred with reflection, the last frame dropped.
"""

import functools

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


def token_count(samples: int, convention: str = "hf") -> int:
  """Audio placeholders of one chunk of `samples` at 16 kHz.

  "hf" follows the published modelling code, "vllm" the serving fork, which
  counts the two extra frames; they differ for a quarter of all lengths.

  Raises:
    ValueError: over 479,680 samples, or an unknown convention.
  """
  if samples > MAX_SAMPLES:
    raise ValueError(
      f"a chunk of {samples} samples ({samples / RATE:.2f} s) is over the "
      f"limit of {MAX_SAMPLES} (29.98 s); split it with features.chunks"
    )
  frames = encoder_input_len(samples)
  if convention == "hf":
    return adapter_frames(encoder_frames(frames))
  if convention == "vllm":
    return adapter_frames(encoder_frames(frames + 2))
  raise ValueError(f"unknown token count convention {convention!r}")


def chunks(samples: int) -> list[tuple[int, int]]:
  """Consecutive spans of at most 25 s, each with its own audio span."""
  return [
    (start, min(start + CHUNK, samples)) for start in range(0, samples, CHUNK)
  ]


@functools.cache
def mel_filters() -> np.ndarray:
  """Slaney-scale, Slaney-normalised filters [M, n_fft/2 + 1], float32."""
  import librosa

  return librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=MELS)


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
  samples = wave_BW.shape[1]
  keep_BW = jnp.arange(samples) < len_B[:, None]
  wave_BW = jnp.where(keep_BW, wave_BW, 0.0).astype(jnp.float32)
  # The appended zeros are longer than half a window, so the reflection on
  # the right mirrors zeros: plain zero padding is the same.
  wave_BW = jnp.pad(wave_BW, ((0, 0), (0, TAIL + N_FFT)))
  left_BW = wave_BW[:, 1 : N_FFT // 2 + 1][:, ::-1]
  wave_BW = jnp.concatenate([left_BW, wave_BW], axis=1)
  frames = mel_frames(samples)
  at = np.arange(frames)[:, None] * HOP + np.arange(N_FFT)[None]
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
  spectrum = jnp.fft.rfft(wave_BW[:, at] * window.astype(np.float32))
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  mel_BRM = jnp.einsum("BRW,MW->BRM", power, jnp.asarray(mel_filters()))
  log_BRM = jnp.log10(jnp.maximum(mel_BRM, 1e-10))
  keep_BR1 = (jnp.arange(frames) < mel_frames(len_B)[:, None])[..., None]
  top_B11 = jnp.max(
    jnp.where(keep_BR1, log_BRM, -jnp.inf), axis=(1, 2), keepdims=True
  )
  log_BRM = jnp.maximum(log_BRM, top_B11 - 8.0)
  return jnp.where(keep_BR1, (log_BRM + 4.0) / 4.0, 0.0)
