"""Log-mel of a batch of clips, beside librosa and WhisperFeatureExtractor.

All make the same frames of the same clips: 128 bands, no padding to 30 s.
Ours is what loads a data set: clips in, batches in as many threads as cores.
"""

import concurrent.futures
import os
from collections.abc import Iterator

import jax
import librosa
import numpy as np

from experiments import bench_core as core
from mgrd_jax.audio import features as front_end
from mgrd_jax.data import clips as clips_lib


def _librosa(wave_W):
  """Log-mel as one writes it with librosa."""
  mel = librosa.feature.melspectrogram(
    y=wave_W,
    sr=front_end.RATE,
    n_fft=front_end.N_FFT,
    hop_length=front_end.HOP,
    n_mels=front_end.MELS,
  )
  log = np.log10(np.maximum(mel, 1e-10))
  return (np.maximum(log, log.max() - 8) + 4) / 4


def features(quick: bool) -> Iterator[dict]:
  """log-mel of 64 clips of 10 s, against librosa and transformers"""
  clips, seconds, repeats = (3, 0.5, 1) if quick else (64, 10, 25)
  shape = (clips, round(seconds * front_end.RATE))
  wave_BW = np.random.default_rng(0).uniform(-0.5, 0.5, shape)
  waves = list(wave_BW.astype(np.float32))
  program = jax.jit(front_end.log_mel)
  ours = core.clocked(lambda: list(clips_lib.log_mels(waves, program)))

  def compared(other_name, other, least=None):
    return core.rate(
      f"log-mel, {clips} clips of {seconds:g} s",
      core.alternate(ours, core.clocked(other), repeats),
      clips,
      other_name,
      "clips/s",
      goal=least and (">=", least),
    )

  yield compared("librosa", lambda: [_librosa(w) for w in waves], 3)
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    threads = f"librosa, {os.cpu_count()} threads"
    yield compared(threads, lambda: list(pool.map(_librosa, waves)))
  # Its extractor runs in torch where there is torch.
  _, transformers = core.on_all_cores()
  extract = transformers.WhisperFeatureExtractor(feature_size=front_end.MELS)

  def whisper():
    extract(
      waves,
      sampling_rate=front_end.RATE,
      padding="longest",
      return_tensors="np",
    )

  yield compared("WhisperFeatureExtractor", whisper, 1.5)
