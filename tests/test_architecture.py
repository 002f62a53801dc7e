"""Imports point up the list of rooms, and a third-party library appears only in its room."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import berger

SOURCE = Path(berger.__file__).parent

# in the order in which data flows; a room imports only rooms above it
ROOMS = [
    "errors",
    "files",
    "configuration",
    "channels",
    "spectral",
    "recordings",
    "simulation",
    "preprocessing",
    "corpus",
    "masking",
    "checkpoints",
    "models",
    "objectives",
    "training",
    "importing",
    "watching",
    "pretraining",
    "assembling",
    "adaptation",
    "tasks",
    "fetching",
    "evaluation",
    "inference",
    "reports",
    "interop",
    "demo",
    "overrides",
    "options",
    "telling",
    "data_commands",
    "cli",
    "__main__",
]

# library → the rooms or files that may import it
ONLY_IN = {
    "mne": {"recordings", "simulation", "preprocessing"},
    "mne_bids": {"recordings/bids.py"},
    "neurodsp": {"simulation"},
    "pyarrow": {"corpus"},
    "dask": {"corpus/executors.py"},
    "distributed": {"corpus/executors.py"},
    "safetensors": {"checkpoints"},
    "lightning_fabric": {"training/loop.py", "training/run.py", "training/devices.py"},
    "sklearn": {"evaluation", "interop"},
    "pyriemann": {"evaluation"},
    "braindecode": {"evaluation/networks.py"},
    "peft": {"adaptation/low_rank.py"},
    "onnx": {"interop/onnx.py"},
    "onnxruntime": {"interop/onnx.py"},
    "onnxscript": {"interop/onnx.py"},
    "jinja2": {"reports"},
    "matplotlib": {"reports"},
    "cyclopts": {"cli", "data_commands", "options"},
    "requests": {"fetching"},
    "urllib3": {"fetching"},
}
NEVER_IN = {"reports": {"torch"}}


def imports(tree: ast.AST, file: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) of every import in a file, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            module = node.module or ""
            yield node.lineno, module
            if module == "berger":  # `from berger import reports` names a room
                yield from ((node.lineno, f"berger.{alias.name}") for alias in node.names)


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def faults(sources: dict[Path, str]) -> list[str]:
    """Return ``file:line: what is wrong`` for every import against the rules."""
    found = []
    for file, text in sources.items():
        room, inside = room_of(file), file.relative_to(SOURCE).as_posix()
        for line, module in imports(ast.parse(text), file):
            top, *rest = module.split(".")
            where = f"src/berger/{inside}:{line}"
            if top == "berger" and rest and rest[0] in ROOMS:
                if ROOMS.index(rest[0]) > ROOMS.index(room):
                    found.append(f"{where}: {room} imports {rest[0]}, which lies below it")
            elif top in ONLY_IN and not {room, inside} & ONLY_IN[top]:
                found.append(f"{where}: {top} belongs to {' and '.join(sorted(ONLY_IN[top]))}")
            elif top in NEVER_IN.get(room, ()):
                found.append(f"{where}: {room} must do without {top}")
    return found


def test_imports_point_up_and_libraries_stay_in_their_rooms() -> None:
    sources = {
        file: file.read_text() for file in SOURCE.rglob("*.py") if file != SOURCE / "__init__.py"
    }
    assert {room_of(file) for file in sources} == set(ROOMS)
    assert faults(sources) == []


@pytest.mark.parametrize(
    ("inside", "text", "complaint"),
    [
        ("channels.py", "from berger.corpus import prepare", "channels imports corpus"),
        ("corpus/reader.py", "def f():\n    import mne", "src/berger/corpus/reader.py:2: mne"),
        ("training/optim.py", "import lightning_fabric", "lightning_fabric belongs to"),
        ("reports/style.py", "import torch.nn", "reports must do without torch"),
    ],
)
def test_a_breach_is_found(inside: str, text: str, complaint: str) -> None:
    (fault,) = faults({SOURCE / inside: text})
    assert complaint in fault


def test_import_berger_is_light() -> None:
    code = "import sys, berger; print(*sorted({'torch', 'mne', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(berger, name) is not None for name in berger.__all__)


def test_report_needs_no_torch() -> None:
    code = "import sys, berger.reports; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_files_stay_readable() -> None:
    too_long = [
        file.name for file in SOURCE.rglob("*.py") if len(file.read_text().splitlines()) > 600
    ]
    assert too_long == []
