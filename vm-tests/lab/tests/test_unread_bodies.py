"""The judge of bodies that stay unread: each way of meeting somebody else's octets is found, and nothing else is."""

import unittest

from lab.errors import LabError
from lab.servers import NAMES, SITE
from lab.unread_bodies import attacks, backends, command, http2, judge, runner

ATTACK = judge.Sent("POST", "/ignores/attack-17.", "session=attack-17.", f"POST /reads/entries-of-attack-17. HTTP/1.1\r\nHost: {SITE}\r\n")
VISITOR = judge.Sent("GET", "/ignores/visitor-17-0.", "session=secret-17-0.")
SENT = {(s.method, s.target): s for s in (ATTACK, VISITOR)}


def taken(method: str, target: str, cookie: str = "", body: str = "") -> dict[str, str]:
    return {"method": method, "target": target, "cookie": cookie, "body": body}


class Requests(unittest.TestCase):
    def kinds(self, *lines: dict[str, str]) -> list[tuple[str, int]]:
        return [(f.kind, f.attack) for f in judge.of_requests(SENT, lines)]

    def test_what_was_sent_and_as_much_of_its_body_as_was_read_is_right(self) -> None:
        for body in ("", ATTACK.body[:20], ATTACK.body):
            self.assertEqual(self.kinds(taken("POST", ATTACK.target, ATTACK.cookie, body), taken("GET", VISITOR.target, VISITOR.cookie)), [])

    def test_another_clients_octets_in_a_body_are_mixed(self) -> None:
        stolen = "text=GET /ignores/visitor-17-0. HTTP/1.1\r\nCookie: session=secret-17-0."
        self.assertEqual(self.kinds(taken("POST", "/reads/entries-of-attack-17.", "", stolen)), [("mixed", 17)])

    def test_so_are_they_when_their_mark_is_cut_off(self) -> None:
        self.assertEqual(self.kinds(taken("POST", "/reads/entries-of-attack-17.", "", "text=…session=secret-1")), [("mixed", 17)])

    def test_another_clients_cookie_is_mixed(self) -> None:
        self.assertEqual(self.kinds(taken("GET", "/reads/smuggled-by-attack-17.", VISITOR.cookie)), [("mixed", 17)])
        self.assertEqual(self.kinds(taken("GET", VISITOR.target, ATTACK.cookie)), [("mixed", 17)])

    def test_a_part_of_a_body_that_was_taken_for_a_request_is_smuggled(self) -> None:
        self.assertEqual(self.kinds(taken("GET", "/reads/smuggled-by-attack-17.")), [("smuggled", 17)])

    def test_a_request_without_marks_that_nobody_sent_is_of_the_attack_before_it(self) -> None:
        self.assertEqual(self.kinds(taken("POST", ATTACK.target, ATTACK.cookie), taken("GET", "/nobody")), [("smuggled", 17)])

    def test_one_that_lost_its_cookie_or_has_another_body_is_not_as_it_was_sent(self) -> None:
        self.assertEqual(self.kinds(taken("GET", VISITOR.target)), [("mixed", 17)])
        self.assertEqual(self.kinds(taken("POST", ATTACK.target, ATTACK.cookie, "something else")), [("mixed", 17)])


class Visits(unittest.TestCase):
    def kinds(self, status: int | None, body: str) -> list[str]:
        return [f.kind for f in judge.of_visits([judge.Visit(17, VISITOR, status, body)])]

    def test_the_echo_of_the_own_line_is_right(self) -> None:
        self.assertEqual(self.kinds(200, "GET /ignores/visitor-17-0. session=secret-17-0."), [])

    def test_what_was_said_to_another_is_foreign_whatever_its_status(self) -> None:
        self.assertEqual(self.kinds(200, "GET /reads/smuggled-by-attack-17. "), ["foreign"])
        self.assertEqual(self.kinds(404, "no /reads/smuggled-by-attack-17."), ["foreign"])
        self.assertEqual(self.kinds(200, "GET /ignores/visitor-17-0. session=secret-16-2."), ["foreign"])
        self.assertEqual(self.kinds(200, ""), ["foreign"])

    def test_an_error_and_silence_are_failures(self) -> None:
        for status in (0, 400, 502, None):
            self.assertEqual(self.kinds(status, ""), ["failed"])


class Attacks(unittest.TestCase):
    def test_each_is_told_apart_by_name_and_sends_all_of_its_body_or_half(self) -> None:
        for mode in ("reads", "half", "ignores", "babbles"):
            made = attacks.of(mode)
            self.assertEqual(len({attack.name for attack in made}), len(made))
            for attack in made:
                body = attack.body(17).encode()
                self.assertEqual(b"".join(attack.parts(body)), body)

    def test_the_half_that_is_left_is_the_trap(self) -> None:
        body = attacks.Attack("half", "GET", "length", "request").body(17)
        self.assertTrue(body[len(body) // 2:].startswith("GET /reads/smuggled-by-attack-17. "))

    def test_what_the_trap_waits_for_holds_a_visitors_cookie_and_not_all_of_its_head(self) -> None:
        head = f"GET /ignores/visitor-17-0. HTTP/1.1\r\nHost: {SITE}\r\nCookie: session=secret-17-0.\r\n"
        self.assertLess(len(head), attacks.MISSING)
        self.assertGreater(len(head) + len(runner.AGENT), attacks.MISSING)

    def test_fields_over_http2_may_be_longer_than_their_first_octet_can_say(self) -> None:
        # RFC 7541 appendix C.1.2: 1337 with a prefix of five bits; here it has seven.
        self.assertEqual(http2.headers({"a": "x" * 1337}), b"\x10\x01a\x7f\xba\x09" + b"x" * 1337)


class Command(unittest.TestCase):
    def results(self, told: list[str] | None = None, reached: int = 10) -> runner.Results:
        fine = {proxy: runner.Outcome(attacks=10, reached=10) for proxy in NAMES}
        return {"Node": {"reads": fine | {"trivet": runner.Outcome(attacks=10, reached=reached, told=told or [])}}}

    def test_a_finding_about_trivet_fails_and_one_about_another_is_told(self) -> None:
        self.assertEqual(command.failed(self.results()), [])
        self.assertEqual(command.failed(self.results(told=["mixed after …"])), ["Node: mixed after …"])
        results = self.results()
        results["Node"]["reads"]["nginx"] = runner.Outcome(10, 10, {**dict.fromkeys(judge.KINDS, 0), "mixed": 2}, ["mixed"])
        self.assertEqual(command.failed(results), [])
        self.assertIn("2 mixed", command.table(results))

    def test_attacks_that_reach_nobody_fail(self) -> None:
        self.assertEqual(len(command.failed(self.results(reached=4))), 1)

    def test_servers_are_named_in_any_case_and_no_others(self) -> None:
        self.assertEqual([s.name for s in command.choose(["node", "http::daemon"])], ["Node", "HTTP::Daemon"])
        self.assertEqual(command.choose([]), backends.SERVERS)
        with self.assertRaisesRegex(LabError, "no server 'iis'"):
            command.choose(["iis"])
