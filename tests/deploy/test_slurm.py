"""The batch scripts of deploy/slurm, submitted to a real Slurm of two nodes in two network namespaces.

`pytest -m cluster tests/deploy/test_slurm.py` as root; some minutes on two cores.
"""

import re

import pytest

from tests.deploy.slurm import NODES, slurm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    with slurm() as started:
        yield started


def test_ray_has_every_node_of_the_allocation_and_nothing_is_left_when_the_job_ends(cluster):
    ask = "$MMRET_PYTHON deploy/slurm/nodes.py --expect 2 --seconds 5; env | grep -c RAY_AUTH_TOKEN"
    job = cluster.submit("run.sbatch", LAKE=str(cluster.folder / "home" / "lake"), MMRET_COMMAND=ask)
    said = cluster.finished(job, 300)
    assert set(re.findall(r"Ray node ([\d.]+):", said)) == set(NODES.values()), said
    assert not cluster.processes()
