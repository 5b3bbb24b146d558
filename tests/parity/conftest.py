"""These tests need the extra [parity]; without it the folder is empty."""

import functools
import importlib.util
import os

import pytest

from tests.parity import cases

# Nothing here is fetched; a class that asks a hub for a file is a mistake.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
  collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
  """name of a case -> its checkpoint's folder."""
  from tests.parity import theirs

  root = tmp_path_factory.mktemp("checkpoints")

  @functools.cache
  def write(name):
    case = cases.CASES[name]
    cases.write(root / name, case, theirs.shapes(case))
    return root / name

  return write


@pytest.fixture(scope="session")
def golden_of(folder_of):
  """name of a case -> what the reference gives for it, in float64."""
  from tests.parity import theirs

  return functools.cache(
    lambda name: theirs.run(cases.CASES[name], folder_of(name))
  )


@pytest.fixture(scope="session")
def found_of(folder_of):
  """name of a case -> what ours gives for it, in float32."""
  from tests.parity import ours

  return functools.cache(
    lambda name: ours.run(cases.CASES[name], folder_of(name))
  )
