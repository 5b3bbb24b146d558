"""Clips of every kind, good and bad, through audio.io."""

import io as stdlib_io
import pickle

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from mgrd_jax.audio import io


def tone(seconds=0.5, rate=16_000, hz=440.0):
  time = np.arange(int(seconds * rate)) / rate
  return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def encoded(wave, rate=16_000, format="WAV", subtype="PCM_16"):
  buffer = stdlib_io.BytesIO()
  soundfile.write(buffer, wave, rate, format=format, subtype=subtype)
  return buffer.getvalue()


def peak_hz(wave, rate=16_000):
  power = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
  return np.argmax(power) * rate / len(wave)


def reason_of(data, **kwargs):
  with pytest.raises(io.AudioError) as caught:
    io.read(data, **kwargs)
  assert "\n" not in str(caught.value)
  return caught.value.reason


@pytest.mark.parametrize(
  "format, subtype",
  [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
  ],
)
def test_each_format_is_decoded_by_content_whatever_its_name(
  tmp_path, format, subtype
):
  file = tmp_path / "clip.wav"
  file.write_bytes(encoded(tone(), format=format, subtype=subtype))
  wave, info = io.read(file)
  assert wave.dtype == np.float32
  assert info.format == format
  # Lossy codecs pad to whole blocks: at most 1152 samples each side.
  assert abs(len(wave) - 8000) <= 2 * 1152
  assert peak_hz(wave) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_any_rate_becomes_16_khz_with_pitch_and_length_kept(rate):
  wave, info = io.read(encoded(tone(1.0, rate), rate))
  assert info.rate == rate
  assert info.seconds == pytest.approx(1.0)
  assert abs(len(wave) - 16_000) <= 1
  assert peak_hz(wave) == pytest.approx(440, abs=2)
  # The edges ring; in between the amplitude stays.
  assert np.abs(wave[2000:-2000]).max() == pytest.approx(0.5, abs=0.01)


def test_stereo_gives_channel_zero_unless_the_mean_is_asked_for():
  left, right = tone(hz=440), tone(hz=880)
  data = encoded(np.stack([left, right], axis=1), subtype="FLOAT")
  first, info = io.read(data)
  mean, _ = io.read(data, mono="mean")
  assert info.channels == 2
  np.testing.assert_array_equal(first, left)
  # One float32 rounding.
  np.testing.assert_allclose(mean, (left + right) / 2, atol=1e-7)


def test_a_minute_is_read_whole_and_can_be_refused_by_length():
  data = encoded(np.zeros(60 * 8000, np.float32), 8000)
  assert len(io.read(data)[0]) == 60 * 16_000
  assert len(io.read(data, max_seconds=60)[0]) == 60 * 16_000
  with pytest.raises(io.AudioError, match="60.0 s where 30 s are allowed"):
    io.read(data, max_seconds=30)


def test_bytes_that_are_no_audio_are_refused_with_a_reason():
  assert reason_of(b"") == "empty file"
  assert reason_of(b"some words\n" * 99) == "not audio that can be decoded"
  assert reason_of(b"\0" * 4096) == "not audio that can be decoded"
  assert reason_of(encoded(tone(0.0))) == "no samples"
  # One sample at 48 kHz is none at 16 kHz.
  assert reason_of(encoded(tone(1.5 / 48_000, 48_000), 48_000)) == "no samples"


@pytest.mark.parametrize(
  "format, subtype",
  [
    ("WAV", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
  ],
)
def test_half_a_file_is_refused_and_not_read_as_a_shorter_clip(
  format, subtype
):
  data = encoded(tone(5.0), format=format, subtype=subtype)
  assert len(io.read(data)[0]) >= 5 * 16_000
  assert reason_of(data[: len(data) // 2]) == "corrupt or cut short"


def test_a_wav_from_a_pipe_may_promise_more_than_it_holds():
  data = bytearray(encoded(tone()))
  at = data.index(b"data") + 4
  data[at : at + 4] = (0x7FFFF000).to_bytes(4, "little")
  assert len(io.read(bytes(data))[0]) == 8000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(bad):
  wave = tone()
  wave[17] = bad
  assert (
    reason_of(encoded(wave, subtype="FLOAT")) == "NaN or infinite samples"
  )
  # A fault of the file, whichever channel is heard.
  both = np.stack([tone(), wave], axis=1)
  assert (
    reason_of(encoded(both, subtype="FLOAT")) == "NaN or infinite samples"
  )


def test_samples_too_loud_for_a_power_in_float32_are_refused():
  wave = tone()
  assert np.abs(io.read(encoded(32_768 * wave, subtype="FLOAT"))[0]).max() > 99
  reason = reason_of(encoded(np.float32(1e30) * wave, subtype="FLOAT"))
  assert reason.startswith("samples up to ")


def test_missing_files_and_folders_are_named(tmp_path):
  with pytest.raises(io.AudioError, match="gone.wav: no such file; check"):
    io.read(tmp_path / "gone.wav")
  assert reason_of(tmp_path) == "a folder, not a file"
  assert reason_of(b"", name="a.wav#3") == "empty file"
  with pytest.raises(io.AudioError, match="^a.wav: empty"):
    io.read(b"", name="a.wav")


def test_an_unknown_way_to_mono_is_refused():
  with pytest.raises(ValueError, match="left"):
    io.read(encoded(tone()), mono="left")


def test_an_audio_error_survives_the_way_back_from_a_worker():
  error = io.AudioError("a.wav", "empty file", "replace it")
  again = pickle.loads(pickle.dumps(error))
  assert (str(again), again.reason) == (str(error), error.reason)


def test_what_is_written_is_read_back(tmp_path):
  wave = tone()
  io.write_wav(tmp_path / "a.wav", wave, 16_000)
  again, info = io.read(tmp_path / "a.wav")
  assert info.rate == 16_000
  # Half a 16-bit step.
  np.testing.assert_allclose(again, wave, atol=0.5 / 32768)
  assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=50))
def test_int16_survives_the_way_through_float(samples):
  wave = np.array(samples, np.int16)
  np.testing.assert_array_equal(io.to_int16(io.from_int16(wave)), wave)


def test_loud_floats_are_clipped_and_do_not_wrap():
  wave = np.array([1.0, 1.5, -1.0, -2.0], np.float32)
  assert io.to_int16(wave).tolist() == [32767, 32767, -32768, -32768]
