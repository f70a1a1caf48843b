"""Every setting of the agent: what it means, in which unit, and why its default is what it is.

The model is the reference: `wpk agent --help` and docs/settings.md are made from it. A setting has one name, that of
its environment variable, and a configuration file uses the same names; the environment wins over the file. An empty
value counts as none at all, so that `FOO=${FOO:-}` in a compose file does what it should.
"""

from consumer.settings.load import load, unknown_variables
from consumer.settings.model import Settings, variable, variables

__all__ = ["Settings", "load", "unknown_variables", "variable", "variables"]
