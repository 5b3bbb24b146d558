"""What all tools say when memory runs out: one line, the folder, the fix."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from etils import epath

from experiments import command
from mgrd_jax.models import assemble, convert, released, shards
from mgrd_jax.train import checkpoint
from tests.bucket import bucket  # noqa: F401
from tests.conftest import ROOT
from tests.test_ask import clip, written
from tests.test_ask_released import config_of
from tests.text import byte_pairs


def caught(call, kind):
  with pytest.raises(kind) as error:
    call()
  return error.value


def test_memory_that_ran_out_is_told_from_other_errors():
  device = caught(
    lambda: jax.block_until_ready(jax.numpy.zeros(2**46)),
    jax.errors.JaxRuntimeError,
  )
  line = command.exhausted(device)
  assert line.startswith("out of memory: RESOURCE_EXHAUSTED: Out of memory")
  assert "\n" not in line
  # More than there are addresses for.
  host = caught(lambda: assemble._empty((2**50,), np.dtype("u1")), OSError)
  assert "Cannot allocate memory" in command.exhausted(host)
  assert command.exhausted(MemoryError()) == "out of memory: MemoryError"
  wrapped = checkpoint.CheckpointError("params: cannot be restored (no room)")
  wrapped.__cause__ = MemoryError("no room")
  assert command.exhausted(wrapped) == "out of memory: no room"
  assert not command.exhausted(RuntimeError("INTERNAL: a bug"))
  assert not command.exhausted(FileNotFoundError("gone"))


def test_what_a_store_says_is_one_line_with_its_path(
  bucket,  # noqa: F811
  monkeypatch,
):
  name, _ = bucket

  def refuse(self, path, *args, **kwargs):
    raise RuntimeError("no credentials\nat all")

  monkeypatch.setattr("tests.bucket.Bucket._open", refuse)
  path = epath.Path(f"{name}/run/config.json")
  line = command.of_store(caught(path.read_text, RuntimeError))
  assert line == f"{path}: RuntimeError: no credentials at all"
  upload = caught(lambda: epath.Path(__file__).copy(path), RuntimeError)
  assert command.of_store(upload) == line
  # Paths that are only near do not make it the store's.
  assert not command.of_store(caught(lambda: path.parts[9], IndexError))
  here = caught(epath.Path("/none/at/all").read_text, OSError)
  assert not command.of_store(here)


SCARCE = """
  import json, resource, sys
  import jax
  from experiments import ask, convert

  jax.devices()
  for name, *flags in json.loads(sys.argv[2]):
    with open("/proc/self/statm") as file:
      mapped = int(file.read().split()[0]) * resource.getpagesize()
    most = mapped + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    print({"ask": ask, "convert": convert}[name].main(flags))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_model_that_does_not_fit_is_one_line_of_every_tool(tmp_path):
  config_json = config_of("step-audio")
  config_json["text_config"] |= {
    "hidden_size": 1024, "tie_word_embeddings": True,
  }  # fmt: skip
  config_json["audio_encoder_config"]["llm_dim"] = 1024
  folder = byte_pairs.write(tmp_path / "in", byte_pairs.SPECIAL["step-audio"])
  (folder / "config.json").write_text(json.dumps(config_json))
  size = hollow(folder, released.from_json(config_json))
  path = written(tmp_path, clip(0.5))
  where, wide = f"--checkpoint={folder}", "--dtype=float32"
  commands = [
    ["ask", where, wide, path, "what is heard?"],
    ["convert", "import", where, wide, f"--out={tmp_path / 'out'}"],
    ["convert", "precision", where],
  ]
  # Its bytes may be mapped, and are; twice as many, in float32, may not.
  argv = [str(int(1.3 * size)), json.dumps(commands)]
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(SCARCE), *argv],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )
  assert done.stdout.split() == ["1"] * 3, done.stderr
  lines = done.stderr.splitlines()
  for line, tool in zip(lines, ("ask", "import", "precision"), strict=True):
    assert f"{tool}: {folder}: out of memory: " in line and "; give " in line
  assert not (tmp_path / "out").exists()


def hollow(folder, config) -> int:
  """Writes a checkpoint of zeros that takes no room; returns its bytes."""
  shapes = convert.expected(config)
  entries = [(name, "BF16", shape) for name, shape in shapes.items()]
  ((file, tensors),) = shards.plan(entries, 2**40).items()
  with (folder / file).open("wb") as out:
    head = shards.new_header(tensors)
    out.write(head)
    out.truncate(len(head) + tensors[-1].stop)
  return tensors[-1].stop
