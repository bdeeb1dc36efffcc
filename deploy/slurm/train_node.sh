#!/bin/bash
# torchrun on one node of train.sbatch, which starts it with srun.
set -euo pipefail
source "$MMRET_CHECKOUT/deploy/slurm/common.sh"

head=${RDZV_ENDPOINT%:*}
interface=$(interface_towards "$head")
# on the head itself the way to its address is the loopback
[[ $interface != lo ]] || interface=$(ip -4 -o address show | awk -v a="$head/" 'index($4, a) == 1 { print $2; exit }')
# by a host's name gloo and NCCL may take an address that the others cannot reach
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$interface}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((${SLURM_CPUS_ON_NODE:-1} > PROCESSES ? ${SLURM_CPUS_ON_NODE:-1} / PROCESSES : 1))}

exec "$MMRET_PYTHON" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node "$PROCESSES" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$RDZV_ID" --rdzv-endpoint "$RDZV_ENDPOINT" --local-addr "$(address_towards "$head")" \
    -m mmret train --lake "$LAKE" --recipe "$RECIPE" "$@"
