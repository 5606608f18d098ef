"""The command `driveflow`, run as a process of its own beside a service in the test's process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


async def driveflow(environment: Mapping[str, str], *arguments: object) -> Done:
    """Run it with these variables and none of the caller's that are about DriveFlow."""
    bare = {key: text for key, text in os.environ.items() if not key.startswith("DRIVEFLOW_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from libs.cli import main; main()"),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**bare, **environment},
    )
    out, err = await process.communicate()
    return Done(process.returncode or 0, out.decode(), err.decode())
