"""Evaluation: thinking, direct, on silence and on another clip.

COMMAND: python -m experiments.evaluate --config=configs/evaluate.py:tiny \
           --workdir=out/eval --config.init=out/tiny/stages/06_mgrd_2_ppo
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "tiny") -> ConfigDict:
  choice = common.parse_arg(arg)
  smoke = choice["size"] == "smoke"
  config = common.base(choice["size"])
  config.rows = 16 if smoke else 128
  config.max_new = 32  # or what the reasoning of one's own rows takes
  return config


def get_sweep() -> list[dict]:
  return [{"seed": s} for s in (0, 1, 2)]
