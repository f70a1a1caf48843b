"""Durability proven by chaos: a load of drawn workflows, faults beside it, and a check of every promise afterwards.

The load and the checks (`published` is what was asked, `marks` what really happened, `history` what the topics say):

    file = marks.prepare(directory)                 # steps leave marks there; agents need marks.PLUGIN on PYTHONPATH
    load = workload.Load(bootstrap, prefix, partitions=4, seed=7, marks=file, book=directory / "published.jsonl")
    load.start(rate=5.0)                            # in a thread of its own; start(rate, limit=50) draws 50 and no more
    ...                                             # the faults; `load.open()` raises if the load itself has failed
    load.pause()                                    # nothing new; follow-ups (approve, cancel, rollback) are still sent
    left = await asyncio.to_thread(load.settled, 180.0)   # empty (falsy) when all is quiet, else what is stuck
    history = await reading.read(bootstrap, prefix, partitions=4, group=group_of_the_agents)
    found = invariants.violations(history, marks.read(file), load.published, mode="exactly_once")
    load.close()                                    # load.drawn is where the next chapter's load begins (`first=`)

Everything is kept by `history.save(history, path)` and `history.load(path)`, `published.load(path)`, and the file of
marks, so that `python -m tests.chaos.invariants DIRECTORY` can check it again. Agents run with WPK_SANDBOX=off.

The run itself (`drive`): `python -m tests.chaos --rounds 100 --seed 7` starts three nodes of Kafka with proxies
before them (`stage`), three agents that a supervisor starts again (`agents`), the load, and strikes in each round
with one or two faults (`faults`), many of them at an exact place of an agent's code (`failpoints`, `agent`). After
each chapter of rounds all is healed, and checked when it is quiet. `--first N --rounds 1` draws round N again;
`--only agent.kill,network` draws those kinds alone. `report` says what was struck, and how long it took from a kill
to the next step's start. All is kept in `--keep DIR`, and after a violation in any case: the diary `record.jsonl`,
the agents' logs, what was published, the marks, the history.
"""
