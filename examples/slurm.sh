#!/bin/bash
# Peer to peer on the nodes of a Slurm job: sbatch examples/slurm.sh strategy=d_psgd topology=ring workers=8
#SBATCH --job-name=echelon
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --requeue

# A process of torch.distributed for every core; with GPUs, put their number in the place of SLURM_CPUS_PER_TASK.
processes=$SLURM_CPUS_PER_TASK
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
run=runs/slurm-$SLURM_JOB_ID

if [ -f "$run/config.yaml" ]; then # the job was requeued
    set -- "resume=$run"
else
    set -- engine=torch "run_dir=$run" "$@"
fi
srun .venv/bin/torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$processes" \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:${PORT:-29500}" --max-restarts 3 \
    run_sim.py "$@"
