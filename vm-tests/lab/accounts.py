"""Users and groups of NixOS in a Debian root: the numbers NixOS gives, so that what the units own is theirs."""

import os
from pathlib import Path
from typing import Any


def _read(path: Path) -> list[list[str]]:
    return [line.split(":") for line in path.read_text().splitlines() if line]


def _write(path: Path, rows: list[list[str]]) -> None:
    path.write_text("".join(":".join(row) + "\n" for row in rows))


def _free(taken: set[int]) -> int:
    """A number for an account that NixOS leaves without one: from the top of the system range, as useradd does."""
    number = next(n for n in range(999, 99, -1) if n not in taken)
    taken.add(number)
    return number


def install(root: Path, users: dict[str, dict[str, Any]], groups: dict[str, dict[str, Any]]) -> None:
    etc = root / "etc"
    passwd, shadow = _read(etc / "passwd"), _read(etc / "shadow")
    group, gshadow = _read(etc / "group"), _read(etc / "gshadow")
    moved_users: dict[int, int] = {}
    moved_groups: dict[int, int] = {}

    old_gid = {row[0]: int(row[2]) for row in group}
    group = [row for row in group if row[0] not in groups]
    taken = {int(row[2]) for row in group} | {g["gid"] for g in groups.values() if g.get("gid") is not None}
    gids = {row[0]: int(row[2]) for row in group}
    for name, wanted in sorted(groups.items()):
        gids[name] = wanted["gid"] if wanted.get("gid") is not None else old_gid.get(name) or _free(taken)
        members = {*wanted.get("members", []), *(u for u, v in users.items() if name in v.get("extraGroups", []))}
        group.append([name, "x", str(gids[name]), ",".join(sorted(members))])
        if name in old_gid and old_gid[name] != gids[name]:
            moved_groups[old_gid[name]] = gids[name]
    for name, wanted in users.items():  # memberships in groups that are Debian's
        for row in group:
            if row[0] in wanted.get("extraGroups", []) and row[0] not in groups and name not in row[3].split(","):
                row[3] = ",".join(filter(None, [row[3], name]))

    old_uid = {row[0]: int(row[2]) for row in passwd}
    passwd = [row for row in passwd if row[0] not in users]
    shadow = [row for row in shadow if row[0] not in users]
    taken = {int(row[2]) for row in passwd} | {u["uid"] for u in users.values() if u.get("uid") is not None}
    for name, wanted in sorted(users.items()):
        uid = wanted["uid"] if wanted.get("uid") is not None else old_uid.get(name) or _free(taken)
        shell = "/bin/bash" if not wanted.get("isSystemUser", True) else "/usr/sbin/nologin"
        passwd.append([name, "x", str(uid), str(gids[wanted["group"]]), wanted.get("description", ""),
                       wanted.get("home", "/var/empty"), shell])
        shadow.append([name, "!", "1", "", "", "", "", "", ""])
        if name in old_uid and old_uid[name] != uid:
            moved_users[old_uid[name]] = uid
    _write(etc / "passwd", passwd)
    _write(etc / "shadow", shadow)
    _write(etc / "group", group)
    _write(etc / "gshadow", [row for row in gshadow if row[0] not in groups])
    if moved_users or moved_groups:
        _give(root / "var", moved_users, moved_groups)


def _give(folder: Path, users: dict[int, int], groups: dict[int, int]) -> None:
    """What Debian's packages made for an account of that name goes to its new number."""
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            stat = os.lstat(path)
            if stat.st_uid in users or stat.st_gid in groups:
                os.lchown(path, users.get(stat.st_uid, -1), groups.get(stat.st_gid, -1))
