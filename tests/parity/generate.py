"""Writes tests/data/parity: what torch's and transformers' classes gave.

  make parity-data

The arrays let `make test` hold our code to those classes where they are not
installed; `make parity` holds the arrays to the classes.
"""

import json
import pathlib
import tempfile

import numpy as np

from tests.parity import cases, theirs

SURE = 5e-3  # between the two likeliest ids, at every greedy step


def case_arrays(case: cases.Case) -> dict[str, np.ndarray]:
  """What is kept of a case.

  Raises:
    ValueError: two ids were nearly equally likely; other sizes are needed.
  """
  shapes = theirs.shapes(case)
  with tempfile.TemporaryDirectory() as folder:
    cases.write(folder, case, shapes)
    found = theirs.run(case, folder)
  if found["margin"] < SURE:
    raise ValueError(f"{case.name}: greedy ids {found['margin']} apart")
  return {
    "versions": np.array(theirs.versions()),
    "shapes": np.array(json.dumps(shapes)),
    "counts": found["counts"].astype(np.int32),
    "enc": found["enc"].astype(np.float32),
    "logits": found["logits"].astype(np.float32),
    "greedy": found["greedy"].astype(np.int32),
  }


def mel_arrays() -> dict[str, np.ndarray]:
  """Log-mels of `cases.MEL_SAMPLES`, at some frames; see `cases.mel_frames`."""
  waves = [cases.wave(n, "mel", n) for n in cases.MEL_SAMPLES]
  kept = {"versions": np.array(theirs.versions())}
  long_BRM, kept["lengths"] = theirs.qwen2_audio_mel(waves)
  for k, wave_W in enumerate(waves):
    short_RM = theirs.step_audio_mel(wave_W)
    kept[f"frames_{k}"] = np.array(len(short_RM))
    kept[f"step_audio_{k}"] = short_RM[cases.mel_frames(len(short_RM))]
    at_R = cases.mel_frames(int(kept["lengths"][k]), len(long_BRM[k]))
    kept[f"qwen2_audio_{k}"] = long_BRM[k][at_R]
  return kept


def main() -> None:
  cases.DATA.mkdir(parents=True, exist_ok=True)
  made = {case.name: case_arrays(case) for case in cases.CASES.values()}
  made["mel"] = mel_arrays()
  for name, arrays in made.items():
    path = cases.DATA / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.relative_to(pathlib.Path.cwd())}: {path.stat().st_size}")


if __name__ == "__main__":
  main()
