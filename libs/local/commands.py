"""The commands behind ./dev, run inside its environment."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from libs import migrations
from libs.bootstrap import SERVICES, BootstrapFailed
from libs.local import generate
from libs.local.paths import ROOT
from libs.local.postgres import PostgresFailed, binary
from libs.local.stack import PORT_BASE, Stack, StackFailed, exports, say
from libs.migrations import MigrationFailed
from libs.migrations.lint import lint

DATA = ROOT / ".driveflow"
WATCH_S = 0.5
INTERRUPTED = 130  # what a shell makes of Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options, rest = _parser().parse_known_args(arguments)
    if rest and options.command not in (psql, logs):
        _parser().error(f"unknown: {' '.join(rest)}")
    options.rest = rest
    try:
        return int(options.command(options))
    except (StackFailed, PostgresFailed, BootstrapFailed, MigrationFailed) as error:
        say(str(error))
        return 1


def up(options: argparse.Namespace) -> int:
    """Start the stack, and stay with it unless detached."""
    stack = _stack(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if stack.is_serving():
        if options.port_base not in (None, stack.port_base):
            raise StackFailed(f"it runs already, on {stack.port_base}: ./dev down first")
        say("runs already")
        print(_summary(stack))
        return 0
    with stack.locked():
        try:
            stack.stop()  # what a crashed one left
            stack.start(options.port_base)
            print(_summary(stack), flush=True)
            return 0 if options.detach else _stay(stack)
        except KeyboardInterrupt:
            stack.stop()
            return INTERRUPTED


def down(options: argparse.Namespace) -> int:
    """Stop everything of the stack."""
    stack = _stack(options)
    stack.stop_owner()
    stack.stop()
    say("stopped")
    return 0


def env(options: argparse.Namespace) -> int:
    """Print how to reach the running stack."""
    print(exports(_running(options).environment()))
    return 0


def psql(options: argparse.Namespace) -> int:
    """Become psql, as the superuser unless `ops` is asked for."""
    stack = _running(options)
    role, *rest = options.rest or ["admin"]
    if role not in ("admin", "ops"):
        role, rest = "admin", options.rest
    variable = "DRIVEFLOW_OPS_DSN" if role == "ops" else "DRIVEFLOW_ADMIN_DSN"
    program = str(binary("psql"))
    os.execv(program, [program, stack.environment()[variable], *rest])


def logs(options: argparse.Namespace) -> int:
    """Become tail, on one log or all."""
    stack = _stack(options)
    rest = [argument for argument in options.rest if argument not in ("-f", "--follow")]
    names = rest or [*SERVICES, "postgres"]
    unknown = set(names) - {*SERVICES, "postgres"}
    if unknown:
        raise StackFailed(f"no log of {unknown.pop()}; there are {', '.join(SERVICES)}, postgres")
    files = [str(stack.log(name)) for name in names if stack.log(name).exists()]
    if not files:
        raise StackFailed(f"there are no logs in {stack.data}: ./dev up makes them")
    follow = ["-F"] if len(rest) != len(options.rest) else []
    os.execvp("tail", ["tail", "-n", "200", *follow, *files])


def write_generated(options: argparse.Namespace) -> int:
    """Write what is made from contracts and templates."""
    try:
        written = generate.generate()
    except generate.GenerationFailed as error:
        say(str(error))
        return 1
    migrations.write_shared()
    say(f"{len(written)} files are what protos/ says")
    return 0


def check(options: argparse.Namespace) -> int:
    """Every check that needs no database; all run, whatever the first one says."""
    folders = [name for name in ("libs", "services", "tests", "bench") if (ROOT / name).is_dir()]
    results = [
        _check("ruff check", lambda: _tool("ruff", "check", ".")),
        _check("ruff format", lambda: _tool("ruff", "format", "--check", ".")),
        _check("mypy", lambda: _tool("mypy", "dev", *folders, "protos")),
        _check("contracts (buf lint)", generate.lint),
        _check("generated code", _generated_is_fresh),
        _check("migrations", _migrations_are_sound),
    ]
    return 0 if all(results) else 1


class _CheckFailed(Exception):
    """A check found something; the message says what."""


def _check(name: str, run: Callable[[], None]) -> bool:
    try:
        run()
    except (_CheckFailed, generate.GenerationFailed) as error:
        print(f"FAIL  {name}\n{error}", flush=True)
        return False
    print(f"ok    {name}", flush=True)
    return True


def _tool(name: str, *arguments: str) -> None:
    program = Path(sysconfig.get_path("scripts")) / name
    done = subprocess.run(
        [program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise _CheckFailed((done.stdout + done.stderr).strip())


def _generated_is_fresh() -> None:
    stale = generate.stale()
    if stale:
        raise _CheckFailed("differ from their contract (./dev generate): " + ", ".join(stale))


def _migrations_are_sound() -> None:
    findings = [finding for service in SERVICES for finding in lint(migrations.folder(service))]
    if findings:
        raise _CheckFailed("\n".join(findings))


def _stay(stack: Stack) -> int:
    """Until Ctrl-C, SIGTERM or the end of a service; then nothing is left running."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    say("Ctrl-C stops it")
    try:
        while not told.wait(WATCH_S):
            stack.check_alive()
    finally:
        say("stopping")
        stack.stop()
    return INTERRUPTED


def _summary(stack: Stack) -> str:
    dev = _dev(stack, "run grpcurl").replace(f" --data {shlex.quote(str(stack.data))}", "")
    call = f'{dev} -plaintext -H "authorization: Bearer $DRIVEFLOW_TOKEN"'
    ops = f'{dev} -plaintext -H "authorization: Bearer $DRIVEFLOW_OPS_TOKEN"'
    booking = '"$DRIVEFLOW_BOOKING_ADDR" driveflow.booking.v1.BookingService'
    tracking = '"$DRIVEFLOW_TRACKING_ADDR" driveflow.tracking.v1.TrackingService'
    schedule = dev.replace("run grpcurl", "run driveflow schedule tomorrow")
    services = "".join(f"  {name:9} {stack.address(name)}\n" for name in SERVICES)
    return (
        f"\nDriveFlow is up:\n{services}  {'postgres':9} 127.0.0.1:{stack.port_base}\n\n"
        f"Try it:\n"
        f'  eval "$({_dev(stack, "env")})"\n'
        f"  {schedule}\n"
        f'  {dev} -plaintext "$DRIVEFLOW_BOOKING_ADDR" list\n'
        f"  {call} -d '{_slots_wanted(stack.demo)}' {booking}/SearchSlots\n"
        f"  {call} -d '{{\"page_size\": 3}}' {booking}/ListBookings\n"
        f"  {call} -d '{_named(stack.demo, 'lesson_id')}' {booking}/GetLesson\n"
        f"  {call} -d '{_named(stack.demo, 'instructor_id')}' {booking}/GetInstructorStats\n"
        f"  {call} -d '{{\"page_size\": 3}}' {tracking}/ListTrips\n"
        f"  {ops} {tracking}/ListPartitions\n"
    )


def _named(demo: dict[str, str], *names: str) -> str:
    return json.dumps({name: demo[name] for name in names})


def _slots_wanted(demo: dict[str, str]) -> str:
    """The coming three days."""
    now = datetime.now(UTC).replace(microsecond=0)
    times = {
        "start_time": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "end_time": f"{now + timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}",
    }
    return json.dumps({"service_id": demo["service_id"], **times, "page_size": 3})


def _dev(stack: Stack, command: str) -> str:
    """How the caller, in the folder where they are, names ./dev and this stack."""
    dev = "./dev" if Path.cwd() == ROOT else shlex.quote(str(ROOT / "dev"))
    data = "" if stack.data == DATA else f" --data {shlex.quote(str(stack.data))}"
    return f"{dev} {command}{data}"


def _stack(options: argparse.Namespace) -> Stack:
    return Stack(options.data.absolute())


def _running(options: argparse.Namespace) -> Stack:
    stack = _stack(options)
    if not (stack.data / "stack.json").exists() or stack.postgres.postmaster() is None:
        raise StackFailed(f"the stack in {stack.data} does not run: {_dev(stack, 'up --detach')}")
    return stack


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev", allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    for run, name in (
        (up, "up"), (down, "down"), (env, "env"), (psql, "psql"), (logs, "logs"),
        (check, "check"), (write_generated, "generate"),
    ):  # fmt: skip
        command = commands.add_parser(name, help=run.__doc__)
        command.set_defaults(command=run)
        if run not in (check, write_generated):
            command.add_argument("--data", type=Path, default=DATA, metavar="DIR")
        if run is up:
            command.add_argument("--detach", action="store_true", help="return when all serve")
            command.add_argument(
                "--port-base", type=int, metavar="N", help=f"first port (default {PORT_BASE})"
            )
    return parser
