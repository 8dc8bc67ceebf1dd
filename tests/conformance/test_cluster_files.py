"""The files that start Ray on Slurm and with SkyPilot: read by these programs, and run as far as one machine can."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elsewhere import ENDS, assert_same

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]
SBATCH, SKYPILOT = ROOT / "examples/clusters/slurm.sbatch", ROOT / "examples/clusters/skypilot.yaml"
SLURM = """ClusterName=none
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=9
AuthType=auth/none
CredType=cred/none
GresTypes=gpu
MessageTimeout=2
NodeName=n1
PartitionName=p Nodes=n1 Default=YES
"""
"""A cluster that does not answer: sbatch reads the whole file before it asks."""


def said_by_sbatch(file: Path, folder: Path) -> str:
    if shutil.which("sbatch") is None:
        pytest.skip("needs sbatch (Debian: slurm-client)")
    (folder / "slurm.conf").write_text(SLURM)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    done = subprocess.run(["sbatch", str(file)], env=environment, capture_output=True, text=True, check=False)
    return done.stderr


def test_sbatch_reads_every_directive(tmp_path):
    wrong = tmp_path / "wrong.sbatch"
    wrong.write_text(SBATCH.read_text().replace("--gpus-per-node=8", "--gpus-per-nodes=8"))
    assert "unrecognized option" in said_by_sbatch(wrong, tmp_path)
    assert "Unable to contact slurm controller" in said_by_sbatch(SBATCH, tmp_path)


def test_the_job_of_slurm_runs_on_one_machine(one_seed, one_alone, tmp_path):
    """srun and scontrol stand for those of one node; the rest is the file's."""
    pytest.importorskip("ray")
    fakes = {"srun": 'exec "$@"', "scontrol": "echo 127.0.0.1"}
    for name, line in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "gradience").write_text(f'#!/bin/sh\nexec {sys.executable} -m gradience "$@"\n')
    (tmp_path / "gradience").chmod(0o755)
    shutil.copy(one_seed, tmp_path / "mine.yaml")
    binaries = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": binaries, "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}
    assert subprocess.run(["bash", "-n", str(SBATCH)], check=False).returncode == 0
    done = subprocess.run(["bash", str(SBATCH)], cwd=tmp_path, env=environment, check=False)
    assert done.returncode in ENDS
    assert_same(tmp_path / "runs/mine", one_alone)


def test_skypilot_reads_its_file():
    python = os.environ.get("SKYPILOT_PYTHON")
    if python is None:
        pytest.skip("needs SKYPILOT_PYTHON, a Python with SkyPilot")
    program = (
        "import sys, sky; task = sky.Task.from_yaml(sys.argv[1]); (node,) = task.resources;"
        " print(task.num_nodes, node.accelerators, sorted(task.storage_mounts))"
    )
    done = subprocess.run(
        [python, "-c", program, str(SKYPILOT)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("2 {'H100': 8} ['/runs']"), done.stderr
