"""One of several processes that fine-tune, and then run PPO, together.

  python -m tests.duet FOLDER FSDP

Without the variables that name the others it is alone.
"""

import os
import pathlib
import sys

from ml_collections import ConfigDict

from configs import rlvr as rlvr_config
from configs import sft as sft_config
from experiments import flags, rlvr, sft
from mgrd_jax import processes
from tests.conftest import compile_options, compiling


def run(folder: pathlib.Path, sizes: dict) -> None:
  """FOLDER/../init -> FOLDER/sft, FOLDER/ppo."""
  # Arrays of the toys are made on import, and no backend may begin before.
  from tests.test_placement import ONE, context

  sizes = ONE | sizes
  config = sft_config.get_config("smoke")
  config.update(
    init=str(folder.parent / "init"), steps=8, save_every=5, pair_rows=8
  )
  config.weights = ConfigDict({"own": 1.0})
  config.optim = ConfigDict(dict(name="adamw", lr=1e-2))
  sft.run(config, folder / "sft", context(sizes))
  config = rlvr_config.get_config("smoke")
  config.update(init=str(folder / "sft"), steps=2, warmup=1, max_new=12)
  config.prompts = ConfigDict(dict(audio=8, text=0))
  config.questions = ConfigDict(dict(audio=0, own=8, text=0))
  config.band = (0, 8)
  rlvr.run(config, folder / "ppo", context(sizes))


def main() -> None:
  folder, fsdp = pathlib.Path(sys.argv[1]), int(sys.argv[2])
  if "JAX_PROCESS_ID" in os.environ:
    flags.join()
  with compiling(compile_options(folder.parent / "programs")):
    run(folder, dict(fsdp=fsdp))
  print(f"process {processes.index()} of {processes.count()} is done")


if __name__ == "__main__":
  main()
