"""The journal: the one writer of a partition's output topics, and what a new owner restores from.

`factory` makes a partition's `owner`; it fences and writes by a `writer` and restores by `restore` and `reader`.
`lineage` is the pure rule that says which records count. `topics`, `connection` and `probe` serve the start.
"""
