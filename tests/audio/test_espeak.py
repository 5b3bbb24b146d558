"""The door to espeak-ng: the same samples each time, and what it refuses."""

import numpy as np
import pytest

from mgrd_jax.audio import espeak

pytest.importorskip("espeakng_loader")


def test_the_same_arguments_give_the_same_samples():
  first, again = (espeak.speak("hello there", "en-us+f2") for _ in range(2))
  wave_W, rate = first
  assert rate == again[1] and wave_W.dtype == np.float32
  np.testing.assert_array_equal(wave_W, again[0])
  assert np.abs(wave_W).max() <= 1 and len(wave_W) > 0.2 * rate
  slow_W, _ = espeak.speak("hello there", "en-us+f2", wpm=90.0)
  assert len(slow_W) > 1.3 * len(wave_W)


def test_unknown_accent_is_refused_by_espeak():
  with pytest.raises(ValueError, match="xx-nowhere"):
    espeak.speak("hello", "xx-nowhere")
