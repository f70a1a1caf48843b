"""The wire contracts: packages, commands, events and the state of an execution. Pure; imports nothing of consumer."""
