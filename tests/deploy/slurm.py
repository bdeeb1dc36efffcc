"""A Slurm of two nodes on this machine, each in a network namespace of its own: munge, one controller, two daemons. Needs root.

Both nodes share this machine's files and processes, but neither its loopback nor its addresses; everything that is started ends with
the block. Nothing of a Slurm that the machine may have is touched: socket, key, ports and folders are this one's.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import CHECKOUT

NODES = {"dep1": "10.78.0.1", "dep2": "10.78.0.2"}
PROGRAMS = ("ip", "munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
# what a user's shell would have on a cluster; a job's own scripts have to find the rest
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


@contextmanager
def two_hosts(first: str, second: str) -> Iterator[None]:
    """Two network namespaces with a cable between them, addresses as in NODES."""
    with ExitStack() as undo:
        for name in (first, second):
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
            undo.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True)
        ends = {name: f"v-{name}" for name in (first, second)}
        line = f"ip link add {ends[first]} netns {first} type veth peer name {ends[second]} netns {second}"
        subprocess.run(line.split(), check=True, capture_output=True)
        for name, end in ends.items():
            for rest in (f"addr add {NODES[name]}/24 dev {end}", f"link set {end} up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *rest.split()], check=True, capture_output=True)
        yield


@dataclass
class Slurm:
    folder: Path
    user: pwd.struct_passwd

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "HF_HUB_OFFLINE")}
        return kept | {"SLURM_CONF": str(self.folder / "slurm.conf"), "HOME": str(self.folder / "home"), "USER": self.user.pw_name}

    def ask(self, *command: str, **variables: str) -> str:
        """One of Slurm's own commands on the first node, as root."""
        line = ["ip", "netns", "exec", "dep1", *command]
        done = subprocess.run(
            line, env=self.environment | variables, capture_output=True, text=True, timeout=60, cwd=self.folder / "home"
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: str, *words: str, options: tuple[str, ...] = (), **variables: str) -> str:
        """The id of a job of the plain user, submitted from a folder of theirs."""
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

    def finished(self, job: str, seconds: float) -> str:
        """The log of a job that has to succeed."""
        found = self.wait(job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"), seconds)
        assert found["JobState"] == "COMPLETED", f"{found['JobState']} {found['ExitCode']}\n{self.log(job)}"
        return self.log(job)

    def processes(self) -> list[psutil.Process]:
        """Those of the plain user that belong to this cluster."""
        found = []
        for process in psutil.process_iter(["uids"]):
            try:
                mine = process.info["uids"].real == self.user.pw_uid
                if mine and process.environ().get("SLURM_CONF", "").startswith(str(self.folder)):
                    found.append(process)
            except (psutil.Error, AttributeError):
                continue
        return found


def _plain_user() -> pwd.struct_passwd:
    """Postgres does not run as root, and no job should."""
    names = {p.pw_name for p in pwd.getpwall()}
    return pwd.getpwnam(next(n for n in ("postgres", "nobody") if n in names))


def _end(process: subprocess.Popen, seconds: float = 15) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def slurm(cpus: int = 2, reason: str = "") -> Iterator[Slurm]:
    """Skips the test where a program is missing or the user is not root."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root, and these are not installed: {missing} (Debian: slurmctld slurmd slurm-client munge iproute2)")
    user = _plain_user()
    folder = Path(tempfile.mkdtemp(prefix="mmret-slurm-"))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        for name in ("state", "home"):
            (folder / name).mkdir()
        shutil.chown(folder / "home", user.pw_uid, user.pw_gid)
        undo.enter_context(two_hosts(*NODES))
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        host = socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={17018 + i} CPUs={cpus} RealMemory=4000 State=UNKNOWN"
            for i, (name, address) in enumerate(NODES.items())
        )
        text = CONFIGURATION.format(host=host, address=NODES["dep1"], folder=folder, nodes=nodes)
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        started = Slurm(folder, user)
        munged = ["munged", "--foreground", "--force", "--syslog", "--key-file", "munge.key", "--socket", folder / "munge.socket"]
        munged += ["--pid-file", folder / "munge.pid", "--log-file", folder / "munge.log", "--seed-file", folder / "munge.seed"]
        daemons = [
            ("munge", [m if m != "munge.key" else folder / "munge.key" for m in munged if m != "--syslog"]),
            ("slurmctld", ["ip", "netns", "exec", "dep1", "slurmctld", "-D", "-c", "-f", folder / "slurm.conf"]),
            *(
                (name, ["ip", "netns", "exec", name, "slurmd", "-D", "-N", name, "-f", folder / "slurm.conf"])
                for name in NODES
            ),
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
        ["ip", "netns", "exec", "dep1", "scancel", "--full", "--user", started.user.pw_name],
        env=started.environment,
        capture_output=True,
    )
    end = time.monotonic() + 20
    while started.processes() and time.monotonic() < end:
        time.sleep(1)
    for process in started.processes():
        process.kill()
