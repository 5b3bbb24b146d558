"""The recipe, killed in every phase of every stage, ends as if it never was.

`make soak` takes ten minutes or so.  SOAK_SEED repeats the moments of a run,
as well as a machine can.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mgrd_jax.eval import measures
from mgrd_jax.train import checkpoint, loop, metrics
from tests.conftest import ROOT, compile_options

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux"),
]
STAGES = (
  "00_encoder", "01_cold_start", "02_text_rlvr", "03_mgrd_1_sft",
  "04_mgrd_1_ppo",
)  # fmt: skip
SPENT = ("wall_s", "peak_rss_mb", "commit")
TIMED = ("clock.json", "result.json", "elicited.json")
FEW = {
  "train": (16, 12, 8, 6, 6, 6),
  "pool": (12, 8, 8, 6, 6, 6),
  "test": (8, 6, 6, 6, 6, 6),
}
KINDS = ("voice", "music", "events", "order", "sums", "logic")
OVERRIDES = {
  **{
    f"data.sizes.{split}.{kind}": count
    for split, counts in FEW.items()
    for kind, count in zip(KINDS, counts, strict=True)
  },
  "data.sizes.text": 60,
  "data.sizes.background": 20,
  # PPO takes every question.
  "audio_rlvr.band": (0, 4),
  "audio_rlvr.steps": 4,
  "text_rlvr.steps": 4,
  "cold_start.steps": 12,
  "encoder.batch_frames": 2000,
  "evaluate.rows": 64,
  "evaluate.max_new": 12,
  "mgrd.steps": 12,
}
# Of a file: more than any of a run but an array, and less than these.
LIMIT = 2**18
FULL = re.compile(
  r"error: \S+/(step_\d+|params): cannot be written \(File too large\); .*"
)
SEED = os.environ.get("SOAK_SEED", str(time.time_ns() % 10_000))


@dataclasses.dataclass(frozen=True)
class Strike:
  """What happens to the recipe: where, how long after, and what.

  `what` is a signal, or 0 for a disk that is full from then on.
  """

  stage: str
  phase: str
  pattern: str
  spread: float
  what: int = signal.SIGKILL


def strikes() -> list[Strike]:
  """In the order of the recipe; patterns are seen from its home folder."""
  found = [
    Strike("data", "is made", "cache/*/.clips.arrayrecord.part", 0.3),
    Strike("data", "is loaded", "cut/load_clock.json", 3.0),
    Strike("data", "is loaded", "cut/load_clock.json", 6.0),
  ]
  for stage in STAGES:
    home = f"cut/stages/{stage}"
    learns = f"{home}/metrics.jsonl"
    phases = [
      ("samples", f"{home}/train_clock.json", 1.5),
      ("begins to learn", learns, 0.5),
      ("saves a step", f"{home}/step_*.orbax-checkpoint-tmp", 0.1),
      ("learns", learns, 2.0),
      ("saves itself", f"{home}/params.new*", 0.1),
      ("is evaluated", f"{home}/params", 1.5),
    ]
    if stage == "00_encoder":
      phases = phases[1:-1]
    found += [Strike(stage, *phase) for phase in phases]
    told = Strike(stage, "learns", learns, 1.0, signal.SIGTERM)
    full = Strike(stage, "learns", learns, 0.0, 0)
    found[-2:-2] = [told, full]
  control = "cut/controls/mgrd_without_grounding_filter"
  return [
    *found,
    Strike("control", "learns", f"{control}/metrics.jsonl", 2.0),
    Strike("report", "is drawn", "cut/report.json", 0.2),
  ]


class Run:
  """The recipe's command with one workdir, started again and again."""

  def __init__(self, home: pathlib.Path, name: str):
    self.home, self.workdir = home, home / name
    self.log = home / f"{name}.log"
    self.process, self.began = None, 0

  @property
  def status(self) -> int | None:
    return self.process and self.process.poll()

  def start(self) -> None:
    values = OVERRIDES | {"data.cache": self.home / "cache"}
    options = compile_options(self.home / "programs")
    environment = {n.upper(): str(value) for n, value in options.items()}
    # One device.
    flags = re.sub(r"--xla_force\S+", "", os.environ.get("XLA_FLAGS", ""))
    self.began = time.time_ns()
    with self.log.open("w") as log:
      self.process = subprocess.Popen(
        [
          sys.executable,
          "-m",
          "experiments.pipeline",
          "--config=configs/pipeline.py:smoke,rounds=1",
          f"--workdir={self.workdir}",
          *(f"--config.{name}={value}" for name, value in values.items()),
        ],
        cwd=ROOT,
        env=os.environ | environment | {"XLA_FLAGS": flags},
        stdout=log,
        stderr=log,
      )

  def reaches(self, pattern: str, without: str) -> bool:
    """Whether this process writes such a file before `without` is there."""
    while not any(map(self.is_new, self.home.glob(pattern))):
      if self.status is not None or any(self.home.glob(without)):
        return False
      time.sleep(0.001)
    return True

  def is_new(self, path: pathlib.Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
      found = path.stat()
      return found.st_mtime_ns > self.began and found.st_size > 0
    return False

  def suffer(self, strike: Strike, delay: float) -> str:
    """Starts, is struck, and ends; says how, or "" if it was too late."""
    if self.process is None or self.status is not None:
      self.start()
    stage = STAGES[0] if strike.stage == "data" else strike.stage
    if not self.reaches(strike.pattern, f"cut/stages/{stage}/result.json"):
      return ""
    time.sleep(delay)
    if strike.what:
      self.process.send_signal(strike.what)
    else:
      most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
      limits = (LIMIT, most)
      resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, limits)
    status = self.process.wait()
    said = self.log.read_text()
    assert "Traceback" not in said, said
    last = said.splitlines()[-1] if said else ""
    if not strike.what:
      assert status == 1 and FULL.fullmatch(last), said
    elif status == loop.STOPPED:
      assert last == "stopped, and saved: the same command goes on", said
    else:
      assert status in (-strike.what, 0), said
    # Between two loops nothing is to be saved, and SIGTERM is the end at once.
    meant = {0: 1, signal.SIGTERM: loop.STOPPED}.get(strike.what, -strike.what)
    return f"{status}, {self.newest()}" if status == meant else ""

  def newest(self) -> str:
    """What was written last."""
    written = {}
    for path in self.workdir.rglob("*"):
      with contextlib.suppress(FileNotFoundError):
        written[path.stat().st_mtime_ns] = path.relative_to(self.workdir)
    return str(written[max(written)]) if written else "nothing"


def contents(workdir) -> dict[pathlib.Path, bytes]:
  """All but checkpoints, and what tells of time."""
  return {
    path.relative_to(workdir): path.read_bytes()
    for path in workdir.rglob("*.*")
    if path.is_file()
    and not re.search(r"/params/|/step_\d+/", path.as_posix())
    and not path.name.endswith(TIMED)
    and not path.name.startswith("report.")
  }


def assert_same(whole: pathlib.Path, cut: pathlib.Path) -> None:
  """The parameters to the bit, each file, and the report but for its cost."""
  folders = [f"stages/{stage}" for stage in STAGES]
  for folder in (*folders, "controls/mgrd_without_grounding_filter"):
    want, found = (
      checkpoint.restore(workdir / folder / "params")
      for workdir in (whole, cut)
    )
    jax.tree.map(np.testing.assert_array_equal, found, want)
    rows = metrics.read(cut / folder / "metrics.jsonl")
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps, folder
  mine, theirs = contents(cut), contents(whole)
  assert mine.keys() == theirs.keys()
  for path, data in theirs.items():
    assert mine[path] == data, path
  mine, theirs = (measures.load(w / "report.json") for w in (cut, whole))
  for name in SPENT:
    assert mine.pop(name) and theirs.pop(name)
  assert mine == theirs


def test_the_recipe_killed_in_every_phase_is_the_recipe(tmp_path):
  print(f"\nSOAK_SEED={SEED}")
  began = time.monotonic()
  whole, cut = Run(tmp_path, "whole"), Run(tmp_path, "cut")
  whole.start()
  assert whole.process.wait() == 0, whole.log.read_text()[-3000:]
  print(f"{time.monotonic() - began:4.0f} s  not killed")
  # The cut run makes the set itself, at the same place.
  made = (tmp_path / "cache").rename(tmp_path / "made")
  drawn, missed = random.Random(SEED), []
  for strike in strikes():
    told = cut.suffer(strike, drawn.uniform(0, strike.spread))
    if not told:
      missed.append(strike)
    print(
      f"{time.monotonic() - began:4.0f} s  {strike.stage} {strike.phase}: "
      f"{told or 'too late'}",
      flush=True,
    )
  if cut.status is not None:
    cut.start()
  assert cut.process.wait() == 0, cut.log.read_text()[-3000:]
  print(f"{time.monotonic() - began:4.0f} s  {len(missed)} were too late")
  assert len(missed) <= 4, missed
  assert_same(whole.workdir, cut.workdir)
  for path in made.glob("*/*"):
    same = tmp_path / "cache" / path.relative_to(made)
    assert same.read_bytes() == path.read_bytes()
  left = re.compile(r"\.part$|\.gone$|\.new$|orbax-checkpoint-tmp")
  assert not [p for p in tmp_path.rglob("*") if left.search(p.name)]
