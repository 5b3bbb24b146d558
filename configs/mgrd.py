"""One MGRD round's distillation: sample, filter, fine-tune with replay.

COMMAND: python -m experiments.mgrd --config=configs/mgrd.py:tiny \
           --workdir=out/mgrd --config.init=out/tiny/stages/02_text_rlvr
"""

from ml_collections import ConfigDict

from configs import common, sft


def get_config(arg: str = "tiny") -> ConfigDict:
  choice = common.parse_arg(arg, model="tiny", tpu="")
  smoke = choice["size"] == "smoke"
  config = sft.get_config(arg)
  if choice["tpu"]:
    config.tpu.programs = ("encoder", "prefill", "decode", "sft")
  config.stage = 3
  config.steps = 4 if smoke else 160
  config.save_every = 3 if smoke else 80
  # The user's own on audio, beside the built-in ones.
  asked = 24 if smoke else 800
  config.questions = ConfigDict(dict(own=asked, audio=asked))
  config.samples = 4 if smoke else 8
  config.rows = 8 if smoke else 64
  config.max_new = 32  # or what the reasoning of one's own rows takes
  config.temperature = 1.0
  config.per_question = 2
  config.sampled = ""
  config.grounding = True
  # Kept chains beside replay.  Captions, descriptions and rules weigh much: a
  # chain is right only if all that it claims is, and no kept chain is of a
  # held-out combination, as some of these are.  Chains over the words of a
  # label question are what MGRD replaces, so `words` text is replayed little.
  config.weights.update(
    dict(
      chain=0.6, label=0.05, caption=0.5, transcript=0.05, attribute=0.05,
      words=0.15, describe=0.8, rule=0.5, own=0.1,
      both=0.1, both_heard=0.05, words_heard=0.03, rule_heard=0.3,
    )
  )
  config.optim = ConfigDict(
    dict(name="muon", lr=1.5e-3, warmup=20, weight_decay=0.01)
  )
  return config


def get_sweep() -> list[dict]:
  return [{"samples": k} for k in (4, 8, 16)] + [{"grounding": False}]
