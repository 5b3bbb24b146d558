"""Fields that every stage has: data, model, evaluation; data only."""

from ml_collections import ConfigDict

from configs import slices

STAGES = ("tiny", "smoke")


def parse_arg(arg: str, **choices) -> dict:
  """"tiny,gamma=0.995" -> {"size": "tiny", "gamma": 0.995, ...}.

  Raises:
    ValueError: an unknown size or choice; names those there are.
  """
  out = {"size": "tiny"} | choices
  for part in filter(None, (arg or "").split(",")):
    name, _, value = part.partition("=")
    if not value and name in STAGES:
      out["size"] = name
    elif value and name in choices:
      try:
        out[name] = type(choices[name])(value)
      except ValueError:
        raise ValueError(
          f"config argument {name}={value!r} is not a number"
        ) from None
    else:
      raise ValueError(
        f"config argument {part!r} is unknown; sizes {STAGES}, "
        f"choices {sorted(choices)}"
      )
  return out


def base(
  size: str, model: str = "tiny", tpu: str = "", programs: tuple = ()
) -> ConfigDict:
  """Seed, model, data and the fields of a stage's place in a run.

  On a slice, also `config.tpu`: how its `programs` run there.
  """
  smoke = size == "smoke"
  scale = 0.06 if smoke else 1.0

  def sized(**counts):
    return {k: max(6, int(v * scale)) for k, v in counts.items()}

  config = ConfigDict(
    dict(
      seed=0,
      model=model,
      init="",
      stage=0,
      # Beside metrics.jsonl, by the extras of the same names.
      log=dict(tensorboard=False, wandb=False),
      # Over how many devices: rows alone, rows and weights, columns, heads.
      # One is enough for `tiny`; fsdp=0 takes all that are left.
      mesh=dict(data=1, fsdp=1, sequence=1, tensor=1),
      data=dict(
        manifest="",
        cache="out/cache",
        workers=2,
        max_seconds=29.98,
        labelled=0.4,
        sizes=dict(
          train=sized(
            voice=2100, music=1500, events=1000, order=200, sums=300, logic=300
          ),
          pool=sized(
            voice=580, music=240, events=160, order=20, sums=50, logic=50
          ),
          test=sized(
            voice=400, music=130, events=90, order=15, sums=40, logic=40
          ),
          text=200 if smoke else 3000,
          background=100 if smoke else 1500,
          hint_share=0.85,
        ),
      ),
    )
  )
  if tpu:
    config.tpu = slices.settings(model, tpu, programs)
    config.mesh = config.tpu.mesh
  return config
