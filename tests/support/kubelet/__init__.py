"""A kubelet without containers: nodes, and pods that behave as their annotations ask, for a real control plane.

`python -m tests.support.kubelet` is a process of its own, so that a test can kill or freeze it as it would a machine.
One process plays all nodes. What pods do is read from the pod itself (`behaviour`), also while it runs: a test changes
an annotation and the pod follows.
"""
