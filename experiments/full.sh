#!/usr/bin/env bash
# A stage on a Cloud TPU slice: queue for it, run on all hosts, resume when the
# slice is preempted, give it back.
#
#   experiments/full.sh --project=P --zone=Z --tpu=v5p-128 --name=N \
#     --workdir=gs://BUCKET/RUN [--spot] [--service_account=EMAIL] \
#     [--network=NET] [--runtime=VERSION] [--flags="--xla_..."] [--retries=2] \
#     [--keep] [--dry_run] -- MODULE [ARGUMENTS]
#
#   experiments/full.sh ... --tpu=v6e-256 --workdir=gs://mine/sft -- \
#     experiments.sft --config=configs/sft.py:tiny --config.mesh.fsdp=0
#
# Every host runs `python -m MODULE ARGUMENTS --workdir=gs://BUCKET/RUN
# --distributed` of the commit that is checked out here.  Checkpoints and metrics
# go to the workdir, what each host prints to gs://BUCKET/RUN/logs, once a
# minute.  The command is what resumes: it is started again on a new slice after
# a preemption, and up to --retries times on a slice that is healthy.
# Interrupted, this script leaves the slice alone, and the same call takes it up
# again.  --dry_run prints each gcloud command, of a run that is preempted once.
#
# Needs gcloud, logged in; the slice's service account must read and write the
# bucket.  The flags set here are explained in experiments/README.md.
set -euo pipefail

say() { echo "full.sh: $*" >&2; }
fail() { say "$*"; exit 1; }
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; }

project='' zone='' tpu='' name='' workdir='' spot='' runtime='' flags=default
service_account='' network='' retries=2 keep=false dry=false
while (($#)); do
  case $1 in
    --help) usage; exit 0 ;;
    --project=* | --zone=* | --tpu=* | --name=* | --workdir=* | --runtime=* | \
      --flags=* | --service_account=* | --network=* | --retries=*)
      key=${1%%=*}
      printf -v "${key#--}" '%s' "${1#*=}" ;;
    --spot) spot=--spot ;;
    --keep) keep=true ;;
    --dry_run) dry=true ;;
    --) shift; break ;;
    *) fail "unknown argument $1 (--help lists all)" ;;
  esac
  shift
done
for required in project zone tpu name workdir; do
  [[ -n ${!required} ]] || fail "--$required= is missing (--help lists all)"
done
(($#)) || fail 'nothing to run: end with -- MODULE [ARGUMENTS]'
[[ $workdir == gs://?*/?* ]] || fail "--workdir=$workdir: write gs://BUCKET/RUN"
[[ $retries =~ ^[0-9]+$ ]] || fail "--retries=$retries: write a number"
workdir=${workdir%/}

# All-gathers of weights go on beside the matmuls.
overlap='--xla_tpu_enable_async_collective_fusion=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
  --xla_tpu_enable_async_collective_fusion_multiple_steps=true
  --xla_tpu_overlap_compute_collective_tc=true
  --xla_enable_async_all_gather=true'
case $tpu in
  v5e-*) kind=v5litepod-${tpu#*-} image=v2-alpha-tpuv5-lite known=$overlap ;;
  v5p-*) kind=$tpu image=v2-alpha-tpuv5 known=$overlap ;;
  v6e-*) kind=$tpu image=v2-alpha-tpuv6e
    known="$overlap --xla_tpu_scoped_vmem_limit_kib=98304" ;;
  *) fail "--tpu=$tpu: write v5e-N, v5p-N or v6e-N" ;;
esac
[[ $tpu =~ -[0-9]+$ ]] || fail "--tpu=$tpu: write v5e-N, v5p-N or v6e-N"
[[ $flags != default ]] || flags=$known
flags=$(xargs <<< "$flags")

$dry || command -v gcloud > /dev/null || fail 'gcloud is not installed'
cd "$(dirname "${BASH_SOURCE[0]}")/.."
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD || say "changes since commit $commit are not sent"
code=$workdir/code/$commit.tar.gz
place=("--project=$project" "--zone=$zone")
queue=(compute tpus queued-resources)

cloud() {
  if $dry; then
    printf 'gcloud'
    printf ' %q' "$@"
    echo
  else
    gcloud "$@"
  fi
}

# What the queue says of us: nothing when it does not know us.
pretended=('' WAITING_FOR_RESOURCES ACTIVE SUSPENDED '' ACTIVE)
state() {
  local ask=("${queue[@]}" list "${place[@]}" "--filter=name~/$name\$"
    '--format=value(state.state)')
  if $dry; then
    cloud "${ask[@]}" >&3
    echo "${pretended[turn]}"
  else
    gcloud "${ask[@]}" || echo unknown
  fi
}

create() {
  cloud "${queue[@]}" create "$name" "--node-id=$name" "${place[@]}" \
    "--accelerator-type=$kind" "--runtime-version=${runtime:-$image}" \
    ${spot:+"$spot"} ${service_account:+"--service-account=$service_account"} \
    ${network:+"--network=$network"}
}

delete() {
  cloud "${queue[@]}" delete "$name" "${place[@]}" --force --quiet
}

on_all_hosts() {
  cloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all \
    "--command=$remote"
}

command=$(printf '%q ' .venv/bin/python -m "$@" "--workdir=$workdir" \
  --distributed)
started=$(date -u +%Y%m%dT%H%M%S)
remote="set -eu
dir=\$HOME/mgrd_jax-$commit
if [ ! -e \$dir/.ready ]; then
  mkdir -p \$dir && cd \$dir
  gcloud storage cat $code | tar -xz
  python3 -m pip install -q --user uv
  \$HOME/.local/bin/uv venv -q --python=3.12 .venv
  \$HOME/.local/bin/uv pip install -q --python=.venv/bin/python -e '.[tpu,gcs]'
  touch .ready
fi
cd \$dir
# A run whose launcher was lost still holds the chips: it saves and ends.
if [ -e run.pid ] && kill -TERM -- -\$(cat run.pid) 2> /dev/null; then
  sleep 60; kill -KILL -- -\$(cat run.pid) 2> /dev/null || true
fi
export LIBTPU_INIT_ARGS=$(printf '%q' "$flags")
setsid $command> run.log 2>&1 & run=\$!
echo \$run > run.pid
log=$workdir/logs/$started-\$(hostname).txt
while sleep 60; do gcloud storage cp -q run.log \$log; done & copying=\$!
code=0; wait \$run || code=\$?
kill \$copying; rm run.pid
gcloud storage cp -q run.log \$log
tail -n 5 run.log
exit \$code"

pause() { $dry || sleep "$1"; }

finish() {
  if $keep; then
    say "the slice is kept: gcloud ${queue[*]} delete $name ${place[*]} --force"
  else
    delete
  fi
}

exec 3>&1
turn=0 failures=0
trap 'say "the slice goes on; the same call takes it up again"; exit 130' INT
if $dry; then
  echo "git archive --format=tar.gz $commit | gcloud storage cp - $code"
else
  git archive --format=tar.gz "$commit" | gcloud storage cp -q - "$code"
fi
while :; do
  now=$(state)
  case $now in
    '') create ;;
    ACTIVE)
      if on_all_hosts && { ! $dry || ((turn == ${#pretended[@]} - 1)); }; then
        finish
        say "done: $workdir"
        exit 0
      fi
      pause 60
      if $dry || [[ $(state) != ACTIVE ]]; then
        say 'preempted; the run goes on where its checkpoint is'
      elif ((failures++ >= retries)); then
        finish
        fail "the command failed on a healthy slice; see $workdir/logs"
      fi ;;
    SUSPENDED) delete ;;
    FAILED)
      delete
      fail "the queue refused $tpu in $zone: its state was FAILED" ;;
    *)
      say "$name is $now"
      pause 60 ;;
  esac
  turn=$((turn + 1))
done
