"""Metrics go to metrics.jsonl always, and elsewhere when asked."""

import json
import struct
import sys

import numpy as np
import pytest

from configs import sft as sft_config
from experiments import flags
from mgrd_jax.train import loop, metrics, writers
from tests.bucket import bucket  # noqa: F401


def events(folder) -> list[tuple[int, str, float]]:
  """(step, name, value) of every scalar in a folder's event files."""
  event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
  found = []
  for path in sorted(folder.glob("events.out.tfevents.*")):
    data = path.read_bytes()
    while data:
      # A record: its length, a checksum, itself, a checksum.
      size = struct.unpack_from("<Q", data)[0]
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      scalars = event.summary.value
      found += [(event.step, v.tag, v.simple_value) for v in scalars]
      if event.session_log.status:
        found.append((event.step, "session", event.session_log.status))
  return found


def run(folder, steps, log):
  """A loop whose metric is a quarter of its step."""
  return loop.run(
    lambda state, step: (state, {"train/loss": step / 4}),
    {"w_D": np.zeros(2)},
    lambda step: step,
    steps=steps,
    folder=folder,
    save_every=steps,
    log=log,
  )


def test_tensorboard_holds_what_the_jsonl_holds(tmp_path):
  pytest.importorskip("tensorboardX")
  run(tmp_path, 4, writers.chosen(tensorboard=True))
  expected = [(i, "train/loss", i / 4) for i in range(4)]
  assert events(tmp_path) == expected
  rows = metrics.read(tmp_path / "metrics.jsonl")
  assert [(r["step"], "train/loss", r["train/loss"]) for r in rows] == expected


def test_a_resumed_tensorboard_hides_what_comes_again(tmp_path):
  pytest.importorskip("tensorboardX")
  writers.TensorBoard(tmp_path).close()
  resumed = writers.TensorBoard(tmp_path, start=2)
  resumed.write(2, {"a": 0.5})
  resumed.close()
  start = 1  # SessionLog.START: readers drop events from this step on.
  assert events(tmp_path) == [(2, "session", start), (2, "a", 0.5)]


FAKE_WANDB = '''
import json, pathlib
told = pathlib.Path(__file__).with_name("told.jsonl")
class Run:
  def __init__(self, **kwargs):
    self.id = kwargs["id"] or "made-up"
    self.tell("init", **kwargs)
  def tell(self, what, **kwargs):
    with told.open("a") as file:
      file.write(json.dumps({"call": what} | kwargs) + "\\n")
  def define_metric(self, name, *, step_metric):
    self.tell("define_metric", name=name, step_metric=step_metric)
  def log(self, row):
    self.tell("log", row=row)
  def finish(self):
    self.tell("finish")
def init(**kwargs):
  return Run(**kwargs)
'''


@pytest.fixture
def wandb(tmp_path, monkeypatch):
  """A module of that name which keeps what it is told; yields a reader."""
  site = tmp_path / "site"
  site.mkdir()
  (site / "wandb.py").write_text(FAKE_WANDB)
  monkeypatch.syspath_prepend(site)
  monkeypatch.delitem(sys.modules, "wandb", raising=False)
  yield lambda: [
    json.loads(line) for line in (site / "told.jsonl").read_text().splitlines()
  ]
  sys.modules.pop("wandb", None)


def test_wandb_is_told_every_step_under_our_own_count(tmp_path, wandb):
  folder = tmp_path / "tiny" / "01_cold_start"
  run(folder, 3, writers.chosen(wandb=True, settings={"seed": 7}))
  first, defined, *logged, last = wandb()
  assert first == {
    "call": "init",
    "project": "mgrd_jax",
    "name": "tiny/01_cold_start",
    "id": None,
    "dir": str(folder),
    "resume": "allow",
    "config": {"seed": 7},
  }
  assert (defined["name"], defined["step_metric"]) == ("*", "step")
  rows = [{"step": i, "train/loss": i / 4} for i in range(3)]
  assert [call["row"] for call in logged] == rows
  assert last == {"call": "finish"}


def test_a_resumed_run_of_wandb_is_the_same_run(tmp_path, wandb):
  for _ in range(2):
    writers.WandB(tmp_path, settings={}).close()
  ids = [call["id"] for call in wandb() if call["call"] == "init"]
  assert ids == [None, "made-up"]


@pytest.mark.parametrize("extra", ["tensorboard", "wandb"])
def test_a_missing_extra_is_one_line_that_names_it(
  tmp_path, monkeypatch, extra
):
  module = {"tensorboard": "tensorboardX"}.get(extra, extra)
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError) as caught:
    writers.chosen(**{extra: True})(tmp_path, 0)
  assert str(caught.value) == (
    f"config.log.{extra} needs the extra [{extra}]: pip install -e "
    f"'.[{extra}]', or leave it out"
  )


def test_other_processes_write_nothing_but_stop_where_the_first_does(tmp_path):
  log = writers.chosen(process=1, tensorboard=True, wandb=True)
  run(tmp_path / "one", 3, log)
  assert not (tmp_path / "one").exists()
  for process in (0, 1):
    writer = writers.chosen(process=process)(tmp_path / "two", 0)
    with pytest.raises(metrics.NonFiniteError, match="step 3: not finite: a"):
      writer.write(3, {"a": float("nan")})


def test_what_is_not_finite_is_written_nowhere(tmp_path, wandb):
  writer = writers.chosen(wandb=True)(tmp_path / "run", 0)
  with pytest.raises(metrics.NonFiniteError):
    writer.write(0, {"a": float("inf")})
  assert not [call for call in wandb() if call["call"] == "log"]
  assert not metrics.read(tmp_path / "run" / "metrics.jsonl")


def test_a_log_on_gs_holds_each_step_once_across_a_kill(
  tmp_path,
  bucket,  # noqa: F811
):
  name, folder = bucket
  first = metrics.jsonl(f"{name}/run", 0)
  for step in range(5):
    first.write(step, {"a": float(step)})
    if step == 3:
      first.flush()
  path = folder / "run" / "metrics.jsonl"
  # The line of step 4 was lost with the process; step 3 comes again.
  assert [r["step"] for r in metrics.read(path)] == [0, 1, 2, 3]
  second = metrics.jsonl(f"{name}/run", 3)
  for step in (3, 4):
    second.write(step, {"a": 10.0 * step})
  second.close()
  rows = metrics.read(f"{name}/run/metrics.jsonl")
  assert [(r["step"], r["a"]) for r in rows] == [
    (0, 0),
    (1, 1),
    (2, 2),
    (3, 30),
    (4, 40),
  ]


def test_the_config_chooses_and_a_run_may_go_on_with_another_choice(tmp_path):
  config = sft_config.get_config("smoke")
  assert config.log.to_dict() == {"tensorboard": False, "wandb": False}
  writer = flags.log(config)(tmp_path / "stage", 0)
  writer.write(0, {"a": 1.0})
  writer.close()
  assert [p.name for p in (tmp_path / "stage").iterdir()] == ["metrics.jsonl"]

  flags.save_config(config, tmp_path)
  config.log.tensorboard = True
  flags.save_config(config, tmp_path)
  kept = json.loads((tmp_path / "config.json").read_text())
  assert kept["log"] == {"tensorboard": True, "wandb": False}
  config.steps += 1
  with pytest.raises(ValueError, match=r"another config \(changed: steps\)"):
    flags.save_config(config, tmp_path)
