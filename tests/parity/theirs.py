"""What torch's and transformers' own classes make of a case.

Qwen2-Audio is transformers' class as it comes.  No class there is
Step-Audio's encoder or adapter: they are written below, from the published
equations, around transformers' Qwen2ForCausalLM.
"""

import json
import pathlib
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from tests.parity import cases

transformers.utils.logging.disable_progress_bar()
# What is stored: in float32 the classes differ from one processor to another.
EXACT = torch.float64
GREEDY = transformers.GenerationConfig(
  do_sample=False,
  max_new_tokens=cases.NEW,
  pad_token_id=0,
  return_dict_in_generate=True,
  output_logits=True,
)


def tensors(folder) -> dict:
  """Every tensor of every safetensors file of a folder."""
  found = {}
  for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
    found |= load_file(path)
  return found


class Attention(nn.Module):
  """Keys without bias; q and k each scaled by H ** -0.25."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    self.query = nn.Linear(width, width)
    self.key = nn.Linear(width, width, bias=False)
    self.value = nn.Linear(width, width)
    self.out = nn.Linear(width, width)

  def forward(self, x, bias):
    clips, frames, width = x.shape
    scale = (width // self.heads) ** -0.25

    def split(y):
      return y.view(clips, frames, self.heads, -1).transpose(1, 2)

    q, k = split(self.query(x)) * scale, split(self.key(x)) * scale
    probs = (q @ k.transpose(2, 3) + bias).float().softmax(-1).to(x.dtype)
    y = (probs @ split(self.value(x))).transpose(1, 2)
    return self.out(y.reshape(clips, frames, width))


class Block(nn.Module):
  def __init__(self, width: int, heads: int):
    super().__init__()
    self.attn_ln = nn.LayerNorm(width)
    self.attn = Attention(width, heads)
    self.mlp_ln = nn.LayerNorm(width)
    self.mlp = nn.Sequential(
      nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
    )

  def forward(self, x, bias):
    x = x + self.attn(self.attn_ln(x), bias)
    return x + self.mlp(self.mlp_ln(x))


class Encoder(nn.Module):
  """Log-mel [B, M, R] at 100 Hz -> states [B, A, E] at 25 Hz."""

  def __init__(self, c: dict):
    super().__init__()
    width = c["n_audio_state"]
    self.conv1 = nn.Conv1d(c["n_mels"], width, 3, padding=1)
    self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
    self.positional_embedding = nn.Embedding(c["n_audio_ctx"], width)
    self.blocks = nn.ModuleList(
      Block(width, c["n_audio_head"]) for _ in range(c["n_audio_layer"])
    )
    self.avg_pooler = nn.AvgPool1d(2, stride=2)
    self.after_norm = nn.LayerNorm(width)

  def forward(self, mel, x_len):
    frames = mel.shape[2]
    valid = torch.arange(frames)[None] < x_len[:, None]
    x = nn.functional.gelu(self.conv1(mel))
    x = nn.functional.gelu(self.conv2(x)).transpose(1, 2)
    x = x + self.positional_embedding.weight[: x.shape[1]]
    keep = valid[:, (frames + 1) % 2 :: 2]
    bias = torch.where(keep, 0.0, -1e10)[:, None, None]
    for block in self.blocks:
      x = block(x, bias)
    x = self.avg_pooler(x.transpose(1, 2)).transpose(1, 2)
    return self.after_norm(x), (x_len + 1) // 2 // 2


class Adapter(nn.Module):
  """States at 25 Hz -> embeddings [B, A, D] at 12.5 Hz."""

  def __init__(self, c: dict):
    super().__init__()
    width, hidden = c["n_audio_state"], c["adapter_hidden"]
    self.conv = nn.Conv1d(width, width, 3, stride=2, padding=1)
    self.linear1 = nn.Linear(width, hidden)
    self.linear2 = nn.Linear(hidden, c["llm_dim"])

  def forward(self, x, x_len):
    x = nn.functional.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)
    x = self.linear2(nn.functional.relu(self.linear1(x)))
    return x, (x_len - 1) // 2 + 1


class StepAudio:
  """Encoder, adapter and a Qwen2 decoder, with a checkpoint's names."""

  def __init__(self, config: dict):
    audio = config["audio_encoder_config"]
    text = dict(config["text_config"])
    del text["num_attention_groups"]
    self.encoder, self.adapter = Encoder(audio), Adapter(audio)
    self.decoder = transformers.Qwen2ForCausalLM(
      transformers.Qwen2Config(**text)
    )
    self.parts = nn.ModuleDict(
      {"encoder": self.encoder, "adapter": self.adapter}
    ).eval()
    self.decoder.eval()
    self.tied = text["tie_word_embeddings"]

  def state_dict(self) -> dict:
    state = self.parts.state_dict() | self.decoder.state_dict()
    if self.tied:
      del state["lm_head.weight"]
    return state

  def load(self, folder) -> "StepAudio":
    state = tensors(folder)
    is_audio = {name: name in self.parts.state_dict() for name in state}
    self.parts.load_state_dict({n: x for n, x in state.items() if is_audio[n]})
    text = {n: x for n, x in state.items() if not is_audio[n]}
    if self.tied:
      text["lm_head.weight"] = text["model.embed_tokens.weight"]
    self.decoder.load_state_dict(text)
    return self

  def hear(self, mel_RM):
    """(25 Hz states, embeddings) of a clip alone, both cut to its length."""
    mel = torch.from_numpy(np.ascontiguousarray(mel_RM.T))[None]
    mel = mel.to(self.encoder.conv1.weight.dtype)
    # The two frames that the appended zeros make are not valid.
    enc, enc_len = self.encoder(mel, torch.tensor([mel.shape[2] - 2]))
    audio, audio_len = self.adapter(enc, enc_len)
    return enc[0, : enc_len[0]], audio[0, : audio_len[0]]


def qwen2_audio(folder, dtype=torch.float32):
  """transformers' own class, from a folder."""
  return transformers.Qwen2AudioForConditionalGeneration.from_pretrained(
    folder, dtype=dtype
  ).eval()


def shapes(case: cases.Case) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the checkpoint that those classes save."""
  if case.is_step_audio:
    state = StepAudio(case.config).state_dict()
    return {name: tuple(x.shape) for name, x in state.items()}
  config = transformers.Qwen2AudioConfig(**case.config)
  model = transformers.Qwen2AudioForConditionalGeneration(config)
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    return {name: tuple(x.shape) for name, x in tensors(folder).items()}


def extractor() -> transformers.WhisperFeatureExtractor:
  return transformers.WhisperFeatureExtractor(
    feature_size=128, sampling_rate=16_000, hop_length=160, n_fft=400
  )


def step_audio_mel(wave_W) -> np.ndarray:
  """Log-mel [R, M]: 479 zeros, then Whisper's, with no padding to 30 s."""
  tailed = np.pad(wave_W, (0, 479))
  mel = extractor()(
    tailed,
    sampling_rate=16_000,
    padding="do_not_pad",
    truncation=False,
    return_tensors="np",
  )
  return mel["input_features"][0].T


def qwen2_audio_mel(waves) -> tuple[np.ndarray, np.ndarray]:
  """Log-mels [B, R, M] of 30 s, and the valid frames of each."""
  mel = extractor()(
    list(waves),
    sampling_rate=16_000,
    padding="max_length",
    return_attention_mask=True,
    return_tensors="np",
  )
  features = mel["input_features"].transpose(0, 2, 1)
  return features, mel["attention_mask"].sum(1)


def left_aligned(x, valid):
  """Rows padded right -> rows padded left, as `generate` wants them."""
  both = zip(x, valid, strict=True)
  return torch.stack([torch.cat([row[~keep], row[keep]]) for row, keep in both])


def result(case, counts, enc, logits, valid, generated) -> dict:
  """The arrays that are compared, and how sure the greedy ids are."""
  top = torch.stack(generated.logits, 1).topk(2).values
  return {
    "counts": np.array(counts),
    "enc": torch.cat(enc).numpy(),
    "logits": logits[valid].numpy(),
    "greedy": generated.sequences[:, -cases.NEW :].numpy(),
    "margin": (top[..., 0] - top[..., 1]).min().numpy(),
  }


def run_step_audio(case: cases.Case, folder, dtype) -> dict:
  model = StepAudio(case.config).load(folder)
  model.parts.to(dtype)
  model.decoder.to(dtype)
  mels = cases.mels(case)
  if case.waves:
    mels = [step_audio_mel(wave_W) for wave_W in cases.waves(case)]
  enc, audio = zip(*map(model.hear, mels), strict=True)
  counts = [len(x) for x in audio]
  prompts = map(torch.from_numpy, cases.prompts(case, counts))
  tokens, valid, clip, frame = prompts
  embeds = model.decoder.get_input_embeddings()(tokens.long()).clone()
  for k, heard in enumerate(audio):
    embeds[clip == k] = heard[frame[clip == k]]
  mask = valid.long()
  logits = model.decoder(inputs_embeds=embeds, attention_mask=mask).logits
  generated = model.decoder.generate(
    inputs_embeds=left_aligned(embeds, valid),
    attention_mask=left_aligned(mask, valid),
    generation_config=GREEDY,
  )
  return result(case, counts, enc, logits, valid, generated)


def run_qwen2_audio(case: cases.Case, folder, dtype) -> dict:
  model = qwen2_audio(folder, dtype)
  tower = next(
    m for m in model.modules() if isinstance(m, transformers.Qwen2AudioEncoder)
  )
  if case.waves:
    mel_BRM, lengths = qwen2_audio_mel(cases.waves(case))
  else:
    mel_BRM, lengths = np.stack(cases.mels(case)), np.array(case.lengths)
  mel = torch.from_numpy(mel_BRM.transpose(0, 2, 1)).to(dtype).contiguous()
  frames = torch.arange(mel.shape[2])
  mel_mask = (frames < torch.from_numpy(lengths)[:, None]).long()
  _, counts = tower._get_feat_extract_output_lengths(mel_mask.sum(1))
  prompts = map(torch.from_numpy, cases.prompts(case, counts.tolist()))
  tokens, valid, _, _ = prompts
  tokens, mask = tokens.long(), valid.long()
  heard = []
  hook = tower.register_forward_hook(lambda *call: heard.append(call[2][0]))
  logits = model(
    input_ids=tokens,
    attention_mask=mask,
    input_features=mel,
    feature_attention_mask=mel_mask,
  ).logits
  hook.remove()
  generated = model.generate(
    input_ids=left_aligned(tokens, valid),
    attention_mask=left_aligned(mask, valid),
    input_features=mel,
    feature_attention_mask=mel_mask,
    generation_config=GREEDY,
  )
  enc = [x[:n] for x, n in zip(heard[0], counts, strict=True)]
  return result(case, counts, enc, logits, valid, generated)


@torch.no_grad()
def run(case: cases.Case, folder, dtype=EXACT) -> dict[str, np.ndarray]:
  """What the reference gives in a dtype for a checkpoint in `folder`.

  Returns:
    counts of placeholders of each clip; enc, the encoder's valid states of
    all clips; logits [positions, V] of all real positions, row by row; greedy
    ids [B, NEW]; margin, the least distance of the two likeliest on the way.
  """
  reference = run_step_audio if case.is_step_audio else run_qwen2_audio
  return reference(case, folder, dtype)


def versions() -> str:
  """Of what made the arrays, as JSON."""
  return json.dumps(
    {m.__name__: m.__version__ for m in (np, torch, transformers)}
  )
