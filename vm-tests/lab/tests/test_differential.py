"""The differential test's own readings: what is strict must refuse, and an unexplained difference must fail."""

import asyncio
import tempfile
import unittest
from pathlib import Path

from lab.differential import client, corpus, known, outcome, page
from lab.differential.backend import Request, Unreadable, framing, parse_head, read_chunked
from lab.errors import LabError
from lab.servers import NAMES


def chunked(data: bytes) -> Request:
    async def read() -> Request:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        request = Request("POST", "/", 1, [])
        await read_chunked(reader, request)
        return request
    return asyncio.run(read())


class StrictBackend(unittest.TestCase):
    def test_rfc9112_6_3_one_framing_or_none(self) -> None:
        self.assertEqual(framing(parse_head(b"POST / HTTP/1.1\r\nContent-Length: 5")), ("length", 5))
        self.assertEqual(framing(parse_head(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked")), ("chunked", 0))
        for head in (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: +5",
                     b"Transfer-Encoding: gzip, chunked", b"Content-Length:"):
            with self.subTest(head), self.assertRaises(Unreadable):
                framing(parse_head(b"POST / HTTP/1.1\r\n" + head))

    def test_rfc9112_2_and_5_heads(self) -> None:
        for head in (b"GET / HTTP/1.1\nHost: x", b"GET  / HTTP/1.1", b"GET / HTTP/2.0", b"GET / HTTP/1.1\r\nX : y", b"GET / HTTP/1.1\r\n x: y",
                     b"GET / HTTP/1.1\r\nX: a\x00b", b"GET /\x7f HTTP/1.1"):
            with self.subTest(head), self.assertRaises(Unreadable):
                parse_head(head)

    def test_rfc9112_7_1_chunks(self) -> None:
        self.assertEqual(chunked(b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n").body, b"hello")
        for data in (b"5\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloworld\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n"):
            with self.subTest(data), self.assertRaises(Unreadable):
                chunked(data)


class Pieces(unittest.TestCase):
    def test_cuts_keep_every_byte_and_are_the_same_each_time(self) -> None:
        for case in corpus.all_cases():
            for seed in (0, 1):
                pieces = client.cuts(case.data, seed)
                self.assertEqual(b"".join(pieces), case.data)
                self.assertEqual(pieces, client.cuts(case.data, seed))

    def test_names_are_unique(self) -> None:
        names = [case.name for case in corpus.all_cases()]
        self.assertEqual(len(names), len(set(names)))


class TheTable(unittest.TestCase):
    ALIKE = dict.fromkeys(NAMES, "400, closed")
    DIFFERENT = {"haproxy": "200, open ← GET /a", "nginx": "400, closed", "trivet": "400, closed"}
    VERSIONS = {"haproxy": "3.2.26", "nginx": "1.30.6", "trivet": "0.1.0"}

    def table(self, outcomes: dict[str, dict[str, str]]) -> known.Table:
        return known.Table(self.VERSIONS, [known.Known("because", outcomes)])

    def test_a_difference_that_nobody_explained_fails(self) -> None:
        verdict = known.judge(self.table({}), {"a": self.ALIKE, "b": self.DIFFERENT}, self.VERSIONS)
        self.assertEqual(len(verdict.failures), 1)
        self.assertIn("b: a difference nobody has explained", verdict.failures[0])

    def test_a_known_one_passes_until_trivet_does_something_else(self) -> None:
        table = self.table({"b": self.DIFFERENT})
        self.assertEqual(known.judge(table, {"b": self.DIFFERENT}, self.VERSIONS).failures, [])
        changed = self.DIFFERENT | {"trivet": "200, open ← GET /a"}
        self.assertEqual(len(known.judge(table, {"b": changed}, self.VERSIONS).failures), 1)

    def test_another_version_of_haproxy_may_differ_and_is_told(self) -> None:
        table, changed = self.table({"b": self.DIFFERENT}), self.DIFFERENT | {"haproxy": "400, closed"}
        self.assertEqual(len(known.judge(table, {"b": changed}, self.VERSIONS).failures), 1)
        verdict = known.judge(table, {"b": changed}, self.VERSIONS | {"haproxy": "3.4.0"})
        self.assertEqual((len(verdict.failures), len(verdict.notes)), (0, 1))

    def test_what_the_others_do_is_no_failure_when_only_ours_counts(self) -> None:
        table, changed = self.table({"b": self.DIFFERENT}), self.DIFFERENT | {"haproxy": "400, closed"}
        verdict = known.judge(table, {"a": self.DIFFERENT, "b": changed}, self.VERSIONS, ours=True)
        self.assertEqual((len(verdict.failures), len(verdict.notes)), (0, 2))
        changed = self.DIFFERENT | {"trivet": "501, closed"}
        verdict = known.judge(table, {"a": changed, "b": changed}, self.VERSIONS, ours=True)
        self.assertEqual(len(verdict.failures), 2)

    def test_a_server_that_does_not_do_the_same_every_time(self) -> None:
        either = self.DIFFERENT | {"haproxy": "502, open or: 200, open ← GET /a"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "known.toml"
            for outcome in ("502, open", "200, open ← GET /a"):
                happened = {"b": self.DIFFERENT | {"haproxy": outcome}}
                self.assertEqual(known.judge(self.table({"b": either}), happened, self.VERSIONS).failures, [])
                known.write(self.table({"b": either}), happened, self.VERSIONS, path)
                self.assertEqual(known.load(path).of("b"), (known.Known("because", {"b": either}), either))

    def test_what_is_written_is_read_again_and_needs_a_reason(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "known.toml"
            odd = self.DIFFERENT | {"haproxy": 'nothing, closed ← "\\\x01'}
            self.assertEqual(known.write(self.table({"b": self.DIFFERENT}), {"a": self.ALIKE, "b": odd}, self.VERSIONS, path), 0)
            self.assertEqual(known.load(path).of("b"), (known.Known("because", {"b": odd}), odd))
            self.assertEqual(known.write(self.table({}), {"b": odd}, self.VERSIONS, path), 1)
            with self.assertRaisesRegex(LabError, "without a reason"):
                known.load(path)

    def test_the_page_in_docs_is_the_table_and_every_case_in_it_exists(self) -> None:
        cases = {case.name: case for case in corpus.all_cases()}
        table = known.load()
        text = page.render(table, cases)
        for entry in table.known:
            for name in entry.outcomes:
                self.assertIn(name, cases)
                self.assertIn(f"| {name} |", text)


class Outcomes(unittest.TestCase):
    def test_a_line_tells_what_both_sides_saw(self) -> None:
        heard = client.Heard(statuses=[100, 200], bodies=[b"POST 5"], fields=[[]], closed=True)
        request = Request("POST", "/p", 1, [("host", "www.foobar.com"), ("content-length", "5"), ("x-forwarded-for", "192.0.2.1"), ("te", "gzip")],
                          "length", b"hello", complete=True)
        self.assertEqual(outcome.line(heard, [request], []), "100 200, closed ← POST /p 'hello' x-forwarded-for='192.0.2.1' te='gzip'")
        request.complete = False
        self.assertEqual(outcome.line(heard, [request], []), "100 200, closed")
