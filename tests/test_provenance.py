"""Which code and which data a result is from."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from experiments import assembly, provenance
from mgrd_jax.data import schema

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def clone(tmp_path):
  """A folder with the code that asks for its commit; not yet a repository."""
  folder = tmp_path / "clone"
  (folder / "experiments").mkdir(parents=True)
  for name in ("__init__", "files", "provenance"):
    shutil.copy(ROOT / "experiments" / f"{name}.py", folder / "experiments")
  return folder


def git(folder, *args):
  who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
  command = ["git", "-C", str(folder), *who, *args]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return done.stdout.strip()


def told(clone, **environment):
  """What a process says that runs the clone's code from elsewhere."""
  paths = f"{clone}{os.pathsep}{ROOT}"
  done = subprocess.run(
    [
      sys.executable,
      "-c",
      "from experiments import provenance; print(provenance.commit())",
    ],
    cwd=clone.parent,
    env=os.environ | {"PYTHONPATH": paths} | environment,
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.strip()


def test_the_commit_is_that_of_the_code_and_says_when_it_was_edited(clone):
  assert told(clone) == "unknown"
  git(clone, "init", "-q")
  git(clone, "add", ".")
  git(clone, "commit", "-qm", "first")
  git(clone, "tag", "-am", "a release", "v1")
  commit = git(clone, "rev-parse", "--short", "HEAD")
  assert told(clone) == commit
  (clone / "experiments" / "files.py").open("a").write("# edited\n")
  assert told(clone) == f"{commit}-dirty"
  assert told(clone, PATH="") == "unknown"


def rows(*answers, own=False):
  return [
    schema.Example(
      f"{own}-{at}", "what?", answer, "text", (f"0:{at}.wav",),
      meta={"own": True} if own else {},
    )
    for at, answer in enumerate(answers)
  ]  # fmt: skip


@pytest.fixture
def clips(tmp_path):
  folder = tmp_path / "clips"
  folder.mkdir()
  for at in range(3):
    (folder / f"{at}.wav").write_bytes(bytes([at] * 100))
  return folder


def of_data(examples, folder):
  stores = assembly.Stores([folder], max_seconds=30)
  return provenance.of_data(examples, stores)


def test_data_are_known_by_what_they_hold_not_by_where_they_lie(
  clips, tmp_path
):
  some = rows("a", "b") + rows("c", own=True)
  data = of_data(some, clips)
  assert {name: part["count"] for name, part in data.items()} == {
    "built-in rows": 2, "built-in clips": 2,
    "manifest rows": 1, "manifest clips": 1,
  }  # fmt: skip
  moved = shutil.copytree(clips, tmp_path / "moved")
  assert of_data(some, moved) == data


def test_each_change_of_the_data_is_refused_by_name(clips, tmp_path):
  run, some = tmp_path / "run", rows("a", "b") + rows("c", own=True)
  provenance.keep_data(run, of_data(some, clips))
  provenance.keep_data(run, of_data(some, clips))
  (clips / "1.wav").write_bytes(bytes([9] * 100))

  def refused(examples):
    with pytest.raises(ValueError) as error:
      provenance.keep_data(run, of_data(examples, clips))
    start, _, changed = str(error.value).partition(" (changed: ")
    assert start == f"{run}: holds a run from other data"
    changed, _, fix = changed.partition("); ")
    assert fix == "put back what there was, or choose another --workdir"
    return changed

  sound = "built-in clips: 2 before, 2 now"
  assert refused(some) == sound
  other = rows("a", "b") + rows("c", "d", own=True)
  assert refused(other) == (
    f"{sound}; manifest rows: 1 before, 2 now; manifest clips: 1 before, 2 now"
  )
  (clips / "1.wav").write_bytes(bytes([1] * 100))
  assert refused(rows("a", "x") + some[2:]) == "built-in rows: 2 before, 2 now"
  assert refused([some[1], some[0], some[2]]).startswith("built-in rows")
  provenance.keep_data(run, of_data(some, clips))
