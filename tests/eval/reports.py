"""A complete report, as a run of four stages writes it."""

STAGES = ("cold_start", "text_rlvr", "mgrd_1_sft", "mgrd_1_ppo")


def evaluation(acc, **fields):
  """The numbers of one mode of one stage."""
  return {
    "acc": acc,
    "ci95": [acc - 0.03, acc + 0.03],
    "n": 500,
    "acc_conflict": acc - 0.1,
    "acc_heldout": acc - 0.2,
    "think_tokens": 14.25,
    "frac_empty_think": 0.01,
    "frac_coherent": 0.97,
    "claim_precision": 0.9,
    "claim_lift": 0.345,
    "surrogate_rate": 0.125,
  } | fields


def fake(seed=0, shift=0.0):
  """A complete report: thinking starts below direct answering, ends above."""
  think = (0.4, 0.42, 0.85, 0.86)
  stages = [
    {
      "name": name,
      "think": evaluation(
        acc + shift,
        surrogate_rate=0.9 if acc < 0.5 else 0.02,
        claim_precision=None if acc < 0.5 else 0.97,
        by_source={"label": acc, "spoken|sums": 0.5},
      ),
      "direct": evaluation(0.6, by_source={"label": 0.61}),
      "paired": {"diff": acc + shift - 0.6, "ci95": [-0.05, 0.1], "p": 0.033},
      "silence": evaluation(0.27),
      "swap": evaluation(0.21, follow=0.88),
    }
    for name, acc in zip(STAGES, think, strict=True)
  ]
  return {
    "seed": seed,
    "config_sha": "abc123",
    "commit": "0123456789abcdef",
    "wall_s": {"data": 30.0, "cold_start": 90.0},
    "peak_rss_mb": 2048.0,
    "params": 1234567,
    "stages": stages,
    "funnel": [
      {
        "round": 1, "sampled": 8000, "correct": 4000, "grounded": 3000,
        "coherent": 2900, "kept": 1500, "swap_keep_rate": 0.055,
        "reasons": {"wrong answer": 4000, "no claim": 900, "a|b": 100},
      },
    ],
    "controls": {
      "elicited_before_mgrd": evaluation(0.71),
      "mgrd_without_grounding_filter": evaluation(0.66),
    },
    "chance": 0.25,
  }  # fmt: skip
