"""The invariants, by what they are about; importing this fills `view.RULES`."""

from tests.chaos.rules import commands, effects, owners, state, steps, trails

__all__ = ["commands", "effects", "owners", "state", "steps", "trails"]
