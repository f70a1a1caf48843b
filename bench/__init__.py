"""Measurements of real agents against real brokers. They are run by hand: their figures are for docs, not for CI."""
