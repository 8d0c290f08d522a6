import tempfile
import unittest
from pathlib import Path

from lab import bring_up
from lab.commands import Commands
from lab.errors import LabError
from lab.log import Log
from lab.running import REPOSITORY

ARTICLES = REPOSITORY / "examples/articles"


class FakeNode(Commands):
    """Keeps what it was sent, and what it was told to run."""

    def __init__(self, status: int = 0) -> None:
        self.name, self.log_to, self.status = "node1", Log(), status
        self.files: dict[str, Path] = {}
        self.ran: list[str] = []

    def copy_from_host(self, source: str, target: str) -> None:
        self.files[target] = Path(source)

    def _execute(self, command: str, timeout: float | None) -> tuple[int, str, str]:
        self.ran.append(command)
        return self.status, "no primary\n", ""


class Publishing(unittest.TestCase):
    def test_the_example_articles_are_imported_from_where_they_were_laid(self):
        node = FakeNode()
        bring_up.publish(node, ARTICLES)  # type: ignore[arg-type]
        (at,) = node.files
        self.assertGreater(len(list(node.files[at].glob("*.md"))), 10)
        self.assertEqual(len(node.ran), 1)
        self.assertTrue(node.ran[0].startswith("trivet-app ") and f" import {at} " in node.ran[0], node.ran)

    def test_an_import_that_fails_is_told(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(LabError, "importing .* on node1: exit code 1: no primary"):
            bring_up.publish(FakeNode(1), Path(folder))  # type: ignore[arg-type]
