"""The checker is checked: a sound history passes, and each known anomaly, put into it by hand, is named."""

import copy
import unittest

from chaos import check
from chaos.check import Round


def append(number, session, begin, end, positions, outcome="ok", **values):
    row = {"id": f"w{number}", "session": session, "op": "append", "entries": values, "begin": begin, "end": end, "outcome": outcome}
    return row | ({"answer": {"positions": positions}} if outcome == "ok" else {"problem": "said so"})


def transfer(number, session, begin, end, source, target, amount, after=None, outcome="ok"):
    row = {"id": f"t{number}", "session": session, "op": "transfer", "from": source, "to": target, "amount": amount,
           "begin": begin, "end": end, "outcome": outcome}
    return row | ({"answer": {"accounts": after}} if outcome == "ok" else {"problem": "said so"})


def lists(number, session, begin, end, **seen):
    return {"id": f"r{number}", "session": session, "op": "lists", "names": list(seen), "begin": begin, "end": end,
            "outcome": "ok", "answer": {"lists": seen}, "by": "replica"}


def accounts(number, session, begin, end, **seen):
    return {"id": f"a{number}", "session": session, "op": "accounts", "begin": begin, "end": end, "outcome": "ok",
            "answer": {"accounts": seen}, "by": "replica"}


class Sound(unittest.TestCase):
    """Two users, two lists, two accounts; w3 was never answered and is there, w4 was never answered and is not."""

    def setUp(self):
        self.before = {"a": [100, 0], "b": [100, 0]}
        self.history = [
            append(1, "s1", 0, 1, {"x": 1}, x="v1"),
            append(2, "s2", 2, 3, {"x": 2, "y": 1}, x="v2", y="u2"),
            append(3, "s1", 4, 9, {}, "unknown", x="v3"),
            append(4, "s2", 4, 9, {}, "unknown", x="v4"),
            lists(1, "s1", 10, 11, x=["v1", "v2", "v3"], y=["u2"]),
            lists(2, "s2", 10, 11, x=["v1", "v2"], y=["u2"]),
            transfer(1, "s1", 12, 13, "a", "b", 30, {"a": [70, 1], "b": [130, 1]}),
            transfer(2, "s2", 14, 15, "b", "a", 500, outcome="refused"),
            accounts(1, "s1", 16, 17, a=[70, 1], b=[130, 1]),
            accounts(2, "s2", 16, 17, a=[100, 0], b=[100, 0]),  # another user's replica may be behind
        ]
        state: check.Row = {"entries": {"x": ["v1", "v2", "v3"], "y": ["u2"]}, "accounts": {"a": [70, 1], "b": [130, 1]},
                 "requests": ["w1", "w2", "w3", "t1"]}
        self.states = {name: copy.deepcopy(state) for name in ("node1", "node2", "node3")}

    def kinds(self):
        return {a.kind for a in check.check(Round(self.history, self.before, self.states))}

    def everywhere(self, change):
        for state in self.states.values():
            change(state)

    def row(self, name):
        return next(r for r in self.history if r["id"] == name)

    def test_a_sound_round_passes(self):
        self.assertEqual(check.check(Round(self.history, self.before, self.states)), [])

    # --- writes -------------------------------------------------------------------------------------------------

    def test_an_acknowledged_append_that_is_on_no_member(self):
        self.history.append(append(9, "s1", 20, 21, {"y": 2}, y="u9"))
        self.assertIn("lost-write", self.kinds())

    def test_an_acknowledged_append_that_one_member_lacks(self):
        self.states["node3"]["entries"]["x"] = ["v1"]
        self.assertLessEqual({"lost-write", "members-differ"}, self.kinds())

    def test_an_acknowledged_transfer_that_is_not_there(self):
        self.everywhere(lambda s: s["requests"].remove("t1"))
        self.assertIn("lost-write", self.kinds())

    def test_lost_writes_are_counted_once_for_all_members(self):
        self.history.append(append(9, "s1", 20, 21, {"y": 2}, y="u9"))
        self.assertEqual(check.lost_writes(check.check(Round(self.history, self.before, self.states))), 1)

    def test_of_a_broken_cluster_only_what_no_member_has_is_lost(self):
        self.states["node1"]["requests"].remove("t1")
        self.assertEqual(check.on_no_member(self.history, self.states), [])
        self.everywhere(lambda s: s.update(requests=["w2", "w3"]))
        self.assertEqual([a.text.split()[3] for a in check.on_no_member(self.history, self.states)], ["w1", "t1"])

    def test_an_append_that_was_done_twice(self):
        self.everywhere(lambda s: s["entries"]["x"].append("v3"))
        self.assertIn("doubled-write", self.kinds())

    def test_a_value_that_nobody_wrote(self):
        self.everywhere(lambda s: s["entries"]["y"].append("?"))
        self.assertIn("phantom-write", self.kinds())

    def test_a_write_that_was_said_to_have_changed_nothing_and_did(self):
        self.history.append(append(9, "s1", 20, 21, {}, "failed", y="u9"))
        self.everywhere(lambda s: (s["entries"]["y"].append("u9"), s["requests"].append("w9")))
        self.assertEqual(self.kinds(), {"refused-but-done"})

    def test_a_write_to_two_lists_that_is_in_one(self):
        self.everywhere(lambda s: s["entries"].pop("y"))
        self.assertIn("torn-write", self.kinds())

    def test_an_acknowledged_place_that_changed(self):
        self.everywhere(lambda s: s["entries"].update(x=["v2", "v1", "v3"]))
        self.assertIn("moved-write", self.kinds())

    def test_members_that_differ_in_what_nobody_was_told(self):
        self.states["node2"]["entries"]["x"].append("v4")
        self.states["node2"]["requests"].append("w4")
        self.assertIn("members-differ", self.kinds())

    def test_two_writes_that_were_told_the_same_place(self):
        self.history.append(append(9, "s1", 4, 5, {"x": 2}, x="v9"))
        self.assertIn("lost-update", self.kinds())

    def test_a_write_that_comes_before_one_that_was_acknowledged_earlier(self):
        self.row("w1").update(begin=4, end=5)  # begun after w2 was answered, and before it in the list
        self.assertIn("real-time", self.kinds())

    # --- reads --------------------------------------------------------------------------------------------------

    def test_a_session_that_does_not_see_its_own_write(self):
        self.history.append(lists(9, "s2", 20, 21, x=["v1"], y=[]))
        self.assertIn("stale-read", self.kinds())

    def test_a_session_that_goes_backwards_between_two_reads(self):
        self.history.append(lists(9, "s1", 20, 21, x=["v1", "v2"]))
        self.assertIn("stale-read", self.kinds())

    def test_a_session_whose_accounts_go_backwards(self):
        self.history.append(accounts(9, "s1", 20, 21, a=[100, 0], b=[100, 0]))
        self.assertIn("stale-read", self.kinds())

    def test_a_read_of_a_write_that_is_gone(self):
        self.row("r2")["answer"]["lists"]["x"] = ["v1", "v2", "v4"]
        self.assertIn("read-of-lost-write", self.kinds())

    def test_a_read_in_another_order(self):
        self.row("r2")["answer"]["lists"]["x"] = ["v2", "v1"]
        self.assertIn("read-out-of-order", self.kinds())

    def test_a_read_of_what_was_not_written_yet(self):
        self.row("w3")["begin"] = 12
        self.assertIn("read-from-future", self.kinds())

    def test_a_read_of_one_half_of_a_write(self):
        self.row("r2")["answer"]["lists"] = {"x": ["v1"], "y": ["u2"]}
        self.assertIn("cycle", self.kinds())

    def test_two_users_who_saw_two_writes_in_different_orders(self):
        self.history += [append(5, "s3", 20, 21, {"y": 2}, y="u5"), append(6, "s4", 20, 21, {"x": 4}, x="v6"),
                         lists(5, "s5", 20, 22, x=["v1", "v2", "v3"], y=["u2", "u5"]),
                         lists(6, "s6", 20, 22, x=["v1", "v2", "v3", "v6"], y=["u2"])]
        self.everywhere(lambda s: (s["entries"]["y"].append("u5"), s["entries"]["x"].append("v6"), s["requests"].extend(["w5", "w6"])))
        self.assertEqual(self.kinds(), {"cycle"})

    # --- money --------------------------------------------------------------------------------------------------

    def test_a_snapshot_with_money_that_was_made(self):
        self.row("a2")["answer"]["accounts"] = {"a": [100, 0], "b": [130, 1]}
        self.assertLessEqual({"money", "cycle"}, self.kinds())

    def test_money_that_is_gone_in_the_end(self):
        self.everywhere(lambda s: s["accounts"].update(b=[100, 1]))
        self.assertIn("money", self.kinds())

    def test_a_transfer_that_was_made_twice(self):
        self.everywhere(lambda s: s["accounts"].update(a=[40, 2], b=[160, 2]))
        self.assertIn("money", self.kinds())

    def test_an_account_below_zero(self):
        self.everywhere(lambda s: s["accounts"].update(a=[-10, 1], b=[210, 1]))
        self.assertIn("money", self.kinds())

    # --- a moment that was restored ---

    def restored(self, moment, state):
        story = Round(check.as_of(self.history, moment, 0.5), self.before, {"restored": state})
        return {a.kind for a in check.check(story)}

    def test_a_restored_moment_has_what_was_acknowledged_and_nothing_that_was_asked_later(self):
        early: check.Row = {"entries": {"x": ["v1"]}, "accounts": self.before, "requests": ["w1"]}
        self.assertEqual(self.restored(1.8, early), set())
        # Two seconds later a write is on its way: with it and without.
        both: check.Row = {"entries": {"x": ["v1", "v2"], "y": ["u2"]}, "accounts": self.before, "requests": ["w1", "w2"]}
        for state in (early, both):
            self.assertEqual(self.restored(2.5, state), set())
        self.assertIn("lost-write", self.restored(3.8, early))
        self.assertIn("refused-but-done", self.restored(1.2, both))
        paid = both | {"accounts": {"a": [70, 1], "b": [130, 1]}, "requests": ["w1", "w2", "t1"]}
        self.assertIn("refused-but-done", self.restored(9.8, paid))
        self.assertIn("money", self.restored(9.8, both | {"accounts": {"a": [70, 1], "b": [130, 1]}}))


class Numbers(unittest.TestCase):
    def test_an_outage_is_the_time_between_two_successes_within_the_window(self):
        rows = [append(n, "s1", t - 0.1, t, {"x": n}, x=f"v{n}") for n, t in enumerate((1.0, 2.0, 7.5, 8.0), 1)]
        rows.append(append(9, "s2", 2, 6, {}, "unknown", x="v9"))
        self.assertEqual(check.outages(rows, 1.5, 8.5)["write"], 5.5)
        self.assertEqual(check.outages(rows, 1.5, 8.5)["read"], 7.0)

    def test_failed_requests_are_those_without_an_answer_to_trust(self):
        rows = [append(1, "s", 0, 1, {"x": 1}, x="v"), transfer(1, "s", 0, 1, "a", "b", 5, outcome="refused"),
                append(2, "s", 0, 1, {}, "unknown", x="w"), append(3, "s", 0, 1, {}, "failed", x="z")]
        self.assertEqual(check.failures(rows), {"said so": 2})


if __name__ == "__main__":
    unittest.main()
