"""Cold-start SFT: text chains, and audio with the empty think block.

COMMAND: python -m experiments.sft --config=configs/sft.py:tiny \
           --workdir=out/sft --config.init=out/tiny/stages/00_encoder
What it costs on a slice, DPO on pairs of such rows included:
  python -m experiments.fit \\
    --config=configs/sft.py:model=step-audio-r1,tpu=v5p-128
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "tiny") -> ConfigDict:
  choice = common.parse_arg(arg, model="tiny", tpu="")
  config = common.base(
    **choice, programs=("encoder", "sft", "dpo")
  )
  smoke = choice["size"] == "smoke"
  config.stage = 1
  config.steps = 6 if smoke else 800
  config.save_every = 4 if smoke else 200
  config.audio_rows = 8 if smoke else 24
  config.pair_rows = 4
  config.text_rows = 8 if smoke else 12
  # Several examples to a row, in rows of one length: as many of these a step in
  # place of those above, `clips` at most in each, and a head read in `chunks`.
  config.pack = ConfigDict(dict(rows=0, time=1024, clips=8, chunks=1))
  config.weights = ConfigDict(
    dict(
      # Audio: perception first, label questions on part of the clips.
      transcript=0.15,
      caption=0.4,
      attribute=0.4,
      label=0.15,
      count=0.02,
      order=0.05,
      compare=0.03,
      pair=0.05,
      own=0.25,
      chain=0.0,
      # Text.  `sums`, `logic` and `order` are shares of both
      # modalities.
      words=0.35,
      describe=0.35,
      rule=0.6,
      both=0.2,
      sums=0.08,
      logic=0.08,
      # The same beside clips that have nothing to do with the text;
      # `compared` so alone, or chains on one clip begin with "first".
      words_heard=0.1,
      both_heard=0.09,
      rule_heard=0.08,
      sums_heard=0.03,
      logic_heard=0.03,
      compared_heard=0.05,
      order_heard=0.03,
    )
  )
  config.optim = ConfigDict(
    dict(name="muon", lr=4e-3, warmup=40, weight_decay=0.01)
  )
  return config


def get_sweep() -> list[dict]:
  return [{"optim.lr": lr} for lr in (2e-3, 4e-3, 8e-3)]
