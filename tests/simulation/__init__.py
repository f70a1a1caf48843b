"""Agents made of the real parts, on a simulated Kafka, in a loop whose time and interleavings are drawn from a seed.

What is real: listener, lanes, decoding, supervisor, runners, steps, owners, writers, restore, reader. What is not: the
event loop (`loop`), aiokafka's producer and consumer (`clients`), and the brokers behind them (`broker`, `groups`,
`transactions`, `network`). One seed is one schedule: commands, workflows, faults and every order of callbacks. It runs
in milliseconds, and again exactly so: `python -m tests.simulation --seed N --trace`.
"""
