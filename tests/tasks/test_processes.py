"""What processes tell each other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.processes import gather


def test_in_one_process_its_own_entries_come_back_by_key():
    assert list(gather({9: "b", 2: "a"}).items()) == [(2, "a"), (9, "b")]


@pytest.mark.slow
def test_two_processes_gather_each_entry_once_even_if_one_has_none(tmp_path):
    # 7 images over 2 processes: the sampler repeats image 0 on the second; and a second round with an empty process
    script = f"""
import sys
import numpy as np, torch.distributed as dist
from tasks.processes import gather
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=rank, world_size=2)
for mine in ([0, 2, 4, 6], [1, 3, 5, 0])[rank], ([], [3, 1])[rank]:
    merged = gather({{i: np.array([i, 10 * i]) for i in mine}})
    print({{i: values.tolist() for i, values in merged.items()}})
dist.destroy_process_group()
"""
    root = Path(__file__).resolve().parents[2]
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(root))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank)], stdout=subprocess.PIPE, text=True, env=env, cwd=root
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    expected = "\n".join(str({i: [i, 10 * i] for i in ids}) for ids in (range(7), (1, 3))) + "\n"
    assert outputs == [expected, expected]
