"""A trained run listens: `make ask-test`, after `make tiny`.

Ten phrases that occur nowhere in the question set, spoken by espeak-ng in
voices that no training clip has, written at its own rate; half are asked for
the pitch and half for the rate.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
import soundfile

from mgrd_jax.audio import espeak, synth
from mgrd_jax.data import lexicon

ROOT = pathlib.Path(__file__).parent.parent
WORKDIR = pathlib.Path(os.environ.get("MGRD_WORKDIR", ROOT / "out" / "tiny"))
PHRASES = (
  "the boat left the harbour at dawn",
  "please put the kettle on the stove",
  "nobody told me about the meeting",
  "our garden grows beans and onions",
  "she walked along the river alone",
)
# Commands of espeak-ng: the ends of what the question set calls high and low.
PITCH = {"high": 78, "low": 18}
WORDS_PER_MIN = {"fast": 270, "slow": 110}
QUESTION = {
  "pitch": (lexicon.ATTRIBUTE["pitch"], ("high", "low")),
  "rate": (lexicon.ATTRIBUTE["rate"], ("fast", "slow")),
}
SECONDS = 5.0


def cases():
  """(phrase, voice, what is asked, pitch, rate): ten of them."""
  voices = [v for v, part in synth.VOICES.items() if part == "test"]
  for at in range(10):
    yield (
      PHRASES[at % 5],
      voices[at % len(voices)],
      ("pitch", "rate")[at // 5],
      ("high", "low")[at % 2],
      ("fast", "slow")[at // 2 % 2],
    )


def ask(clip, question, options):
  """(answer, seconds) of the command that the README shows."""
  start = time.monotonic()
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.ask",
      f"--workdir={WORKDIR}",
      str(clip),
      question,
      f"--options={','.join(options)}",
      "--json",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)["answer"], time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("intonation", [0, 30])
def test_pitch_and_rate_of_fresh_phrases(intonation, tmp_path):
  assert (WORKDIR / "report.json").exists(), f"{WORKDIR}: run `make tiny` first"
  right, seconds = [], []
  for at, (phrase, voice, asked, pitch, rate) in enumerate(cases()):
    wave_W, native = espeak.speak(
      f"\x01{PITCH[pitch]}P{phrase}",
      voice,
      wpm=WORDS_PER_MIN[rate],
      intonation=intonation,
    )
    clip = tmp_path / f"{at}.wav"
    soundfile.write(clip, 0.2 * wave_W / abs(wave_W).max(), native)
    answer, took = ask(clip, *QUESTION[asked])
    truth = {"pitch": pitch, "rate": rate}[asked]
    print(f"{voice:<22} {asked:<6} {truth:<5} {answer!r} {took:.1f} s")
    right.append(answer == truth)
    seconds.append(took)
  assert sum(right) >= 9
  assert max(seconds) <= SECONDS


@pytest.mark.slow
def test_without_its_clip_the_model_guesses():
  report = json.loads((WORKDIR / "report.json").read_text())
  last = report["stages"][-1]
  assert last["think"]["acc"] >= report["chance"] + 0.2
  assert last["silence"]["acc"] <= report["chance"] + 0.05
  assert last["swap"]["acc"] <= last["swap"]["chance"] + 0.05
  assert last["swap"]["follow"] >= 0.8
