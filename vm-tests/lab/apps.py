"""Another app in the reference site's place, as services.trivet.app.command would put it there (nixos/app.nix).

A scenario says so in its first lines: `# app: NAME`. NAME.py lies in vm-tests/apps.
"""

import re
import shutil
from pathlib import Path

from lab.errors import LabError
from lab.machine import Node
from lab.running import VM_TESTS

FOLDER = VM_TESTS / "apps"
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
    """Bring a program of vm-tests/apps to the node; where it is there."""
    source = FOLDER / f"{name}.py"
    if not source.exists():
        raise LabError(f"there is no {name}.py in {FOLDER}")
    program = node.root / AT.lstrip("/") / source.name
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, program)
    program.chmod(0o755)
    return f"{AT}/{source.name}"


def drop_in(node: Node, unit: str, name: str, text: str) -> None:
    at = node.root / f"etc/systemd/system/{unit}.service.d/{name}.conf"
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text(text)
