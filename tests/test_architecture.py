"""The house's rules, read off the syntax trees: directions, doors, sizes."""

import ast
import functools
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ALPHABET = set("BGTSLDFNKHVWRMAE")

ROW = {
  "types": 0, "paths": 0, "processes": 0,
  "sharding": 1, "audio": 1, "text": 1, "losses": 1, "rewards": 1,
  "kernels": 2, "data": 2, "rollout": 2, "grounding": 2,
  "models": 3, "train": 3, "mgrd": 3,
  "eval": 4, "realtime": 4,
}  # fmt: skip
# Those who are handed functions (apply, prefill, decode) and know no model.
HANDED_THE_MODEL = ("rollout", "train", "eval")

DOORS = {
  "flax": ("mgrd_jax/models/",),
  "jax.experimental.pallas": ("mgrd_jax/kernels/",),
  "grain": ("mgrd_jax/data/",),
  "array_record": ("mgrd_jax/data/",),
  "orbax": ("mgrd_jax/train/checkpoint.py",),
  "tokenizers": ("mgrd_jax/text/tokenizer.py",),
  # The benches measure ours beside these two.
  "safetensors": ("mgrd_jax/models/convert.py", "experiments/bench_"),
  "librosa": ("mgrd_jax/audio/", "experiments/bench_"),
  "soundfile": ("mgrd_jax/audio/",),
  "soxr": ("mgrd_jax/audio/",),
  "espeakng_loader": ("mgrd_jax/audio/",),
  # In an environment of its own, which this one never imports.
  "tensorflow": ("mgrd_jax/audio/tfio_worker.py",),
  "tensorflow_io": ("mgrd_jax/audio/tfio_worker.py",),
  "optax": ("mgrd_jax/train/", "mgrd_jax/losses/"),
  "tensorboardX": ("mgrd_jax/train/writers.py",),
  "wandb": ("mgrd_jax/train/writers.py",),
  "ml_collections": ("experiments/", "configs/"),
  "absl": ("experiments/", "configs/"),
  "torch": (),
  "transformers": (),
}  # fmt: skip
NAME_DOORS = {
  "PartitionSpec": ("mgrd_jax/sharding.py",),
  "NamedSharding": ("mgrd_jax/sharding.py",),
  "Mesh": ("mgrd_jax/sharding.py",),
  "shard_map": ("mgrd_jax/kernels/", "mgrd_jax/sharding.py"),
}
# By the command that is nothing but its flags, and by every test.
TESTED_ELSEWHERE = {
  "audio/tfio_worker": "audio/test_tfio.py",
  "data/labels": "test_prepare.py",
  "types": "test_architecture.py",
}
# What is only ever of this machine: folders of a release, a table of labels,
# a small tool's own files.  Any other path may be on a store, and is epath's.
OF_THIS_MACHINE = (
  "mgrd_jax/audio/tfio.py",
  "mgrd_jax/data/labels.py",
  "mgrd_jax/models/",
  "mgrd_jax/text/",
  "experiments/bench",
  "experiments/convert.py",
  "experiments/fit_table.py",
  "experiments/prepare.py",
  "experiments/verify.py",
)
MAY_JIT = ("experiments/", "mgrd_jax/kernels/", "mgrd_jax/rollout/")


def python_files(*folders):
  for folder in folders:
    for path in sorted((ROOT / folder).rglob("*.py")):
      yield path.relative_to(ROOT).as_posix()


@functools.cache
def tree(file):
  return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def imports(node_tree):
  """Dotted names of everything that a module imports, at any depth."""
  for node in ast.walk(node_tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "imports are absolute in this house"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(node):
  """`a.b.c` of an attribute chain, else what little of it is known."""
  if isinstance(node, ast.Attribute):
    return f"{dotted(node.value)}.{node.attr}"
  return node.id if isinstance(node, ast.Name) else ""


def names_used(node_tree):
  yield from imports(node_tree)
  for node in ast.walk(node_tree):
    if isinstance(node, (ast.Attribute, ast.Name)):
      yield dotted(node)


def within(name, package):
  return name == package or name.startswith(package + ".")


def package_of(file):
  return pathlib.PurePath(file).parts[1].removesuffix(".py")


def direction_faults(file, node_tree):
  home, faults = package_of(file), []
  for name in imports(node_tree):
    top, _, rest = name.partition(".")
    if top in ("experiments", "configs", "colabs", "tests"):
      faults.append(f"{file} imports {name}")
    if top != "mgrd_jax" or not rest:
      continue
    other = rest.split(".")[0]
    lower = ROW.get(other, 9) < ROW[home] or other == home
    if not lower or (other == "models" and home in HANDED_THE_MODEL):
      faults.append(f"{file} imports {name}")
  return faults


def door_faults(file, node_tree):
  faults = []
  for name in imports(node_tree):
    for package, doors in DOORS.items():
      if within(name, package) and not file.startswith(doors):
        faults.append(f"{file} imports {name}")
  for name in names_used(node_tree):
    doors = NAME_DOORS.get(name.split(".")[-1])
    if doors is not None and not file.startswith(doors):
      faults.append(f"{file} names {name}")
  return faults


def jit_faults(file, node_tree):
  jits = {"jax.jit", "jax.pmap", "jax.experimental.pjit.pjit"}
  if file.startswith(MAY_JIT):
    return []
  return [f"{file} uses {n}" for n in names_used(node_tree) if n in jits]


def global_state_faults(file, node_tree):
  banned = {"jax.config.update", "os.environ", "os.getenv", "os.putenv"}
  return [f"{file} uses {n}" for n in names_used(node_tree) if n in banned]


def path_faults(file, node_tree):
  """Paths by pathlib, which knows no store, but those of the code itself."""
  if file.startswith(OF_THIS_MACHINE):
    return []
  return [
    f"{file} line {node.lineno}: pathlib.Path"
    for node in ast.walk(node_tree)
    if isinstance(node, ast.Call)
    and dotted(node.func) in ("pathlib.Path", "Path")
    and not dotted(node.args[0]).endswith("__file__")
  ]


def log_faults(file, node_tree):
  """Loops of stages that do not ask config.log where their metrics go."""
  return [
    f"{file} line {node.lineno}: loop.run without log"
    for node in ast.walk(node_tree)
    if isinstance(node, ast.Call)
    and dotted(node.func) == "loop.run"
    and "flags.log" not in [
      dotted(k.value.func)
      for k in node.keywords
      if k.arg == "log" and isinstance(k.value, ast.Call)
    ]
  ]


def code_lines(function):
  """Lines of a function without its docstring."""
  lines = function.end_lineno - function.lineno + 1
  first = function.body[0]
  if ast.get_docstring(function, clean=False) is not None:
    lines -= first.end_lineno - first.lineno + 1
  return lines


def size_faults(file, node_tree, line_count):
  faults = []
  if line_count > (600 if file.startswith("mgrd_jax/kernels/") else 500):
    faults.append(f"{file} has {line_count} lines")
  for node in ast.walk(node_tree):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      is_run = file.startswith("experiments/") and node.name == "run"
      # "About 60": a tenth more is still about.
      if code_lines(node) > (120 if is_run else 66):
        faults.append(f"{file} {node.name}: {code_lines(node)} lines")
  return faults


def param_faults(file, node_tree):
  """Names such as "q_DNH", in calls of self.param or in tables of them."""
  found = []
  for node in ast.walk(node_tree):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      match = re.fullmatch(r"[a-z0-9_]*_([A-Z]+)", node.value)
      if match and not set(match[1]) <= ALPHABET:
        found.append(f"{file} line {node.lineno}: {node.value}")
  return found


def letter_faults(file, node_tree):
  """Variables such as `logits_BTV` whose suffix leaves the alphabet."""
  named = set()
  for node in ast.walk(node_tree):
    if isinstance(node, ast.Name):
      named.add(node.id)
    elif isinstance(node, ast.arg):
      named.add(node.arg)
  return [
    f"{file} {name}"
    for name in sorted(named)
    if (match := re.fullmatch(r"[a-z][a-z0-9_]*_([A-Z]+)", name))
    and not set(match[1]) <= ALPHABET
  ]


def is_nearly_empty(node_tree):
  """Only a docstring, imported names, and dunder constants."""
  return all(
    isinstance(node, (ast.ImportFrom, ast.Import))
    or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    or (
      isinstance(node, ast.Assign)
      and all(dotted(t).startswith("__") for t in node.targets)
    )
    for node in node_tree.body
  )


def faults_in(rule, *folders):
  found = []
  for file in python_files(*folders):
    found += rule(file, tree(file))
  return found


def test_every_package_has_a_row():
  homes = {package_of(f) for f in python_files("mgrd_jax")} - {"__init__"}
  assert homes <= set(ROW)


def test_lower_rows_import_neither_higher_rows_nor_their_siblings():
  found = []
  for file in python_files("mgrd_jax"):
    if package_of(file) != "__init__":
      found += direction_faults(file, tree(file))
  assert not found


def test_the_rollout_engine_knows_no_text():
  file = "mgrd_jax/rollout/engine.py"
  if not (ROOT / file).exists():
    pytest.skip("no engine yet")
  assert not [n for n in imports(tree(file)) if within(n, "mgrd_jax.text")]


def test_configs_import_only_ml_collections_and_each_other():
  allowed = ("ml_collections", "configs")
  for file in python_files("configs"):
    for name in imports(tree(file)):
      assert any(within(name, a) for a in allowed), (file, name)


def test_each_dependency_has_one_door():
  assert not faults_in(door_faults, "mgrd_jax", "experiments", "configs")


def test_jit_appears_only_where_programs_are_assembled():
  assert not faults_in(jit_faults, "mgrd_jax")


def test_the_library_touches_neither_jax_config_nor_the_environment():
  assert not faults_in(global_state_faults, "mgrd_jax")


def test_no_path_that_may_be_on_a_store_is_made_a_local_one():
  assert not faults_in(path_faults, "mgrd_jax", "experiments")


def test_every_stage_logs_where_its_config_says():
  assert not faults_in(log_faults, "experiments")


def test_files_and_functions_are_short():
  found = []
  for file in python_files("mgrd_jax", "experiments", "configs", "tests"):
    lines = (ROOT / file).read_text(encoding="utf-8").count("\n")
    found += size_faults(file, tree(file), lines)
  assert not found


def test_every_file_of_the_library_has_its_tests_and_they_its_name():
  """tests/<package>/test_<file>*.py is about mgrd_jax/<package>/<file>.py."""
  library = {
    pathlib.PurePath(file).with_suffix("").relative_to("mgrd_jax")
    for file in python_files("mgrd_jax")
    if not file.endswith("__init__.py")
  }
  packages = {file.parent for file in library if file.parent.name}
  tested = set(TESTED_ELSEWHERE)
  for package in packages:
    found = (ROOT / "tests" / package).glob("test_*.py")
    for name in (path.stem.removeprefix("test_") for path in found):
      own = {
        file
        for file in library
        if file.parent == package and f"{name}_".startswith(f"{file.name}_")
      }
      assert own, f"tests/{package}/test_{name}.py is about no file"
      tested |= {file.as_posix() for file in own}
  for file in library - {pathlib.PurePath(name) for name in tested}:
    assert (ROOT / "tests" / f"test_{file}.py").exists(), file
  for elsewhere in TESTED_ELSEWHERE.values():
    assert (ROOT / "tests" / elsewhere).exists()


def test_package_files_hold_nothing_but_names():
  for file in python_files("mgrd_jax", "experiments", "configs", "tests"):
    if file.endswith("__init__.py"):
      assert is_nearly_empty(tree(file)), file


def test_parameter_names_use_letters_of_the_alphabet():
  assert not faults_in(param_faults, "mgrd_jax/models")


def test_array_names_use_letters_of_the_alphabet():
  assert not faults_in(letter_faults, "mgrd_jax", "experiments")


def test_nothing_is_left_to_do():
  marks = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME")) + r")\b")
  for file in python_files("mgrd_jax", "experiments", "configs", "tests"):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not marks.search(text), file


@pytest.mark.parametrize(
  "rule, file, code",
  [
    (direction_faults, "mgrd_jax/audio/a.py", "import mgrd_jax.text.chat"),
    (direction_faults, "mgrd_jax/losses/a.py", "from mgrd_jax import models"),
    (direction_faults, "mgrd_jax/eval/a.py", "from mgrd_jax.models import x"),
    (direction_faults, "mgrd_jax/data/a.py", "import experiments.sft"),
    (door_faults, "mgrd_jax/train/a.py", "def f():\n  import flax.linen"),
    (door_faults, "mgrd_jax/eval/a.py", "from jax.experimental import pallas"),
    (door_faults, "mgrd_jax/train/a.py", "import jax\njax.sharding.Mesh([])"),
    (door_faults, "mgrd_jax/train/loop.py", "import orbax.checkpoint"),
    (jit_faults, "mgrd_jax/train/a.py", "import jax\nf = jax.jit(g)"),
    (jit_faults, "mgrd_jax/train/a.py", "from jax import jit"),
    (global_state_faults, "mgrd_jax/a.py", "import os\nos.environ['A']"),
    (path_faults, "mgrd_jax/train/a.py", "pathlib.Path(folder) / 'params'"),
    (log_faults, "experiments/a.py", "loop.run(step_fn, state, steps=3)"),
    (path_faults, "experiments/a.py", "from pathlib import Path\nPath(w)"),
    (param_faults, "mgrd_jax/models/a.py", "self.param('q_DXH', init)"),
    (param_faults, "mgrd_jax/models/a.py", "names = {'up_DX': init}"),
    (param_faults, "mgrd_jax/models/a.py", "self.param(f'{n}_XY', init)"),
    (letter_faults, "mgrd_jax/models/a.py", "def f(wave_BZ): pass"),
  ],
)
def test_a_breach_of_each_rule_is_found(rule, file, code):
  assert rule(file, ast.parse(code))


def test_long_files_and_functions_are_found():
  long = ast.parse("def f():\n" + "  x = 1\n" * 80)
  assert size_faults("mgrd_jax/audio/a.py", long, 81)
  assert size_faults("mgrd_jax/audio/a.py", ast.parse(""), 501)
  assert not size_faults("mgrd_jax/kernels/a.py", ast.parse(""), 501)
  assert not is_nearly_empty(ast.parse("def f(): pass"))


def run_python(code):
  return subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_importing_the_package_is_quick_and_loads_no_jax():
  done = run_python(
    "import sys, time; start = time.perf_counter(); import mgrd_jax; "
    "assert time.perf_counter() - start < 1; assert 'jax' not in sys.modules"
  )
  assert not done.returncode, done.stderr


def test_importing_every_module_touches_no_device():
  modules = [
    file.removesuffix(".py").replace("/", ".")
    for file in python_files("mgrd_jax")
    if not file.endswith("__init__.py")
  ]
  done = run_python(
    "import importlib\n"
    f"for name in {modules}: importlib.import_module(name)\n"
    "from jax._src import xla_bridge\n"
    "assert not xla_bridge.backends_are_initialized()"
  )
  assert not done.returncode, done.stderr[-2000:]
