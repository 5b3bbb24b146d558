"""Which code a result is from."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

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
