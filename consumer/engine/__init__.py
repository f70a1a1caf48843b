"""Runs executions: everything between an accepted command and its end. Sees adapters and the journal only as ports."""
