"""The local stack: one PostgreSQL and the four services, as child processes of nobody.

Everything that a stack is lies in its data folder. Its processes carry the folder's path in their
environment, and are found by that, so none is lost and no other is ever taken for one.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import psutil

from libs import issuer, migrations
from libs.bootstrap import DATABASE, LOGINS, SERVICES, bootstrap
from libs.healthcheck import status
from libs.local.paths import ROOT
from libs.local.postgres import EmbeddedPostgres

PORT_BASE = 50050
METRICS_OFFSET = 10  # metrics of booking are at base + 11, and so on
TOKEN_TTL = timedelta(days=30)
MARK = "DRIVEFLOW_STACK"
SERVING_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05
LINGERS_S = 65.0
"""Longer than Linux keeps the port of a connection that has ended."""
# Whose events a service takes in.
SOURCES = {
    "booking": ("tracking", "payments"),
    "payments": ("booking",),
    "tracking": ("booking",),
}
WEBHOOK_OFFSET = 5  # POST /webhooks/stripe of payments
STRIPE_OFFSET = 6  # the fake of Stripe's API
STRIPE_KEY = "sk_test_local"
LOG_LINES = 20


class StackFailed(Exception):
    """The stack can't be started; the message says why and what to do."""


@dataclass(frozen=True)
class Stack:
    """The stack in a data folder, running or not."""

    data: Path
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The services that this object has started."""

    @cached_property
    def port_base(self) -> int:
        """The first of its ports: the database's; the services' follow."""
        return int(json.loads((self.data / "stack.json").read_text())["port_base"])

    @cached_property
    def postgres(self) -> EmbeddedPostgres:
        """Its database server."""
        return EmbeddedPostgres(self.data / "postgres", self.port_base)

    @cached_property
    def secrets(self) -> dict[str, str]:
        """Passwords by role, the key of page tokens, the secret of webhooks; each made once."""
        path = self.data / "secrets.json"
        kept = dict(json.loads(path.read_text())) if path.exists() else {}
        made = {role: secrets.token_urlsafe(24) for role in LOGINS}
        made["page_token_key"] = secrets.token_hex(32)
        made["webhook_secret"] = f"whsec_{secrets.token_hex(24)}"
        if made.keys() - kept.keys():
            issuer.write_private(path, json.dumps(made | kept))
        return made | kept

    @property
    def token_key(self) -> Path:
        """PEM file of the local issuer's private key."""
        return self.data / "token_key.pem"

    def service_key(self, service: str) -> Path:
        """PEM file of the private key with which a service signs its own tokens."""
        return self.data / f"{service}_key.pem"

    @property
    def jwks(self) -> Path:
        """File with the public keys of the local issuer and of the services."""
        return self.data / "jwks.json"

    def address(self, service: str) -> str:
        """host:port of a service."""
        return f"127.0.0.1:{self.port_base + 1 + SERVICES.index(service)}"

    def metrics_address(self, service: str) -> str:
        """host:port of a service's metrics."""
        return f"127.0.0.1:{self.port_base + METRICS_OFFSET + 1 + SERVICES.index(service)}"

    @property
    def webhook_address(self) -> str:
        """host:port at which payments takes Stripe's webhooks."""
        return f"127.0.0.1:{self.port_base + WEBHOOK_OFFSET}"

    @property
    def stripe_url(self) -> str:
        """Where the fake of Stripe's API listens."""
        return f"http://127.0.0.1:{self.port_base + STRIPE_OFFSET}"

    def dsn(self, role: str) -> str:
        """Connection URL of a login role."""
        return self.postgres.dsn(role, self.secrets[role], DATABASE)

    def log(self, name: str) -> Path:
        """The log of a service, or of postgres."""
        return self.postgres.log if name == "postgres" else self.data / "logs" / f"{name}.log"

    def processes(self) -> list[psutil.Process]:
        """The services' processes that run, whoever started them."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def is_serving(self) -> bool:
        """Whether every service answers SERVING."""
        return (self.data / "stack.json").exists() and all(
            status(self.address(service)) == "SERVING" for service in SERVICES
        )

    def environment(self) -> dict[str, str]:
        """What scripts and commands need to use the stack, tokens included."""
        return {
            **{f"DRIVEFLOW_{name.upper()}_ADDR": self.address(name) for name in SERVICES},
            "DRIVEFLOW_ORG_ID": self.demo["org_id"],
            "DRIVEFLOW_TOKEN": self._token_of(uuid.UUID(self.demo["org_id"])),
            "DRIVEFLOW_OPS_TOKEN": self._ops_token(),
            "DRIVEFLOW_ADMIN_DSN": self.postgres.dsn(database=DATABASE),
            "DRIVEFLOW_OPS_DSN": self.dsn("ops"),
            "DRIVEFLOW_JWKS": str(self.jwks),
            "DRIVEFLOW_TOKEN_KEY": str(self.token_key),
            "DRIVEFLOW_STRIPE_API": self.stripe_url,
        }

    @property
    def demo(self) -> dict[str, str]:
        """UUIDs of the demo school and of some of what it has.

        Booking makes the ids. Raises StackFailed before they are there.
        """
        try:
            return dict(json.loads((self.data / "demo.json").read_text()))
        except FileNotFoundError:
            raise StackFailed(
                f"the stack in {self.data} has no demo school: ./dev down, then ./dev up makes it"
            ) from None

    def _token_of(self, org_id: uuid.UUID) -> str:
        return issuer.sign(
            self.token_key.read_text(),
            subject="demo",
            scopes=issuer.TENANT_SCOPES,
            ttl=TOKEN_TTL,
            org_id=org_id,
        )

    def _ops_token(self) -> str:
        key = self.token_key.read_text()
        return issuer.sign(key, subject="ops", scopes=issuer.OPS_SCOPES, ttl=TOKEN_TTL)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the stack while it is being started, and as long as a foreground `up` lives.

        Raises StackFailed when another process holds it.
        """
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackFailed(
                    f"another ./dev up works on {self.data}: wait for it, or ./dev down"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def start(self, port_base: int | None) -> None:
        """Return once every service answers SERVING. On failure nothing is left running."""
        self._choose_ports(port_base)
        try:
            self._start_postgres()
            issuer.make_keys(self.data, SERVICES)
            self._start_stripe()
            for service in SERVICES:
                self._start_service(service)
            self._wait_serving()
            self._fill_demo_school()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the services, then the database, and return when all are gone."""
        # Its own are known at once; a process that has just begun has no environment yet.
        own = [child.pid for child in self.children.values() if child.poll() is None]
        leftovers = {*map(psutil.Process, own), *self.processes()}
        for process in leftovers:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(leftovers, timeout=STOP_TIMEOUT_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)
        if (self.data / "stack.json").exists():
            self.postgres.stop()

    def stop_owner(self) -> None:
        """End the `up` that holds the stack, if there is one, as Ctrl-C would."""
        with suppress(OSError, ValueError), (self.data / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Held: its holder lives and wrote its number.
                os.kill(int(lock.read()), signal.SIGTERM)
                fcntl.flock(lock, fcntl.LOCK_EX)

    def log_end(self, service: str) -> str:
        """The last lines of a log."""
        if not self.log(service).exists():
            return ""
        return "\n".join(self.log(service).read_text(errors="replace").splitlines()[-LOG_LINES:])

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(MARK) == str(self.data)
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def _choose_ports(self, port_base: int | None) -> None:
        path = self.data / "stack.json"
        if port_base is None:
            port_base = self.port_base if path.exists() else PORT_BASE
        offsets = [*range(STRIPE_OFFSET + 1), *range(METRICS_OFFSET + 1, METRICS_OFFSET + 5)]
        taken = first_taken([port_base + offset for offset in offsets])
        if taken is not None:
            raise StackFailed(
                f"port {taken} of 127.0.0.1 is taken; choose others with --port-base N"
                f" (it uses N to N + 6 and N + 11 to N + 14; now {port_base})"
            )
        path.write_text(json.dumps({"port_base": port_base}))
        self.__dict__.pop("port_base", None)

    def _start_postgres(self) -> None:
        say("starting PostgreSQL")
        self.postgres.start()
        bootstrap(self.postgres.dsn(), {role: self.secrets[role] for role in LOGINS})
        for name in migrations.migrate(self.dsn("migrator")):
            say(f"migrated {name}")

    def _start_stripe(self) -> None:
        """The fake of Stripe, unless the environment has a key for the real one."""
        if os.environ.get("DRIVEFLOW_STRIPE_KEY"):
            say("using Stripe itself: DRIVEFLOW_STRIPE_KEY is set")
            return
        say(f"starting a fake of Stripe on {self.stripe_url}")
        arguments = [
            *("--port", str(self.port_base + STRIPE_OFFSET)),
            *("--webhook-url", f"http://{self.webhook_address}/webhooks/stripe"),
            *("--webhook-secret", self.secrets["webhook_secret"]),
            *("--state", str(self.data / "stripe_fake.db")),
        ]
        self._start("stripe_fake", "libs.local.stripe_fake", arguments, self._python())

    def _start_service(self, service: str) -> None:
        say(f"starting {service} on {self.address(service)}")
        self._start(service, f"services.{service}", [], self._service_environment(service))

    def _start(
        self, name: str, module: str, arguments: list[str], environment: dict[str, str]
    ) -> None:
        path = self.log(name)
        path.parent.mkdir(exist_ok=True)
        with path.open("w") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for `up`, which then stops everything in order.
                start_new_session=True,
            )

    def _python(self) -> dict[str, str]:
        return {
            MARK: str(self.data),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "PYTHONUNBUFFERED": "1",
        }

    def _service_environment(self, service: str) -> dict[str, str]:
        settings = {
            **self._python(),
            "DRIVEFLOW_LISTEN": self.address(service),
            "DRIVEFLOW_METRICS_LISTEN": self.metrics_address(service),
            "DRIVEFLOW_DSN": self.dsn(service),
            "DRIVEFLOW_JWKS": str(self.jwks),
            "DRIVEFLOW_PAGE_TOKEN_KEY": self.secrets["page_token_key"],
            "DRIVEFLOW_REFLECTION": "true",
            "DRIVEFLOW_SERVICE_KEY": str(self.service_key(service)),
            "DRIVEFLOW_EVENT_SOURCES": _pairs(
                {producer: self.address(producer) for producer in SOURCES.get(service, ())}
            ),
            "DRIVEFLOW_EVENT_CONSUMERS": ",".join(
                consumer for consumer, producers in SOURCES.items() if service in producers
            ),
        }
        if service == "tracking":
            settings["DRIVEFLOW_INGEST_DSN"] = self.dsn("tracking_ingest")
            settings["DRIVEFLOW_MAINTENANCE_DSN"] = self.dsn("tracking_maintenance")
            settings["DRIVEFLOW_BOOKING_ADDRESS"] = self.address("booking")
        if service == "payments":
            settings |= self._payments_environment()
        if service == "monitor":
            asked = {name: self.address(name) for name in SOURCES}
            told = {name: self.metrics_address(name) for name in SERVICES}
            settings["DRIVEFLOW_SERVICES"] = _pairs(asked)
            settings["DRIVEFLOW_METRICS_SOURCES"] = _pairs(told)
        return settings

    def _payments_environment(self) -> dict[str, str]:
        settings = {
            "DRIVEFLOW_BOOKING_ADDRESS": self.address("booking"),
            "DRIVEFLOW_WEBHOOK_LISTEN": self.webhook_address,
        }
        if not os.environ.get("DRIVEFLOW_STRIPE_KEY"):
            settings |= {
                "DRIVEFLOW_STRIPE_KEY": STRIPE_KEY,
                "DRIVEFLOW_STRIPE_WEBHOOK_SECRETS": self.secrets["webhook_secret"],
                "DRIVEFLOW_STRIPE_API_BASE": self.stripe_url,
            }
        return settings

    def _wait_serving(self) -> None:
        give_up = time.monotonic() + SERVING_TIMEOUT_S
        for service in SERVICES:
            while status(self.address(service)) != "SERVING":
                self.check_alive()
                if time.monotonic() > give_up:
                    raise StackFailed(f"{service} does not serve:\n{self.log_end(service)}")
                time.sleep(POLL_S)

    def _fill_demo_school(self) -> None:
        from libs.local import demo  # noqa: PLC0415  (generated code: `generate` works without it)

        marker = self.data / "demo.json"
        if not marker.exists():
            say("filling the demo school")
            access = demo.Access(
                self.address("booking"),
                self.address("payments"),
                self.address("tracking"),
                os.environ.get("DRIVEFLOW_STRIPE_KEY", STRIPE_KEY),
                "" if os.environ.get("DRIVEFLOW_STRIPE_KEY") else self.stripe_url,
                self._ops_token(),
                self._token_of,
            )
            try:
                made = asyncio.run(demo.seed(access, datetime.now(UTC)))
            except demo.DemoRefused as error:
                raise StackFailed(f"the demo school could not be filled: {error}") from error
            # Last: one that was not finished is made anew.
            marker.write_text(json.dumps(asdict(made)))

    def check_alive(self) -> None:
        """Raise StackFailed with its last words when a service's process has ended."""
        for service, child in self.children.items():
            if child.poll() is not None:
                raise StackFailed(f"{service} has ended; its last lines:\n{self.log_end(service)}")


def say(line: str) -> None:
    """Report progress; not part of a command's output."""
    print(f"dev: {line}", file=sys.stderr, flush=True)


def exports(environment: dict[str, str]) -> str:
    """`export` lines for a shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())


def _pairs(addresses: Mapping[str, str]) -> str:
    """name=host:port,… as settings have them."""
    return ",".join(f"{name}={address}" for name, address in addresses.items())


def first_taken(ports: Sequence[int]) -> int | None:
    """The first port that can't be had; None once all can.

    A connection to somewhere may have been given one of them as its own, and keeps it for a minute
    after its end: that is waited for. Who listens there will stay.
    """
    give_up, told = time.monotonic() + LINGERS_S, False
    while taken := [port for port in ports if not _is_free(port)]:
        heard = [port for port in taken if _listens(port)]
        if heard or time.monotonic() > give_up:
            return (heard or taken)[0]
        if not told:
            say(f"waiting for port {taken[0]}: a connection has it, or had it a moment ago")
            told = True
        time.sleep(POLL_S)
    return None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
