"""The whole recipe: every stage of the paper, at laptop size.

COMMAND: python -m experiments.pipeline --config=configs/pipeline.py:tiny \
           --workdir=out/tiny
Ablations of the last PPO stage, on top of a finished run:
  --config=configs/pipeline.py:tiny,format_reward=0 --config.base=out/tiny
  --config=configs/pipeline.py:tiny,gamma=0.995 --config.base=out/tiny
"""

from ml_collections import ConfigDict

from configs import common, encoder, evaluate, mgrd, rlvr, sft


def get_config(arg: str = "tiny") -> ConfigDict:
  choice = common.parse_arg(arg, format_reward=0.2, gamma=1.0, rounds=2)
  size = choice["size"]
  config = common.base(size)
  config.rounds = choice["rounds"]
  config.base = ""
  config.last = ConfigDict(
    dict(format_reward=choice["format_reward"], gamma=choice["gamma"])
  )
  shared = list(common.base(size))
  for name, sub in (
    ("encoder", encoder.get_config(size)),
    ("cold_start", sft.get_config(size)),
    ("text_rlvr", rlvr.get_config(f"{size},modality=text")),
    ("mgrd", mgrd.get_config(size)),
    ("audio_rlvr", rlvr.get_config(size)),
    ("evaluate", evaluate.get_config(size)),
  ):
    for field in shared:
      del sub[field]
    config[name] = sub
  config.text_rlvr.steps = 2 if size == "smoke" else 6
  return config


def get_sweep() -> list[dict]:
  return [{"seed": s} for s in (0, 1, 2)]
