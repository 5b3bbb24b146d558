"""The encoder's own training: recognition and attributes, then frozen.

COMMAND: python -m experiments.encoder --config=configs/encoder.py:tiny \
           --workdir=out/encoder
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "tiny") -> ConfigDict:
  choice = common.parse_arg(arg)
  config = common.base(choice["size"])
  smoke = choice["size"] == "smoke"
  config.steps = 6 if smoke else 1200
  config.save_every = 4 if smoke else 300
  config.buckets = 1 if smoke else 3
  config.batch_frames = 2000
  config.ctc_weight = 1.0
  config.weights = ConfigDict(
    dict(voice=0.28, spoken=0.16, music=0.28, events=0.24, order=0.04, own=0.3)
  )
  config.optim = ConfigDict(
    dict(name="muon", lr=3e-3, warmup=40, weight_decay=0.01)
  )
  return config


def get_sweep() -> list[dict]:
  return [{"optim.lr": lr} for lr in (1e-3, 3e-3, 6e-3)]
