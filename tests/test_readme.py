"""What README and the pages in docs/ tell people to type exists."""

from __future__ import annotations

import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer

from libs import cli
from libs.bootstrap import SERVICES
from libs.local.paths import ROOT
from tests import walking

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (\./dev .*)", re.MULTILINE)
IN_TEXT = re.compile(r"`((?:\./dev|driveflow) [^`]+)`")
METHOD = re.compile(r"(?:\$[BDPT]|(?:Booking|Directory|Payment|Tracking)Service)/(\w+)")
FILE = re.compile(r"`([a-z.][\w.-]*/[\w./<>-]*|[\w-]+\.(?:yml|toml|lock))`")

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def typed(path: Path) -> Iterator[list[str]]:
    """Every command of ./dev and driveflow that a page shows, in words."""
    text = path.read_text()
    shell = "\n".join([*BLOCK.findall(text), *INDENTED.findall(text)])
    found = re.findall(r"(\./dev [^\n|)]+)", re.sub(r"\\\n", " ", shell))
    for line in [*found, *IN_TEXT.findall(text)]:
        quotes_left_open = line.count("'") % 2 or line.count('"') % 2
        yield line.split() if quotes_left_open else shlex.split(line, comments=True)


@page
def test_every_dev_command_is_known(path: Path) -> None:
    known = set(re.findall(r"^  \./dev (\w+)", help_of_dev(), re.MULTILINE))
    assert {words[1] for words in typed(path) if words[0] == "./dev"} <= known


def help_of_dev() -> str:
    return subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout


@page
def test_every_driveflow_command_and_option_is_known(path: Path) -> None:
    for words in typed(path):
        if "driveflow" in words[:3]:
            _, *rest = words[words.index("driveflow") :]
            options = {word for word in rest if re.fullmatch(r"--[a-z-]+", word)}
            assert options <= driveflow()[rest[0]], words


def driveflow() -> dict[str, set[str]]:
    """The options of each command."""
    return {
        name: {"--help", *(option for each in cli.load(name).params for option in each.opts)}
        for names in cli.COMMANDS.values()
        for name in names
    }


def test_the_list_of_commands_says_of_each_what_it_says_itself() -> None:
    modules = [
        import_module(f"libs.cli.{each.name}") for each in pkgutil.iter_modules(cli.__path__)
    ]
    found = {
        module.__name__.rpartition(".")[2]: {
            name: (command.help or "").partition("\n\n")[0]
            for name, command in typer.main.get_group(module.app).commands.items()
        }
        for module in modules
        if hasattr(module, "app")
    }
    assert found == cli.COMMANDS


def test_the_list_of_commands_imports_none_of_them() -> None:
    """So that it is there at once: together they bring in all of the platform's clients."""
    script = (
        "import sys\nfrom libs.cli import main\ntry:\n    main()\nexcept SystemExit:\n"
        "    print(*sorted(sys.modules))"
    )
    command = [sys.executable, "-c", script, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "reconcile" in shown
    assert not {"grpc", "psycopg", "numpy", "jwt", "libs.client"} & {*shown.split()}


def test_readme_has_every_command_and_option_that_it_names_in_its_tables() -> None:
    rows = re.findall(r"^\| `driveflow ([\w-]+).*?` \| (.+) \|", readme(), re.MULTILINE)
    assert {name for name, _ in rows} == set(driveflow())
    for name, text in rows:
        assert set(re.findall(r"`(--[a-z-]+)`", text)) <= driveflow()[name], name


def test_readme_has_every_dev_command() -> None:
    rows = re.findall(r"^\| `\./dev (\w+)", readme(), re.MULTILINE)
    assert rows == re.findall(r"^  \./dev (\w+)", help_of_dev(), re.MULTILINE)


def readme() -> str:
    return (ROOT / "README.md").read_text()


@page
def test_every_rpc_is_in_a_contract(path: Path) -> None:
    known = {method.name for method in walking.methods()}
    assert set(METHOD.findall(path.read_text())) <= known


@page
def test_every_file_is_there(path: Path) -> None:
    for name in set(FILE.findall(path.read_text())):
        wanted = [name.replace("<name>", service) for service in SERVICES]
        assert any((ROOT / each).exists() for each in wanted), name


def test_the_first_screen_says_what_it_is_and_how_it_starts() -> None:
    first = readme().splitlines()[:40]
    assert any("./dev up" in line for line in first)
    assert any("./dev test" in line for line in first)
