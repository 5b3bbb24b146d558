"""The evaluation prompts that Step-Audio-R1 was published with.

    TASKS[name], question, options, clip --messages--> turns.row, sampling

From `examples-vllm_r1.py` of the release: the words, their place before or
behind the clip, and the sampling settings.  All answers begin with `<think>`.
"""

import dataclasses
from collections.abc import Sequence

from mgrd_jax.text import turns
from mgrd_jax.text.families import RELEASED, Sampling

_R1 = RELEASED["step-audio-r1"].sampling
_CAPTION = dataclasses.replace(_R1, temperature=0.5, top_p=0.9, max_new=1024)
_CHAT = dataclasses.replace(_R1, top_p=0.9, max_new=2048)
_CHOICE = (
  "{question}\nPlease choose the answer from the following options, do not "
  "provide any additional explanations or content: \n{options}"
)
_ASSISTANT = "你是一个语音助手，你有非常丰富的音频处理经验。"


@dataclasses.dataclass(frozen=True)
class Task:
  """How a benchmark is asked.

  Attributes:
    sampling: how its answers are drawn.
    text: what is asked; {question} and {options} are filled in.
    audio_first: the clip stands before the text.
    system: the system message; "" is none.
  """

  sampling: Sampling
  text: str = ""
  audio_first: bool = False
  system: str = ""


TASKS = {
  "mmau": Task(_R1, _CHOICE),
  "mmsu": Task(_R1, _CHOICE),
  "mmar": Task(dataclasses.replace(_R1, repetition_penalty=1.07), _CHOICE),
  "spoken-mqa": Task(_R1, "Solve the given math question step by step."),
  "big-bench-audio": Task(
    _R1,
    '仅用 "valid" 或 "invalid"，"yes" 或 "no"，或者数字来直接回答上面的问题，'
    "不要添加任何其他描述。",
    audio_first=True,
  ),
  "wild-speech": Task(_R1),
  "caption": Task(
    _CAPTION,
    system=(
      "你是一位经验丰富的音频分析专家，擅长对各种语音音频进行深入细致的分析。"
      "你的任务不仅仅是将音频内容准确转写为文字，还要对说话人的声音特征"
      "（如性别、年龄、情绪状态）、背景声音、环境信息以及可能涉及的事件进行"
      "全面描述。请以专业、客观的视角，详细、准确地完成每一次分析和转写。"
    ),
  ),
  "song": Task(_CHAT, "鉴赏一下这段歌声。", system=_ASSISTANT),
  "speaker-trait": Task(
    _CHAT,
    "说话人的语气和音色如何反映他的性格和情绪特征？",
    system=_ASSISTANT,
  ),
}


def messages(
  task: str,
  clip: turns.Audio,
  question: str = "",
  options: Sequence[str] = (),
) -> tuple[turns.Message, ...]:
  """A benchmark's item as the publishers ask it.

  Args:
    task: a key of `TASKS`.
    clip: what is heard.
    question, options: of a task of choices; options are lettered from A.

  Raises:
    ValueError: an unknown task, a choice without question or options, or
      words for a task that has its own.
  """
  if task not in TASKS:
    raise ValueError(f"task {task!r} is none of {', '.join(TASKS)}")
  one = TASKS[task]
  chosen = "{question}" in one.text
  if (bool(question), bool(options)) != (chosen, chosen):
    need = "needs a question and options" if chosen else "has its own words"
    raise ValueError(f"task {task!r} {need}")
  lines = [f"{chr(65 + i)}. {option}\n" for i, option in enumerate(options)]
  text = one.text.format(question=question, options="".join(lines))
  parts = (clip, text) if one.audio_first else (text, clip)
  human = turns.Message("human", tuple(p for p in parts if p != ""))
  system = turns.Message("system", one.system)
  return (system, human) if one.system else (human,)
