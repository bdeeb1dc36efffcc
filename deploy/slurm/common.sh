# What both batch scripts share: where the checkout is, addresses of nodes, and an end before the time limit. Sourced, never run.
# shellcheck shell=bash

fail() {
    echo "deploy/slurm: $*" >&2
    exit 2
}

# Slurm runs a copy of the batch script, so the checkout is where sbatch was called, or what MMRET_CHECKOUT says
: "${MMRET_CHECKOUT:=$SLURM_SUBMIT_DIR}"
: "${MMRET_PYTHON:=$MMRET_CHECKOUT/.venv/bin/python}"
# logs, and the home of Dagster: a folder that every node sees
: "${MMRET_STATE:=$SLURM_SUBMIT_DIR/mmret-$SLURM_JOB_ID}"
export MMRET_CHECKOUT MMRET_PYTHON MMRET_STATE
# steps are started by name, as `python` and `dagster`, on whichever node
PATH=$(dirname "$MMRET_PYTHON"):$PATH
export PATH PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore

# Node names of the allocation, one a line; the batch script itself runs on the first. Take one by sed, which reads them all: with
# pipefail, a reader that ends early fails the script where there are hundreds.
nodes() { scontrol show hostnames "$SLURM_JOB_NODELIST"; }

# The address by which Slurm's own daemons reach a node.
slurm_address() {
    local name
    name=$(scontrol show node "$1" | sed -nE 's/.*NodeAddr=([^ ]+).*/\1/p')
    getent ahostsv4 "${name:-$1}" | awk '{ print $1; exit }'
}

# This node's own address on the way to another one. MMRET_INTERFACE names a network instead (ib0), as where Slurm talks over a slow
# one. A node's own name is no way to its address: many machines resolve it to 127.0.1.1.
address_towards() {
    local found
    if [[ -n ${MMRET_INTERFACE:-} ]]; then
        found=$(ip -4 -o address show dev "$MMRET_INTERFACE" | awk '{ sub("/.*", "", $4); print $4; exit }')
    else
        found=$(ip -4 -o route get "$1" | sed -nE 's/.* src ([0-9.]+).*/\1/p')
    fi
    [[ $found == 127.* ]] && found=$(hostname -I | awk '{ print $1 }')
    echo "$found"
}

interface_towards() { echo "${MMRET_INTERFACE:-$(ip -4 -o route get "$1" | sed -nE 's/.* dev ([^ ]+).*/\1/p')}"; }

free_port() { "$MMRET_PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

# An address of this node that the others reach: the one towards the second node, or towards itself where it is alone.
head_address() {
    local second
    second=$(nodes | sed -n 2p)
    address_towards "$(slurm_address "${second:-$(nodes | sed -n 1p)}")"
}

check_environment() {
    [[ -x $MMRET_PYTHON ]] || fail "no $MMRET_PYTHON: run \`make setup\`, or let MMRET_PYTHON name the Python of the environment"
    [[ -n ${LAKE:-} ]] || fail "set LAKE: a folder that every node sees, or s3://bucket/prefix"
    [[ $LAKE == *://* || $LAKE == /* ]] || fail "LAKE has to be an absolute path or an address, not $LAKE"
    [[ $MMRET_STATE == /* ]] || fail "MMRET_STATE has to be an absolute path, not $MMRET_STATE"
    mkdir -p "$MMRET_STATE"
}

# Runs a command until it ends, the job is cancelled, or Slurm says by USR1 that the time limit is near. Sets:
#   code     the command's exit code
#   stopped  "", "cancelled" or "time"
# $1: a function that asks the command, whose process id is $running, to end.
run_until_told() {
    local ask_to_end=$1
    shift
    stopped=""
    "$@" &
    running=$!
    trap 'stopped=${stopped:-time}; "$ask_to_end"' USR1
    trap 'stopped=${stopped:-cancelled}; "$ask_to_end"' TERM INT
    # a trap ends `wait` early
    while :; do
        code=0
        wait "$running" || code=$?
        kill -0 "$running" 2>/dev/null || break
    done
    trap - USR1 TERM INT
}

# The last line of a batch script. A job that was stopped by its time limit is put back into the queue and goes on where it was; Slurm
# itself does that where it takes a node away (--requeue). Ends this script.
finish() {
    local most=${MMRET_MOST_RESTARTS:-50}
    if [[ $stopped == time && $code -ne 0 ]]; then
        if ((${SLURM_RESTART_COUNT:-0} < most)); then
            echo "the time limit is near: job $SLURM_JOB_ID goes back into the queue and then on where it is"
            scontrol requeue "$SLURM_JOB_ID" && sleep 60
        fi
        echo "job $SLURM_JOB_ID ends unfinished after ${SLURM_RESTART_COUNT:-0} restarts; submit it again and it goes on" >&2
    fi
    exit "$code"
}
