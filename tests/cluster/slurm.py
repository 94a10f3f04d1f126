"""A SLURM cluster of one node on this machine: munged, mariadbd, slurmdbd, slurmctld and slurmd, as root."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NEEDED = ("munged", "mariadbd", "mysql_install_db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")
_SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
"""


def missing() -> list[str]:
    """Returns the programs that a cluster needs and this machine lacks, or that it needs root."""
    return [name for name in NEEDED if shutil.which(name) is None] or (["root"] if os.geteuid() else [])


@contextmanager
def cluster(folder: Path, cpus: int = 4) -> Iterator[dict[str, str]]:
    """Starts the daemons with all their files in ``folder``, and yields the environment in which ``sbatch`` works."""
    names = {"folder": folder, "host": socket.gethostname().partition(".")[0], "cpus": cpus}
    names |= dict(zip(("ctld", "slurmd", "dbd"), free_ports(3), strict=True))
    for name, text in (("slurm.conf", _SLURM_CONF), ("slurmdbd.conf", _SLURMDBD_CONF)):
        (folder / name).write_text(text.format(**names))
        (folder / name).chmod(0o600)
    for name in ("state", "spool", "db"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o600)
    environment = {"SLURM_CONF": f"{folder}/slurm.conf", "MYSQL_UNIX_PORT": f"{folder}/mysql.socket"}
    with ExitStack() as daemons:
        for command, ready in _daemons(folder):
            daemons.enter_context(_daemon(command, folder, environment, ready))
        yield environment


def _daemons(folder: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yields each daemon, and the command that succeeds once it is ready."""
    files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "log-file", "pid-file", "seed-file")]
    yield ["munged", "--force", "--foreground", f"--key-file={folder}/key", *files], [
        "munge", "-n", f"--socket={folder}/munge.socket",
    ]  # fmt: skip
    own = ["--no-defaults", "--user=root", f"--datadir={folder}/db"]
    subprocess.run(
        ["mysql_install_db", *own, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    server = [f"--socket={folder}/mysql.socket", f"--pid-file={folder}/mysql.pid", "--skip-networking"]
    client = ["mysql", "--no-defaults", f"--socket={folder}/mysql.socket", "--user=root"]
    yield ["mariadbd", *own, *server], [*client, "--execute=CREATE DATABASE IF NOT EXISTS accounting"]
    yield ["slurmdbd", "-D"], ["sacctmgr", "--immediate", "add", "cluster", "test"]
    yield ["slurmctld", "-D"], ["scontrol", "ping"]
    yield ["slurmd", "-D"], ["srun", "--ntasks=1", "--immediate=5", "true"]


@contextmanager
def _daemon(command: list[str], folder: Path, environment: dict[str, str], ready: list[str]) -> Iterator[None]:
    """Runs a daemon until the context ends."""
    log = folder / f"{command[0]}.out"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(process, ready, environment, log)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(process: subprocess.Popen[bytes], ready: list[str], environment: dict[str, str], log: Path) -> None:
    for _ in range(60):
        done = subprocess.run(ready, env=os.environ | environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError(f"{log.stem} is not ready: {done.stdout}{done.stderr}\n{log.read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that nobody listens on."""
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in opened:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in opened]
