"""PPO from verifiable rewards; clip 0.2, gamma = lambda = 1, no KL.

modality=audio asks text beside audio, modality=text text alone.

COMMAND: python -m experiments.rlvr --config=configs/rlvr.py:tiny \
           --workdir=out/rlvr --config.init=out/tiny/stages/03_mgrd_1_sft
         python -m experiments.rlvr --config=configs/rlvr.py:tiny,modality=text
What it costs on a slice:
  python -m experiments.fit \\
    --config=configs/rlvr.py:model=step-audio-r1,tpu=v5p-128
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "tiny") -> ConfigDict:
  choice = common.parse_arg(
    arg, modality="audio", format_reward=0.2, gamma=1.0, model="tiny", tpu=""
  )
  if choice["modality"] not in ("audio", "text"):
    raise ValueError(
      f"modality {choice['modality']!r} is unknown; have 'audio', 'text'"
    )
  smoke, text = choice["size"] == "smoke", choice["modality"] == "text"
  config = common.base(
    choice["size"],
    choice["model"],
    choice["tpu"],
    programs=("encoder", "prefill", "decode", "ppo_actor", "ppo_critic"),
  )
  config.stage = 2 if text else 4
  config.sources = ("describe", "sums", "logic")
  config.format_reward = choice["format_reward"]
  config.steps = 2 if smoke else 10
  config.save_every = 1 if smoke else 4
  # Prompts of a round: audio to text as in the released model's RL, 3 to 2.
  config.questions, config.prompts = map(
    ConfigDict,
    {
      # (text alone, smoke)
      (False, False): (dict(audio=360, text=120), dict(audio=6, text=4)),
      (False, True): (dict(audio=24, text=8), dict(audio=2, text=1)),
      (True, False): (dict(audio=0, text=240), dict(audio=0, text=8)),
      (True, True): (dict(audio=0, text=24), dict(audio=0, text=2)),
    }[text, smoke],
  )
  # The user's own on audio, beside the built-in ones.
  config.questions.own = config.questions.audio
  config.samples = 4 if smoke else 16
  config.select_samples = 4 if smoke else 8
  config.rows = 8 if smoke else 64
  config.band = (0, 4) if smoke else (3, 6)
  config.min_selected = 2 if smoke else 8
  config.max_new = 32  # or what the reasoning of one's own rows takes
  config.temperature = 1.0
  config.warmup = 1 if smoke else 2
  config.critic_updates = 1
  config.ppo = ConfigDict(
    dict(
      gamma=choice["gamma"], lam=1.0, clip=0.2, value_clip=0.2, std_floor=0.05
    )
  )
  config.actor = ConfigDict(dict(lr=1e-4, warmup=2))
  config.critic = ConfigDict(dict(lr=5e-4, warmup=2))
  return config


def get_sweep() -> list[dict]:
  return [{"format_reward": w} for w in (0.0, 0.2)] + [
    {"ppo.gamma": g} for g in (1.0, 0.995)
  ]
