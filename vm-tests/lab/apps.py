"""Another app in the reference site's place, as services.trivet.app.command would put it there (nixos/app.nix).

A scenario says so in its head: `# app: NAME`. NAME.py lies in vm-tests/apps, or in examples/NAME.
"""

import re
import shutil
from pathlib import Path

from lab.errors import LabError
from lab.machine import Node
from lab.running import REPOSITORY, VM_TESTS

FOLDERS = (VM_TESTS / "apps", REPOSITORY / "examples")
AT = "/usr/local/lib/trivet/apps"
# What nixos/app.nix gives a program of the site's own: it need not know systemd's readiness.
DROP_IN = """[Service]
Type=exec
WatchdogSec=0
MemoryDenyWriteExecute=false
StateDirectory=trivet-app
ExecStart=
ExecStart=/usr/bin/python3 {program}
"""


def wanted(scenario: Path) -> str | None:
    """The app that a scenario asks for."""
    found = re.search(r"^# app: (\S+)$", scenario.read_text(), re.MULTILINE)
    return found[1] if found else None


def lay(node: Node, name: str, environment: dict[str, str] | None = None) -> None:
    """Before the node is switched on."""
    text = DROP_IN.format(program=copy(node, name))
    text += "".join(f'Environment="{k}={v}"\n' for k, v in (environment or {}).items())
    drop_in(node, "trivet-app", "app", text)


def copy(node: Node, name: str) -> str:
    """Bring the program to the node; where it is there."""
    source = next((at for folder in FOLDERS for at in (folder / f"{name}.py", folder / name / f"{name}.py") if at.exists()), None)
    if source is None:
        raise LabError(f"there is no app {name!r}: no {name}.py in {' or '.join(map(str, FOLDERS))}")
    program = node.root / AT.lstrip("/") / source.name
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, program)
    program.chmod(0o755)
    return f"{AT}/{source.name}"


def drop_in(node: Node, unit: str, name: str, text: str) -> None:
    at = node.root / f"etc/systemd/system/{unit}.service.d/{name}.conf"
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text(text)
