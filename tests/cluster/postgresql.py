"""A PostgreSQL server on this machine, from Debian's packages."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.slurm import free_ports


def programs() -> Path | None:
    """Returns the folder of PostgreSQL's programs; None where they are not installed, or this process is not root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found and os.geteuid() == 0 else None


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Starts a server as the user ``postgres``, with all its files in ``folder``; yields the URL of a database."""
    binaries, data = programs(), folder / "postgresql"
    data.mkdir()
    shutil.chown(data, "postgres")
    for parent in [folder, *folder.parents]:
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)  # to be entered
    (port,) = free_ports(1)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c max_connections=100"

    def run(*command: str) -> None:
        subprocess.run(["runuser", "-u", "postgres", "--", *command], check=True, stdout=subprocess.DEVNULL, cwd=data)

    run(f"{binaries}/initdb", "-D", str(data / "db"), "--auth=trust", "--no-sync")
    run(f"{binaries}/pg_ctl", "-D", str(data / "db"), "-o", options, "-l", str(data / "log"), "-w", "start")
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        run(f"{binaries}/pg_ctl", "-D", str(data / "db"), "-m", "immediate", "stop")
