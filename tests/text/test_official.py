"""The publishers' evaluation prompts."""

import pytest

from mgrd_jax.text import official, turns
from mgrd_jax.text.families import Sampling

CLIP = turns.Audio((13,))


def rendered(*args, **kwargs):
  messages = official.messages(*args, **kwargs)
  return turns.render(messages, "step-audio", exact=True)


@pytest.mark.parametrize("task", ["mmau", "mmsu", "mmar"])
def test_a_choice_is_lettered_and_stands_before_the_clip(task):
  text = rendered(task, CLIP, "What is {options}?", ["a laugh", "{question}"])
  assert text == (
    "<|BOT|>human\nWhat is {options}?\nPlease choose the answer from the "
    "following options, do not provide any additional explanations or "
    "content: \nA. a laugh\nB. {question}\n<audio_patch><|EOT|>"
    "<|BOT|>assistant\n<think>\n"
  )


def test_tasks_with_their_own_words():
  end = "<|EOT|><|BOT|>assistant\n<think>\n"
  assert rendered("spoken-mqa", CLIP) == (
    "<|BOT|>human\nSolve the given math question step by step."
    f"<audio_patch>{end}"
  )
  assert rendered("big-bench-audio", CLIP) == (
    '<|BOT|>human\n<audio_patch>仅用 "valid" 或 "invalid"，"yes" 或 "no"，'
    f"或者数字来直接回答上面的问题，不要添加任何其他描述。{end}"
  )
  assert rendered("wild-speech", CLIP) == f"<|BOT|>human\n<audio_patch>{end}"
  assert rendered("song", CLIP) == (
    "<|BOT|>system\n你是一个语音助手，你有非常丰富的音频处理经验。<|EOT|>"
    f"<|BOT|>human\n鉴赏一下这段歌声。<audio_patch>{end}"
  )


def test_each_task_has_its_sampling_settings():
  found = {name: task.sampling for name, task in official.TASKS.items()}
  assert found["mmau"] == Sampling(0.7, 1.0, 1.0, 32_000)
  assert found["mmar"] == Sampling(0.7, 1.0, 1.07, 32_000)
  assert found["caption"] == Sampling(0.5, 0.9, 1.0, 1024)
  assert (
    found["song"] == found["speaker-trait"] == Sampling(0.7, 0.9, 1.0, 2048)
  )


@pytest.mark.parametrize(
  "task, question, options, wrong",
  [
    ("mmlu", "", (), "is none of mmau, mmsu"),
    ("mmau", "", (), "needs a question and options"),
    ("mmau", "why?", (), "needs a question and options"),
    ("song", "why?", (), "has its own words"),
    ("song", "", ("a", "b"), "has its own words"),
  ],
)
def test_what_a_task_does_not_ask_is_refused(task, question, options, wrong):
  with pytest.raises(ValueError, match=wrong):
    official.messages(task, CLIP, question, options)
