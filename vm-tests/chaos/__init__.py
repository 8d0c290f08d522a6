"""A checker in the spirit of Jepsen: users write down what they saw while faults come, then the whole story is judged.

    schedule.py  which fault, at what, for how long: from a seed
    faults.py    how each fault is made, and healed
    check.py     the judgement, over the users' history and what every member has on its disk; pure functions
    order.py     whether the reads and writes fit into one order (cycles, as Elle looks for them)
    rounds.py    one fault: users start, fault, heal, wait until the cluster is whole, judge

Standard library only. It knows the methods of the NixOS test driver and no more, so it runs over the lab's machines, too.
"""
