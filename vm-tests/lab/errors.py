"""The errors that reach a person as one line."""


class LabError(Exception):
    """Something the user can act on: what happened, to what, what to do next. Shown without a trace."""


class ScenarioFailed(Exception):
    """An assertion of a scenario did not hold (NixOS' driver: RequestedAssertionFailed)."""
