"""The host loop: resumed runs are the same runs, to the bit."""

import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mgrd_jax.data import loader
from mgrd_jax.train import checkpoint, loop, metrics, optim, steps
from tests.gcs import bucket, gcs, server  # noqa: F401
from tests.train.test_checkpoint import full_disk

TX = optim.named("adamw", lr=0.1, steps=6, warmup=2)
STREAM = loader.mixture(
  {"a": range(7), "b": range(100, 105)},
  {"a": 2.0, "b": 1.0},
  batch_size=4,
  collate=lambda rows: np.array(rows, np.float32),
  seed=3,
)


@jax.jit
def step_fn(state, batch):
  """A regression on the numbers of the batch."""

  def loss_fn(params):
    return jnp.square(params["w_D"].sum() * batch - 3).mean()

  loss, grads = jax.value_and_grad(loss_fn)(state.params)
  updates, opt_state = TX.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  state = type(state)(state.step + 1, params, opt_state)
  return state, {"train/loss": loss, "train/first": batch[0]}


def start():
  return steps.init_state({"w_D": jnp.ones(3)}, TX)


def run(folder, steps=6, data=STREAM.__getitem__, **kwargs):
  options = {"save_every": 2} | kwargs
  return loop.run(
    step_fn, start(), data, steps=steps, folder=folder, **options
  )


class Killed(BaseException):
  pass


def killed_at(step):
  """The stream, up to a step that never returns."""

  def data(at):
    if at == step:
      raise Killed
    return STREAM[at]

  return data


def bits(state):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("kills", [(2,), (3,), (1, 3, 5)])
def test_a_run_killed_and_resumed_is_the_run_itself(tmp_path, kills):
  whole = run(tmp_path / "whole")
  for at in kills:
    with pytest.raises(Killed):
      run(tmp_path / "cut", data=killed_at(at))
  resumed = run(tmp_path / "cut")
  assert bits(whole) == bits(resumed)
  path = tmp_path / "cut" / "metrics.jsonl"
  assert path.read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
  rows = metrics.read(path)
  assert [row["step"] for row in rows] == list(range(6))
  assert int(resumed.step) == 6


def test_a_run_on_gs_that_is_killed_goes_on_bitwise(tmp_path, gcs):  # noqa: F811
  name, folder = gcs
  for at in (3, 5):
    with pytest.raises(Killed):
      run(f"{name}/cut", data=killed_at(at))
    # No checkpoint is without its lines, wherever the process ended.
    rows = metrics.read(f"{name}/cut/metrics.jsonl")
    assert [r["step"] for r in rows] == list(range(at))
    assert checkpoint.steps(f"{name}/cut") == [at - 1]
  assert bits(run(f"{name}/cut")) == bits(run(tmp_path / "whole"))
  lines = (folder / "cut" / "metrics.jsonl").read_text()
  assert lines == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_lines_are_on_disk_before_the_checkpoint_that_needs_them(tmp_path):
  """An upload is what costs: a writer that keeps lines until it is flushed."""
  seen = []

  class Late(metrics.Log):
    def flush(self):
      names = {path.name[:13] for path in tmp_path.iterdir()}
      seen.append(names - {"metrics.jsonl"})

  run(tmp_path, log=lambda folder, at: Late(folder / "metrics.jsonl", start=at))
  # Before the writes after 2 and 4 steps, which are not waited for.
  assert seen[:2] == [set(), {"step_00000002"}]


def test_a_full_disk_ends_the_run_soon_and_spares_what_was_saved(tmp_path):
  asked, start = [], {"w_D": jax.random.normal(jax.random.key(0), (30_000,))}

  def wide_run(data):
    return loop.run(
      lambda state, batch: ({"w_D": state["w_D"] + jnp.sum(batch)}, {"a": 0.0}),
      start,
      data,
      steps=500,
      folder=tmp_path,
      save_every=100,
      log_every=500,
    )

  def data(at):
    asked.append(at)
    # Once a checkpoint is being written: the next is seconds away.
    time.sleep(0.05 * (at >= 200))
    return 1.0

  with pytest.raises(Killed):
    wide_run(killed_at(150))
  with full_disk(), pytest.raises(checkpoint.CheckpointError) as caught:
    wide_run(data)
  said = f"{tmp_path / 'step_00000200'}: cannot be written (File too large); "
  assert str(caught.value).startswith(said)
  assert asked[0] == 100 and asked[-1] < 299
  assert checkpoint.steps(tmp_path) == [100]


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_run_told_to_stop_saves_its_step_and_goes_on_bitwise(tmp_path, at):
  def data(step):
    if step == at:
      signal.raise_signal(signal.SIGTERM)
    return STREAM[step]

  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as stopped:
    run(tmp_path / "cut", data=data, save_every=100)
  assert stopped.value.code == loop.STOPPED == 143
  assert signal.getsignal(signal.SIGTERM) is before
  assert checkpoint.steps(tmp_path / "cut") == [at + 1]
  assert bits(run(tmp_path / "cut")) == bits(run(tmp_path / "whole"))


def test_the_best_step_keeps_its_checkpoint(tmp_path):
  run(tmp_path, save_every=1, best="train/loss")
  rows = metrics.read(tmp_path / "metrics.jsonl")[:-1]  # the last is not saved
  best = min(rows, key=lambda row: row["train/loss"])["step"] + 1
  assert checkpoint.steps(tmp_path) == sorted({best, 5})


def test_a_resumed_run_asks_for_the_steps_that_are_left(tmp_path):
  with pytest.raises(Killed):
    run(tmp_path, data=killed_at(5))
  asked = []

  def data(at):
    asked.append(at)
    return STREAM[at]

  run(tmp_path, data=data)
  assert asked == [4, 5]


def test_lines_are_written_as_often_as_asked_and_for_the_last_step(tmp_path):
  run(tmp_path, log_every=4)
  rows = metrics.read(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == [0, 4, 5]


def test_progress_reports_each_step_of_the_total(tmp_path):
  seen = []
  run(tmp_path, progress=lambda done, total, m: seen.append((done, total)))
  assert seen == [(i, 6) for i in range(1, 7)]


def test_a_metric_that_is_not_finite_ends_the_run_and_is_named(tmp_path):
  def data(at):
    return STREAM[at] * (np.nan if at == 3 else 1)

  with pytest.raises(metrics.NonFiniteError) as caught:
    run(tmp_path, data=data)
  assert "step 3: not finite" in str(caught.value)
  assert "train/loss" in str(caught.value)
  rows = metrics.read(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == [0, 1, 2]
  # What was saved is from before.
  assert checkpoint.steps(tmp_path) == [2]


def test_a_torn_line_of_metrics_is_dropped_and_written_again(tmp_path):
  with pytest.raises(Killed):
    run(tmp_path / "cut", data=killed_at(3))
  path = tmp_path / "cut" / "metrics.jsonl"
  path.write_text(path.read_text()[:-9])
  run(tmp_path / "cut")
  run(tmp_path / "whole")
  assert path.read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_a_rate_is_of_the_steps_since_the_line_before(tmp_path):
  asked = []

  def rate(measured, seconds):
    asked.append(seconds)
    return {"rate": measured["loss"]}

  def slow(state, batch):
    time.sleep(0.05)
    return state, {"loss": jnp.float32(batch)}

  loop.run(
    slow,
    {"x": jnp.zeros(1)},
    lambda step: step,
    steps=7,
    folder=tmp_path,
    save_every=9,
    log_every=3,
    rate=rate,
  )
  lines = metrics.read(tmp_path / "metrics.jsonl")
  # The first line's steps hold the compilation.
  assert [line.get("rate") for line in lines] == [None, 3.0, 6.0]
  assert all(0.04 < seconds < 0.5 for seconds in asked)
