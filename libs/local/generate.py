"""Python code from the contracts under protos/, written beside them and committed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import files
from pathlib import Path

from libs.local.paths import ROOT

PROTOS = ROOT / "protos"
# The validation rules' own contract is vendored: its wheel brings neither the source nor classes
# for google.protobuf messages.
PACKAGES = ("driveflow", "buf")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi", "__init__.py", "py.typed")


class GenerationFailed(Exception):
    """protoc refused a contract; its words are the message."""


def generate(target: Path = PROTOS) -> list[Path]:
    """Write the code of every contract below `target`; return what was written.

    The folders become typed packages. Code whose contract is gone is removed.
    """
    sources = proto_files()
    written = [target / source.parent / "__init__.py" for source in sources]
    written += [target / package / "__init__.py" for package in PACKAGES]
    written += [target / parent / "__init__.py" for source in sources for parent in parents(source)]
    written += [target / package / "py.typed" for package in PACKAGES]
    for marker in written:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    _protoc(
        f"--python_out={target}",
        f"--plugin=protoc-gen-mypy={_script('protoc-gen-mypy')}",
        f"--mypy_out=quiet:{target}",
        *[str(source) for source in sources],
    )
    with_services = [source for source in sources if _has_service(source)]
    if with_services:
        _protoc(
            f"--grpc_python_out={target}",
            f"--plugin=protoc-gen-mypy_grpc={_script('protoc-gen-mypy_grpc')}",
            f"--mypy_grpc_out=quiet,only_async:{target}",
            *[str(source) for source in with_services],
        )
    _remove_orphans(target, sources)
    return generated_files(target)


def stale() -> list[str]:
    """Names of committed generated files that differ from what the contracts give now."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        expected = {path.relative_to(fresh): path.read_bytes() for path in generated_files(fresh)}
    actual = {path.relative_to(PROTOS): path.read_bytes() for path in generated_files(PROTOS)}
    return sorted(
        str(name)
        for name in expected.keys() | actual.keys()
        if expected.get(name) != actual.get(name)
    )


def lint() -> None:
    """Hold the contracts against buf.yaml; raise GenerationFailed with buf's findings.

    buf gets descriptors made by protoc, so that imports shipped in wheels resolve offline.
    """
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "protos.binpb"
        _protoc(
            f"--descriptor_set_out={image}",
            "--include_imports",
            "--include_source_info",
            *[str(source) for source in proto_files()],
        )
        _run([str(_script("buf")), "lint", str(image), "--config", str(ROOT / "buf.yaml")])


def proto_files() -> list[Path]:
    """Every contract, relative to protos/."""
    return sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))


def parents(source: Path) -> list[Path]:
    """The package folders above a contract, without protos/ itself."""
    return [parent for parent in source.parents if parent != Path()]


def generated_files(root: Path) -> list[Path]:
    """Every file below `root` that generation owns."""
    return sorted(
        path
        for package in PACKAGES
        for pattern in GENERATED
        for path in (root / package).rglob(pattern)
    )


def _has_service(source: Path) -> bool:
    return "\nservice " in (PROTOS / source).read_text()


def _remove_orphans(target: Path, sources: list[Path]) -> None:
    stems = {target / source.parent / source.stem for source in sources}
    for path in generated_files(target):
        stem, marker, _ = path.name.partition("_pb2")
        if marker and path.parent / stem not in stems:
            path.unlink()


def _protoc(*arguments: str) -> None:
    _run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{PROTOS}",
            f"-I{_well_known_protos()}",
            f"-I{sysconfig.get_path('purelib')}",
            *arguments,
        ]
    )


def _well_known_protos() -> Path:
    for file in files("grpcio-tools") or []:
        if file.parts[-2:] == ("protobuf", "timestamp.proto"):
            return Path(str(file.locate())).parents[2]
    raise GenerationFailed("grpcio-tools has no google/protobuf/timestamp.proto: reinstall it")


def _script(name: str) -> Path:
    return Path(sysconfig.get_path("scripts")) / name


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GenerationFailed((done.stdout + done.stderr).strip())
