#!/bin/bash
# One node of the Ray cluster, for the time of a job step: `ray_node.sh head` or `ray_node.sh worker`, started by run.sbatch with srun.
# RAY_ADDRESS is the head's HOST:PORT. Everything that this node writes lies in a folder of its own, which goes with the step; the
# logs of Ray go to MMRET_STATE first.
set -euo pipefail
source "$MMRET_CHECKOUT/deploy/slurm/common.sh"

head=${RAY_ADDRESS%:*}
# sockets lie below it, whose paths may have 107 characters
base=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}
((${#base} <= 24)) || base=/tmp
scratch=$(mktemp -d "$base/mmret-$SLURM_JOB_ID-XXXX")

# models that were downloaded stay where they are; caches of the lake are a node's own, and a home folder may be shared
export HF_HOME=${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}
export XDG_CACHE_HOME=$scratch/cache TMPDIR=$scratch

# a job of a step waits for a free node as long as it takes; nobody reads Ray's own metrics
export RAY_JOB_START_TIMEOUT_SECONDS=${RAY_JOB_START_TIMEOUT_SECONDS:-86400} RAY_enable_metrics_collection=0
# asked to end, a node would wait half a minute for its steps, which nobody waits for any more
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

leave() {
    trap - EXIT TERM INT
    if [[ -n ${ray:-} ]]; then
        kill "$ray" 2>/dev/null || true
        for _ in $(seq 60); do
            kill -0 "$ray" 2>/dev/null || break
            sleep 0.5
        done
        kill -KILL "$ray" 2>/dev/null || true
    fi
    tar -C "$scratch" -chzf "$MMRET_STATE/ray-$SLURMD_NODENAME.tar.gz" --ignore-failed-read --warning=none \
        session_latest/logs 2>/dev/null || true
    rm -rf "$scratch"
}
trap leave EXIT
trap 'exit 143' TERM INT

cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}
# tables go by the lake, not through Ray: its store of objects needs little of the memory, of which it would take a third
options=(--temp-dir "$scratch" --object-store-memory "${MMRET_OBJECT_STORE_BYTES:-268435456}" --disable-usage-stats
    --dashboard-agent-listen-port 0 --log-color false --block)
[[ -z ${SLURM_GPUS_ON_NODE:-} ]] || options+=(--num-gpus "$SLURM_GPUS_ON_NODE")
if [[ $1 == head ]]; then
    # the run itself and Postgres are on this node too
    options+=(--head --node-ip-address "$head" --port "${RAY_ADDRESS##*:}" --num-cpus "$((cpus > 2 ? cpus - 1 : cpus))"
        --dashboard-host "$head" --dashboard-port "${RAY_API_SERVER_ADDRESS##*:}" --ray-client-server-port "$(free_port)")
else
    options+=(--address "$RAY_ADDRESS" --node-ip-address "$(address_towards "$head")" --num-cpus "$cpus")
fi
"$MMRET_PYTHON" -m ray.scripts.scripts start "${options[@]}" &
ray=$!
wait "$ray"
