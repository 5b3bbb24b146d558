"""Checkpoints: bitwise, whole, and refused when they do not fit."""

import contextlib
import os
import resource
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax import sharding
from mgrd_jax.train import checkpoint, optim, steps
from tests.conftest import ROOT
from tests.gcs import bucket, gcs, server  # noqa: F401


def state(width=3, step=7):
  params = {
    "decoder": {
      "up_DF": jnp.arange(2.0 * width).reshape(2, width) / 3,
      "norm_D": jnp.ones(2, jnp.bfloat16) / 3,
    }
  }
  start = steps.init_state(params, optim.named("adamw", lr=1e-3, steps=9))
  return jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), start)


def assert_bitwise(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_state_comes_back_bitwise(tmp_path):
  saved = state()
  checkpoint.save(tmp_path / "ckpt", saved)
  shapes = jax.eval_shape(lambda: saved)
  assert_bitwise(checkpoint.restore(tmp_path / "ckpt", saved), saved)
  assert_bitwise(checkpoint.restore(tmp_path / "ckpt", shapes), saved)


def test_parameters_come_back_as_nested_dicts_without_a_template(tmp_path):
  saved = state().params
  checkpoint.save(tmp_path / "ckpt", saved)
  assert_bitwise(checkpoint.restore(tmp_path / "ckpt"), saved)


def test_what_another_device_held_comes_to_this_one(tmp_path):
  """A GPU's checkpoint on a laptop: the device that is named is not there."""
  last = jax.devices()[-1]
  saved = jax.tree.map(lambda x: jax.device_put(x, last), state().params)
  checkpoint.save(tmp_path / "ckpt", saved)
  code = f"""
import jax
from mgrd_jax.train import checkpoint
assert jax.device_count() == 1
found = checkpoint.restore({str(tmp_path / "ckpt")!r})
print(float(found["decoder"]["up_DF"].sum()))
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert float(done.stdout) == float(saved["decoder"]["up_DF"].sum())


def test_the_default_device_is_asked_for_by_its_context(tmp_path):
  checkpoint.save(tmp_path / "ckpt", state().params)
  with jax.default_device(jax.devices()[-1]):
    found = checkpoint.restore(tmp_path / "ckpt")
  assert found["decoder"]["up_DF"].devices() == {jax.devices()[-1]}


def test_saving_again_replaces_what_was_there(tmp_path):
  checkpoint.save(tmp_path / "ckpt", state(step=1))
  checkpoint.save(tmp_path / "ckpt", state(step=2))
  assert_bitwise(checkpoint.restore(tmp_path / "ckpt", state()), state(step=2))


def one_line(caught):
  text = str(caught.value)
  assert "\n" not in text
  return text


def test_a_missing_checkpoint_is_refused_with_one_line(tmp_path):
  with pytest.raises(checkpoint.CheckpointError) as caught:
    checkpoint.restore(tmp_path / "none", state())
  assert "no checkpoint here" in one_line(caught)


@pytest.mark.parametrize("other", ["width", "names"])
def test_a_checkpoint_of_another_model_is_refused_with_one_line(
  tmp_path, other
):
  checkpoint.save(tmp_path / "ckpt", state().params)
  like = state(width=4).params
  if other == "names":
    like = {"decoder": {"gate_DF": like["decoder"]["up_DF"]}}
  with pytest.raises(checkpoint.CheckpointError) as caught:
    checkpoint.restore(tmp_path / "ckpt", like)
  text = one_line(caught)
  assert str(tmp_path / "ckpt") in text and "another model" in text


def save(folder, *at, keep=2, scores=()):
  """Checkpoints of the states after these steps."""
  with contextlib.closing(checkpoint.Steps(folder, keep=keep)) as saved:
    for step, score in zip(at, scores or [None] * len(at), strict=True):
      saved.save(step, state(step=step), score)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
  save(tmp_path, 2, 4, 6)
  assert checkpoint.steps(tmp_path) == [4, 6]
  step, tree = checkpoint.restore_latest(tmp_path, state())
  assert step == 6
  assert_bitwise(tree, state(step=6))


def test_a_folder_without_checkpoints_starts_at_zero(tmp_path):
  assert checkpoint.restore_latest(tmp_path / "new", state()) == (0, None)
  assert checkpoint.steps(tmp_path) == []


def tear(folder):
  """Cuts every file of a checkpoint in half."""
  files = [f for f in folder.rglob("*") if f.is_file()]
  assert files
  for file in files:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def told(caplog) -> list[str]:
  """What was said of checkpoints, by us."""
  ours = (r for r in caplog.records if r.name == checkpoint.__name__)
  return [record.getMessage() for record in ours]


def test_a_torn_newest_checkpoint_is_passed_over_and_named(tmp_path, caplog):
  save(tmp_path, 2, 4)
  tear(tmp_path / "step_00000004")
  with pytest.raises(checkpoint.CheckpointError) as caught:
    checkpoint.restore(tmp_path / "step_00000004", state())
  one_line(caught)
  step, tree = checkpoint.restore_latest(tmp_path, state())
  assert step == 2
  assert_bitwise(tree, state(step=2))
  (said,) = told(caplog)
  assert str(tmp_path / "step_00000004") in said and "passed over" in said


def test_the_best_is_kept_beside_the_newest(tmp_path):
  save(tmp_path, 1, 2, 3, 4, keep=1, scores=(3.0, 1.0, 2.0, 5.0))
  assert checkpoint.steps(tmp_path) == [2, 4]
  # Another run of the loop knows the scores of the one before.
  save(tmp_path, 5, 6, keep=1, scores=(4.0, 0.5))
  assert checkpoint.steps(tmp_path) == [6]


def test_a_state_that_is_donated_while_it_is_written_is_saved_whole(tmp_path):
  step = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = jnp.zeros((4, 1024, 1024))
  with contextlib.closing(checkpoint.Steps(tmp_path, keep=9)) as saved:
    for at in range(1, 4):
      x = step(x)
      saved.save(at, {"x": x})
  for at in checkpoint.steps(tmp_path):
    found = checkpoint.restore(tmp_path / f"step_{at:08d}")["x"]
    assert (np.asarray(found) == at).all()


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_eight_devices_state_is_restored_onto_fewer(tmp_path, devices):
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  tree = {"up_DF": jnp.arange(64.0).reshape(8, 8), "step": jnp.int32(3)}

  def placed(count):
    mesh = sharding.make_mesh(
      fsdp=max(count // 2, 1),
      tensor=min(count, 2),
      devices=jax.devices()[:count],
    )
    return jax.device_put(tree, sharding.shardings(mesh, tree))

  with contextlib.closing(checkpoint.Steps(tmp_path)) as saved:
    saved.save(1, placed(8))
  like = placed(devices)
  _, found = checkpoint.restore_latest(tmp_path, like)
  assert_bitwise(found, tree)
  assert found["up_DF"].sharding == like["up_DF"].sharding


def test_what_an_interrupted_save_left_is_no_checkpoint(tmp_path):
  save(tmp_path, 2)
  # The writer renames its folder into place when all is written; one that is
  # removed is renamed first.
  for name in ("step_00000004.orbax-checkpoint-tmp", "step_00000001.gone"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "array").write_bytes(b"half")
  assert checkpoint.steps(tmp_path) == [2]
  assert checkpoint.restore_latest(tmp_path, state())[0] == 2
  save(tmp_path, 3)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"step_00000002", "step_00000003"}


def test_a_torn_one_does_not_outlive_a_whole_one(tmp_path):
  """A run goes on before it, is told to stop, and goes on again."""
  save(tmp_path, 2, 4)
  tear(tmp_path / "step_00000004")
  with contextlib.closing(checkpoint.Steps(tmp_path, keep=1)):
    pass
  assert checkpoint.restore_latest(tmp_path, state())[0] == 2
  save(tmp_path, 3, keep=1)
  assert checkpoint.restore_latest(tmp_path, state())[0] == 3
  assert checkpoint.steps(tmp_path) == [3]


@contextlib.contextmanager
def full_disk():
  """Files end after 64 KiB."""
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  kind = resource.RLIMIT_FSIZE
  most = resource.getrlimit(kind)[1]
  resource.setrlimit(kind, (2**16, most))
  try:
    yield
  finally:
    resource.setrlimit(kind, (most, most))


def test_a_full_disk_is_one_line_and_spares_what_was_saved(tmp_path):
  large = {"up_DF": jax.random.normal(jax.random.key(0), (300, 300))}
  save(tmp_path, 2)
  checkpoint.save(tmp_path / "params", state().params)
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
  with full_disk():
    with pytest.raises(checkpoint.CheckpointError) as caught:
      checkpoint.save(tmp_path / "params", large)
    said = f"{tmp_path / 'params'}: cannot be written (File too large); "
    assert one_line(caught).startswith(said)
    saved = checkpoint.Steps(tmp_path)
    saved.save(4, large)
    with pytest.raises(checkpoint.CheckpointError, match="step_00000004: cann"):
      saved.close()
  after = {p: p.stat().st_mtime_ns for p in before if p != tmp_path}
  assert after == {p: at for p, at in before.items() if p != tmp_path}
  assert checkpoint.restore_latest(tmp_path, state())[0] == 2
  save(tmp_path, 4)
  assert_bitwise(checkpoint.restore_latest(tmp_path, state())[1], state(step=4))


def test_checkpoints_on_gs_are_whole_or_none(gcs, caplog):  # noqa: F811
  name, folder = gcs
  home = f"{name}/stage"
  save(home, 1, 2, 3, keep=1, scores=(1.0, 3.0, 2.0))
  assert checkpoint.steps(home) == [1, 3]
  saved = state(step=9)
  checkpoint.save(f"{home}/params", saved)
  assert_bitwise(checkpoint.restore(f"{home}/params", state()), saved)
  # A kill before the last object, and a lost one.
  (folder / "stage/step_00000003/commit_success.txt").unlink()
  assert checkpoint.steps(home) == [1]
  (folder / "stage/params/_METADATA").unlink()
  with pytest.raises(checkpoint.CheckpointError, match="gs://.*params: cannot"):
    checkpoint.restore(f"{home}/params")
  step, tree = checkpoint.restore_latest(home, state())
  assert step == 1 and not told(caplog)
  assert_bitwise(tree, state(step=1))
  save(home, 2, keep=1)
  assert checkpoint.steps(home) == [1, 2]
  assert not any(map(os.path.isfile, folder.glob("stage/step_00000003/**")))
  with pytest.raises(checkpoint.CheckpointError, match="another model"):
    checkpoint.restore_latest(home, state(width=4))
  with pytest.raises(checkpoint.CheckpointError, match="no checkpoint here"):
    checkpoint.restore(f"{home}/step_00000007")


def test_steps_of_another_model_are_not_passed_over_in_silence(tmp_path):
  save(tmp_path, 2)
  with pytest.raises(checkpoint.CheckpointError, match="another model"):
    checkpoint.restore_latest(tmp_path, state(width=4))
