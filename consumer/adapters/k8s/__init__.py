"""The k8s adapter: steps that look at and change a Kubernetes cluster, with kubectl's semantics and an undo.

Only `client` and `connect` talk to the API server; `kinds`, `config`, `fields`, `diff` and `rollout` are pure. The
client library is imported with the first step that needs it.
"""

from __future__ import annotations

from consumer.adapters.k8s.adapter import K8sAdapter
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.connect import Connector
from consumer.adapters.k8s.prometheus import Prometheus
from consumer.ports import Adapter

__all__ = ["build"]


def build(settings: object) -> Adapter:
    """The adapter for the cluster of `settings.kubeconfig` (paths; None: kubectl's default, or the pod's account).

    `settings.k8s_context`: a context of the kubeconfig other than its current one.
    `settings.prometheus_url`: the Prometheus server that the action metrics asks. `settings.k8s_impersonate`: steps act
    as who asked for them.
    """
    kubeconfig = getattr(settings, "kubeconfig", None)
    prometheus_url = getattr(settings, "prometheus_url", None)
    connector = Connector(
        None if kubeconfig is None else str(kubeconfig), context=getattr(settings, "k8s_context", None)
    )
    return K8sAdapter(
        Cluster(connector),
        None if prometheus_url is None else Prometheus(str(prometheus_url)),
        impersonate=bool(getattr(settings, "k8s_impersonate", False)),
    )
