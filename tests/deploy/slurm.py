"""A Slurm of two nodes on this machine, each in a network namespace of its own: munge, one controller, two daemons. Needs root.

Both nodes share this machine's files and processes, but neither its loopback nor its addresses; all that is started ends with the
block. Nothing of a Slurm that the machine may have is touched: socket, key, ports and folders are this one's.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.cluster.namespaces import hosts, need_namespaces
from tests.conftest import CHECKOUT

NODES = {"dep-1": "10.78.0.1", "dep-2": "10.78.0.2"}
FIRST = "dep-1"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
CONFIGURATION = """
ClusterName=mmret
SlurmctldHost={host}({address})
SlurmUser=root
SlurmctldPort=17017
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=5
KillWait=10
MinJobAge=3600
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=EXCLUSIVE
"""


@dataclass
class Slurm:
    folder: Path
    user: pwd.struct_passwd

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if k in ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE")
        }
        return kept | {"SLURM_CONF": str(self.folder / "slurm.conf"), "HOME": str(self.folder / "home"), "USER": self.user.pw_name}

    def ask(self, *command: str, check: bool = True, **variables: str) -> str:
        """One of Slurm's own commands on the first node, as root."""
        line = ["ip", "netns", "exec", FIRST, *command]
        done = subprocess.run(
            line, env=self.environment | variables, capture_output=True, text=True, timeout=60, cwd=self.folder / "home"
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: str, *words: str, options: tuple[str, ...] = (), **variables: str) -> str:
        """The id of a job, submitted from a folder of its user's."""
        variables = {"MMRET_CHECKOUT": str(CHECKOUT)} | variables
        line = ["sbatch", "--parsable", f"--uid={self.user.pw_uid}", f"--gid={self.user.pw_gid}", *options]
        return self.ask(*line, str(CHECKOUT / "deploy" / "slurm" / script), *words, **variables).strip()

    def job(self, job: str) -> dict[str, str]:
        return dict(word.partition("=")[::2] for word in self.ask("scontrol", "show", "job", job).split())

    def log(self, job: str) -> str:
        home = self.folder / "home"
        files = [home / f"mmret-{job}.log", *(home / f"mmret-{job}").glob("*.log")]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-6000:]}" for file in files if file.exists())

    def wait(self, job: str, states: tuple[str, ...], seconds: float) -> dict[str, str]:
        end = time.monotonic() + seconds
        while (found := self.job(job))["JobState"] not in states:
            assert time.monotonic() < end, f"{found['JobState']} and not {states}\n{self.log(job)}"
            time.sleep(2)
        return found

    def wait_for_word(self, job: str, words: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while words not in self.log(job):
            state = self.job(job)["JobState"]
            assert time.monotonic() < end and state != "FAILED", f"{state}, and no '{words}' in\n{self.log(job)}"
            time.sleep(2)

    def until_nothing_runs(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < end, left
            time.sleep(1)

    def scratch(self, job: str) -> list[str]:
        """What a job left on the disk of a node."""
        return [str(path) for path in Path("/tmp").glob(f"mmret-*{job}-????") if re.search(rf"mmret-(pg-)?{job}-", path.name)]

    def finished(self, job: str, seconds: float) -> str:
        """The log of a job that has to succeed."""
        found = self.wait(job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"), seconds)
        assert found["JobState"] == "COMPLETED", f"{found['JobState']} {found['ExitCode']}\n{self.log(job)}"
        return self.log(job)

    def processes(self) -> list[psutil.Process]:
        """Those of the jobs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                of = process.environ()
                if of.get("SLURM_JOB_ID") and of.get("SLURM_CONF", "").startswith(str(self.folder)):
                    found.append(process)
        return found


def _user() -> pwd.struct_passwd:
    """Another than root, as on a cluster, where one may run the environment's Python; else root."""
    for user in pwd.getpwall():
        if user.pw_name in ("postgres", "nobody"):
            try:
                subprocess.run([sys.executable, "-c", ""], user=user.pw_uid, cwd="/", check=True, capture_output=True)
                return user
            except (OSError, subprocess.CalledProcessError):
                continue
    return pwd.getpwuid(0)


def _end(process: subprocess.Popen, seconds: float = 15) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def slurm(cpus: int = 2) -> Iterator[Slurm]:
    """Skips the test where a program is missing or no network namespaces can be made."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    need_namespaces()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)")
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="mmret-slurm-"))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        for name in ("state", "home"):
            (folder / name).mkdir()
        shutil.chown(folder / "home", user.pw_uid, user.pw_gid)
        undo.enter_context(hosts("dep", len(NODES), "10.78.0"))
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        host = socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={17018 + i} CPUs={cpus} RealMemory=4000 State=UNKNOWN"
            for i, (name, address) in enumerate(NODES.items())
        )
        text = CONFIGURATION.format(host=host, address=NODES[FIRST], folder=folder, nodes=nodes)
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        started = Slurm(folder, user)
        munged = ["munged", "--foreground", "--force", "--key-file", folder / "munge.key", "--socket", folder / "munge.socket"]
        munged += ["--pid-file", folder / "munge.pid", "--log-file", folder / "munge.log", "--seed-file", folder / "munge.seed"]
        daemons = [
            ("munge", munged),
            ("slurmctld", ["ip", "netns", "exec", FIRST, "slurmctld", "-D", "-c", "-f", folder / "slurm.conf"]),
            *((name, ["ip", "netns", "exec", name, "slurmd", "-D", "-N", name, "-f", folder / "slurm.conf"]) for name in NODES),
        ]
        path = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        for name, command in daemons:
            log = undo.enter_context((folder / f"{name}.out").open("w"))
            process = subprocess.Popen(
                command, env=started.environment | path, stdout=log, stderr=log, start_new_session=True, cwd=folder
            )
            undo.callback(_end, process)
            if name == "munge":
                _until_there(folder / "munge.socket")
        undo.callback(_end_jobs, started)
        _until_idle(started)
        yield started


def _until_there(path: Path, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path}: {[f.read_text() for f in path.parent.glob('munge.*o*')]}"
        time.sleep(0.1)


def _until_idle(started: Slurm, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if len(re.findall("idle", started.ask("sinfo", "-h", "-N", "-o", "%N %t"))) == len(NODES):
                return
        except AssertionError:
            pass
        logs = "\n".join(file.read_text()[-1500:] for file in started.folder.glob("*.log"))
        assert time.monotonic() < end, f"the nodes are not idle\n{logs}"
        time.sleep(1)


def _end_jobs(started: Slurm) -> None:
    subprocess.run(
        ["ip", "netns", "exec", FIRST, "scancel", "--full", "--user", started.user.pw_name],
        env=started.environment,
        capture_output=True,
    )
    end = time.monotonic() + 20
    while started.processes() and time.monotonic() < end:
        time.sleep(1)
    for process in started.processes():
        process.kill()
