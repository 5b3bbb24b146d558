"""TensorFlow-IO, in its own environment, decodes as libsndfile does."""

import json
import pathlib
import pickle
import re
import time

import numpy as np
import pytest
import soundfile

from experiments import prepare
from mgrd_jax.audio import io, tfio
from mgrd_jax.data import schema, sources

ROOT = pathlib.Path(__file__).parents[2]
HOME = ROOT / ".venv-tfio"
AAC = ROOT / "tests" / "data" / "audio" / "tone.m4a"


@pytest.fixture(scope="module")
def decode():
  with tfio.Decoder(HOME) as decoder:
    yield decoder


def noise(frames, channels=1):
  rng = np.random.default_rng(frames + channels)
  # Full scale to both sides, and silence.
  wave = rng.uniform(-1, 1, (frames, channels))
  wave[:4, 0] = -1, 1, 0, 1 - 2**-15
  return wave


@pytest.mark.tfio
@pytest.mark.parametrize("mono", ["first", "mean"])
@pytest.mark.parametrize(
  "rate, channels", [(16_000, 1), (44_100, 2), (8_000, 2), (48_000, 1)]
)
@pytest.mark.parametrize(
  "format, subtype",
  [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAVEX", "PCM_16"),
    ("WAVEX", "PCM_32"),
    ("WAVEX", "FLOAT"),
    ("FLAC", "PCM_S8"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
  ],
)
def test_wav_and_flac_are_libsndfiles_sample_for_sample(
  tmp_path, decode, format, subtype, rate, channels, mono
):
  path = tmp_path / "clip.bin"
  wave = noise(rate // 4 + 3, channels)
  soundfile.write(path, wave, rate, format=format, subtype=subtype)
  ours, told = io.read(path, mono=mono)
  theirs, said = io.read(path, mono=mono, decode=decode)
  assert len(ours) == pytest.approx(len(wave) * 16_000 / rate, abs=1)
  np.testing.assert_array_equal(theirs, ours)
  assert (said.rate, said.channels, said.seconds) == (
    told.rate,
    told.channels,
    told.seconds,
  )
  assert said.format == format.removesuffix("EX")


@pytest.mark.tfio
def test_aac_in_mp4_is_the_tone_that_was_encoded(decode):
  wave, info = io.read(AAC, decode=decode)
  assert (info.rate, info.channels, info.format) == (22_050, 2, "AAC")
  # Of 14 packets: the first, the encoder's delay, is there, the last is not.
  assert info.seconds == 13 * 1024 / 22_050
  middle = wave[len(wave) // 2 - 2000 :][:4000]
  spectrum = np.abs(np.fft.rfft(middle * np.hanning(4000)))
  assert spectrum.argmax() * 4 == 440
  # A sine of 1/8, panned to two channels.
  assert np.abs(middle).max() == pytest.approx(0.125 / 2**0.5, rel=0.05)
  with pytest.raises(io.AudioError, match="not audio that can be decoded"):
    io.read(AAC)


@pytest.mark.tfio
@pytest.mark.parametrize("format", ["OGG", "MP3"])
def test_lossy_files_come_out_alike(tmp_path, decode, format):
  path = tmp_path / "clip"
  time_W = np.arange(16_000) / 16_000
  soundfile.write(path, 0.3 * np.sin(2765 * time_W), 16_000, format=format)
  ours, theirs = io.read(path)[0], io.read(path, decode=decode)[0]
  # Decoders of MP3 cut the codec's delay off or leave it there.
  assert abs(len(ours) - len(theirs)) <= 2 * 1152
  ours, theirs = ours[4000:12000], theirs[4000:12000]
  assert np.sqrt(np.mean(ours**2)) == pytest.approx(
    np.sqrt(np.mean(theirs**2)), rel=0.01
  )


def cut(data: bytes) -> bytes:
  return data[: len(data) // 2]


@pytest.mark.tfio
@pytest.mark.parametrize(
  "name, damage, reason, fix",
  [
    ("gone", lambda p: p.unlink(), "no such file", "check the path"),
    ("empty", lambda p: p.write_bytes(b""), "empty file", "replace it"),
    (
      "words",
      lambda p: p.write_text("these are words " * 50),
      "not audio that can be decoded",
      "TensorFlow-IO: ",
    ),
    (
      "half a WAV",
      lambda p: p.write_bytes(cut(p.read_bytes())),
      "corrupt or cut short",
      "copy or download it again",
    ),
    (
      "ADPCM",
      lambda p: soundfile.write(
        p, noise(8000), 16_000, format="WAV", subtype="IMA_ADPCM"
      ),
      "not audio that can be decoded",
      "TensorFlow-IO: WAV file must have `wFormatTag` 1 or 3",
    ),
    (
      "HE-AAC",
      lambda p: p.write_bytes(as_object(AAC.read_bytes(), 5)),
      "not AAC-LC",
      "convert it to WAV or FLAC",
    ),
    (
      "HE-AAC that begins as LC",
      lambda p: p.write_bytes(
        AAC.read_bytes().replace(b"\x56\xe5\x00", b"\x56\xe5\xa0", 1)
      ),
      "not AAC-LC",
      "convert it to WAV or FLAC",
    ),
    (
      "half an MP4",
      lambda p: p.write_bytes(cut(AAC.read_bytes())),
      "no AAC in this MP4",
      "convert it",
    ),
  ],
)
def test_a_clip_that_cannot_be_decoded_is_named(
  tmp_path, decode, name, damage, reason, fix
):
  path = tmp_path / f"{name}.bin"
  soundfile.write(path, noise(8000), 16_000, format="WAV")
  damage(path)
  with pytest.raises(io.AudioError) as caught:
    io.read(path, decode=decode, name=name)
  assert (caught.value.name, caught.value.reason) == (name, reason)
  assert fix in caught.value.fix and "\n" not in str(caught.value)


def as_object(data: bytes, kind: int) -> bytes:
  """An MP4 whose audio says that it is of another object type."""
  at = data.index(b"\x05\x80\x80\x80") + 5
  changed = bytes([kind << 3 | data[at] & 7])
  return data[:at] + changed + data[at + 1 :]


@pytest.mark.tfio
def test_long_clips_are_refused_with_their_length(tmp_path, decode):
  path = tmp_path / "long.flac"
  soundfile.write(path, noise(40_000), 16_000)
  with pytest.raises(io.AudioError, match="too long; 2.5 s where 2 s are"):
    io.read(path, decode=decode, max_seconds=2)
  assert len(io.read(path, decode=decode, max_seconds=3)[0]) == 40_000


@pytest.mark.tfio
def test_a_flac_cut_short_costs_its_patience_and_no_more(tmp_path):
  path, good = tmp_path / "cut.flac", tmp_path / "good.flac"
  soundfile.write(good, noise(40_000), 16_000)
  # Before the header of frame 3; libFLAC is at its end and says no more.
  data = good.read_bytes()
  path.write_bytes(data[: re.search(rb"\xff\xf8..\x03", data).start()])
  with tfio.Decoder(HOME, patience=2.0) as decode:
    started = io.read(good, decode=decode)[0]
    start = time.monotonic()
    with pytest.raises(io.AudioError, match="corrupt or cut short"):
      io.read(path, decode=decode)
    assert time.monotonic() - start < 10
    np.testing.assert_array_equal(io.read(good, decode=decode)[0], started)


@pytest.mark.tfio
def test_shards_of_wav_and_flac_are_the_same_with_either_decoder(tmp_path):
  rows = []
  for i, format in enumerate(["WAV", "FLAC", "WAV", "FLAC"]):
    path = tmp_path / f"{i}.{format.lower()}"
    soundfile.write(path, noise(9000 + i, 1 + i % 2), 22_050, format=format)
    rows.append({"id": str(i), "audio": path.name})
  rows.append({"id": "aac", "audio": "tone.m4a"})
  (tmp_path / "tone.m4a").write_bytes(AAC.read_bytes())
  base = {"question": "Q?", "answer": "a", "answer_type": "text"}
  manifest = tmp_path / "m.jsonl"
  manifest.write_text("\n".join(json.dumps(base | row) for row in rows))
  flags = ["shard", str(manifest), "--workers=2", "--examples_per_shard=2"]
  for decoder in ("soundfile", "tensorflow-io"):
    out = tmp_path / decoder
    assert not prepare.main([*flags, f"--out={out}", f"--decoder={decoder}"])
  ours, theirs = (
    sources.read_index(tmp_path / d)["shards"]
    for d in ("soundfile", "tensorflow-io")
  )
  for name in ("clips-00000.arrayrecord", "clips-00001.arrayrecord"):
    assert theirs[name]["sha256"] == ours[name]["sha256"]
  examples, _ = schema.read_manifest(tmp_path / "tensorflow-io/manifest.jsonl")
  assert [e.id for e in examples] == ["0", "1", "2", "3", "aac"]


def test_a_missing_environment_is_one_line_that_names_the_target(
  tmp_path, capsys, monkeypatch
):
  (tmp_path / "a.wav").write_bytes(b"x")
  manifest = tmp_path / "m.jsonl"
  row = {"id": "a", "question": "Q?", "answer": "a", "answer_type": "text"}
  manifest.write_text(json.dumps(row | {"audio": "a.wav"}))
  monkeypatch.setattr(prepare, "TFIO_HOME", tmp_path / "none")
  out = tmp_path / "out"
  flags = ["shard", str(manifest), f"--out={out}", "--decoder=tensorflow-io"]
  assert prepare.main(flags) == 1
  stderr = capsys.readouterr().err
  assert stderr == (
    f"prepare shard: {tmp_path / 'none'}: TensorFlow-IO has no environment "
    "here; run make tfio\n"
  )
  assert not out.exists()


def environment(tmp_path, script: str) -> pathlib.Path:
  """A home whose python is a shell script."""
  python = tmp_path / "home" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text(f"#!/bin/sh\n{script}\n")
  python.chmod(0o755)
  return tmp_path / "home"


def test_an_environment_that_does_not_load_says_why(tmp_path):
  home = environment(tmp_path, "echo 'ImportError: no libtf' >&2; exit 1")
  with pytest.raises(tfio.EnvironmentMissing) as caught:
    tfio.Decoder(home)("a.wav", name="a.wav", max_seconds=None)
  assert str(caught.value) == (
    f"{home}: TensorFlow-IO does not load (ImportError: no libtf); run make "
    "tfio"
  )


def test_one_that_takes_too_long_to_load_is_given_up(tmp_path):
  home = environment(tmp_path, "exec sleep 60")
  with pytest.raises(tfio.EnvironmentMissing, match="it said nothing"):
    tfio.Decoder(home, start=0.2)("a.wav", name="a.wav", max_seconds=None)


def test_a_process_that_dies_refuses_its_clip_and_starts_again(tmp_path):
  # The second answer is half a clip.
  home = environment(
    tmp_path,
    """echo '{"ready": 1}'; read -r asked
    printf '{"rate": 16000, "channels": 1, "frames": 2, "format": "WAV"}\\n'
    printf '\\0\\0\\200\\077\\0\\0\\0\\077'; read -r asked
    printf '{"rate": 16000, "channels": 1, "frames": 9, "format": "WAV"}\\nx'
    """,
  )
  decode = tfio.Decoder(home)
  for _ in range(2):
    assert io.read("a", decode=decode)[0].tolist() == [1.0, 0.5]
    with pytest.raises(io.AudioError, match="b: corrupt or cut short"):
      io.read("b", decode=decode)


def test_the_worker_imports_nothing_that_its_environment_lacks():
  text = tfio.WORKER.read_text()
  assert "mgrd_jax" not in text.split('"""')[2]
  assert "import jax" not in text


def test_a_decoder_can_be_sent_to_another_process(tmp_path):
  home = environment(tmp_path, "exit 1")
  assert pickle.loads(pickle.dumps(tfio.Decoder(home))).home == home
