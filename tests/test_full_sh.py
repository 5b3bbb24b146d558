"""experiments/full.sh, with a gcloud that keeps its orders in a file."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "full.sh"
FLAGS = {
  "project": "p",
  "zone": "us-east5-a",
  "tpu": "v5p-128",
  "name": "run1",
  "workdir": "gs://mine/sft",
}
STAGE = ["experiments.sft", "--config=configs/sft.py:tiny", "--x=a b'c"]

GCLOUD = r"""#!/usr/bin/env bash
printf '%q ' "$@" >> "$TOLD"; echo >> "$TOLD"
take() { head -n 1 "$1"; sed -i 1d "$1"; }
case "$*" in
  *'queued-resources list'*) take "$STATES" ;;
  *'tpu-vm ssh'*)
    if [ -s "$CODES" ]; then exit "$(take "$CODES")"; fi
    for arg; do
      case $arg in --command=*) bash -c "${arg#*=}"; exit ;; esac
    done ;;
  *'storage cp -q - '*) cat > "$HOME/code.tar.gz" ;;
  *'storage cp'*) cp "${@: -2:1}" "$HOME/uploaded" ;;
esac
"""


def arguments(stage=STAGE, **changes):
  flags = {k: v for k, v in (FLAGS | changes).items() if v is not None}
  given = [f"--{k}" if v is True else f"--{k}={v}" for k, v in flags.items()]
  return [*given, "--", *stage] if stage else given


def run(args, **environment):
  return subprocess.run(
    ["bash", str(SCRIPT), *args],
    env=os.environ | environment,
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.fixture
def cloud(tmp_path):
  """run(args, states, codes) → (what it did, its orders to gcloud)."""
  tools = tmp_path / "bin"
  tools.mkdir()
  for name, text in (("gcloud", GCLOUD), ("sleep", "#!/bin/sh\n")):
    (tools / name).write_text(text)
    (tools / name).chmod(0o755)
  files = {n: tmp_path / n.lower() for n in ("TOLD", "STATES", "CODES")}

  def go(args, states, codes=()):
    files["TOLD"].write_text("")
    files["STATES"].write_text("".join(f"{s}\n" for s in states))
    files["CODES"].write_text("".join(f"{c}\n" for c in codes))
    path = f"{tools}:{os.environ['PATH']}"
    paths = {n: str(p) for n, p in files.items()}
    done = run(args, PATH=path, HOME=str(tmp_path), **paths)
    return done, files["TOLD"].read_text().splitlines()

  return go


def verbs(orders) -> list[str]:
  """The word of each order that tells what it is."""
  known = ("list", "create", "delete", "ssh", "cp")
  return [next(w for w in known if w in o.split()) for o in orders]


def test_help_names_every_flag():
  done = run(["--help"])
  assert not done.returncode and not done.stderr
  for flag in FLAGS:
    assert f"--{flag}=" in done.stdout
  assert "--dry_run" in done.stdout and "set -" not in done.stdout


def test_the_shell_and_its_linter_have_nothing_to_say():
  assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
  if not shutil.which("shellcheck"):
    pytest.skip("no shellcheck here")
  done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
  assert not done.stdout


@pytest.mark.parametrize(
  "changes, stage, message",
  [
    *(({name: None}, STAGE, f"--{name}= is missing") for name in FLAGS),
    ({}, [], "nothing to run: end with -- MODULE"),
    ({"workdir": "out/sft"}, STAGE, "--workdir=out/sft: write gs://BUCKET/RUN"),
    ({"workdir": "gs://mine"}, STAGE, "--workdir=gs://mine: write gs://BUCKET"),
    ({"tpu": "v4-8"}, STAGE, "--tpu=v4-8: write v5e-N, v5p-N or v6e-N"),
    ({"tpu": "v5p-"}, STAGE, "--tpu=v5p-: write v5e-N, v5p-N or v6e-N"),
    ({"retries": "many"}, STAGE, "--retries=many: write a number"),
    ({"zoon": "z"}, STAGE, "unknown argument --zoon=z (--help lists all)"),
  ],
)
def test_missing_or_wrong_arguments_are_one_line(
  cloud, changes, stage, message
):
  done, orders = cloud(arguments(stage, **changes), [])
  assert done.returncode == 1 and not done.stdout and not orders
  assert done.stderr.startswith(f"full.sh: {message}")
  assert done.stderr.count("\n") == 1


def test_dry_run_prints_every_command_and_runs_none(cloud):
  done, orders = cloud(
    arguments(dry_run=True, spot=True, service_account="a@b"), []
  )
  assert not done.returncode and not orders
  archive, *printed = done.stdout.splitlines()
  assert archive.startswith("git archive --format=tar.gz ")
  assert "| gcloud storage cp - gs://mine/sft/code/" in archive
  assert all(line.startswith("gcloud compute tpus ") for line in printed)
  # Created, waited for, run, preempted, and all of it again.
  assert verbs(printed) == [
    "list", "create", "list", "list", "ssh",
    "list", "delete", "list", "create", "list", "ssh", "delete",
  ]  # fmt: skip
  create = next(line for line in printed if " create " in line).split()
  for flag in (
    "run1",
    "--node-id=run1",
    "--project=p",
    "--zone=us-east5-a",
    "--accelerator-type=v5p-128",
    "--runtime-version=v2-alpha-tpuv5",
    "--spot",
    "--service-account=a@b",
  ):
    assert flag in create
  ssh = next(line for line in printed if " ssh " in line)
  assert "--worker=all" in ssh
  assert "--workdir=gs://mine/sft" in ssh and "gs://mine/sft/logs/" in ssh


@pytest.mark.parametrize(
  "tpu, accelerator, image",
  [
    ("v5e-64", "v5litepod-64", "v2-alpha-tpuv5-lite"),
    ("v5p-128", "v5p-128", "v2-alpha-tpuv5"),
    ("v6e-256", "v6e-256", "v2-alpha-tpuv6e"),
  ],
)
def test_each_generation_has_its_name_image_and_flags(
  cloud, tpu, accelerator, image
):
  printed = cloud(arguments(dry_run=True, tpu=tpu), [])[0].stdout
  asked = f"--accelerator-type={accelerator} --runtime-version={image}"
  assert asked in printed
  assert "--xla_tpu_enable_async_collective_fusion=true" in printed
  # Only v6e has 128 MiB of VMEM to give.
  assert ("xla_tpu_scoped_vmem_limit_kib" in printed) == (tpu == "v6e-256")
  own = cloud(arguments(dry_run=True, tpu=tpu, flags="--xla_a=1"), [])[0].stdout
  assert "LIBTPU_INIT_ARGS=--xla_a=1" in own and "collective" not in own


def test_a_preempted_slice_is_asked_for_again_until_the_command_ends(cloud):
  states = ["", "PROVISIONING", "ACTIVE", "SUSPENDING", "SUSPENDED"]
  states += ["", "ACTIVE"]
  done, orders = cloud(arguments(), states, codes=[255, 0])
  assert not done.returncode, done.stderr
  assert verbs(orders) == [
    "cp", "list", "create", "list", "list", "ssh",
    "list", "list", "delete", "list", "create", "list", "ssh", "delete",
  ]  # fmt: skip
  assert "preempted; the run goes on where its checkpoint is" in done.stderr
  assert done.stderr.endswith("done: gs://mine/sft\n")


def test_a_command_that_fails_on_a_healthy_slice_is_tried_again_then_given_up(
  cloud,
):
  done, orders = cloud(arguments(retries=1), ["ACTIVE"] * 9, codes=[1, 1])
  assert done.returncode == 1
  assert verbs(orders) == ["cp", "list", "ssh", "list", "list", "ssh", "list",
                           "delete"]  # fmt: skip
  said = "the command failed on a healthy slice; see gs://mine/sft/logs"
  assert said in done.stderr


def test_a_slice_that_is_kept_is_not_deleted(cloud):
  done, orders = cloud(arguments(keep=True), ["ACTIVE"], codes=[0])
  assert not done.returncode and verbs(orders) == ["cp", "list", "ssh"]
  assert "the slice is kept: gcloud compute tpus queued-res" in done.stderr


def test_a_request_that_the_queue_refuses_ends_it(cloud):
  done, orders = cloud(arguments(), ["", "FAILED"])
  assert done.returncode == 1
  assert verbs(orders) == ["cp", "list", "create", "list", "delete"]
  assert "the queue refused v5p-128 in us-east5-a" in done.stderr


@pytest.mark.parametrize("code", [0, 7])
def test_what_a_host_runs_gets_its_arguments_flags_and_log(
  cloud, tmp_path, code
):
  commit = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  ).stdout.strip()
  python = tmp_path / f"mgrd_jax-{commit}" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  (tmp_path / f"mgrd_jax-{commit}" / ".ready").touch()
  python.write_text(
    '#!/bin/sh\nfor a; do echo "[$a]"; done\necho "$LIBTPU_INIT_ARGS"\n'
    f"exit {code}\n"
  )
  python.chmod(0o755)
  args = arguments(flags="--xla_a=1 --xla_b=2", retries=0)
  done, _ = cloud(args, ["ACTIVE"] * 3)
  assert done.returncode == (1 if code else 0)
  assert (tmp_path / "uploaded").read_text().splitlines() == [
    "[-m]",
    *(f"[{word}]" for word in STAGE),
    "[--workdir=gs://mine/sft]",
    "[--distributed]",
    "--xla_a=1 --xla_b=2",
  ]
  assert not (python.parents[2] / "run.pid").exists()
