"""Which share of a batch this process takes, from what launchers and schedulers put into the environment."""

from __future__ import annotations

from collections.abc import Mapping

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # of srun; sbatch sets SLURM_NTASKS for its one script, too
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),  # Kubernetes sets the index; the count is for the manifest to set
)
"""Names of (index, count), each from the most particular on."""


def shard_from_environment(environment: Mapping[str, str]) -> tuple[int, int]:
    """(index from 1, count) of the first launcher that says both; (1, 1) when none does."""
    for index_name, count_name in LAUNCHERS:
        index, count = environment.get(index_name, ""), environment.get(count_name, "")
        if index.isdecimal() and count.isdecimal():
            first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0)) if "ARRAY" in index_name else 0
            if 0 <= int(index) - first < int(count):
                return int(index) - first + 1, int(count)
    return 1, 1
