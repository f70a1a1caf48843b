"""Kinds of Kubernetes objects: what users call them, and where the API serves them. Pure.

The built-in kinds are known without asking; all others are found by the cluster's discovery (`client.Cluster.kind`).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from consumer.ports import JsonObject


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of one version of an API group."""

    name: str
    """As objects carry it: `Deployment`."""
    plural: str
    """As paths carry it: `deployments`."""
    group: str = ""
    """Empty for the core group."""
    version: str = "v1"
    namespaced: bool = True

    @property
    def singular(self) -> str:
        """As messages carry it: `deployment`."""
        return self.name.lower()

    @property
    def api_version(self) -> str:
        """As objects carry it: `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def collection(self, namespace: str | None) -> str:
        """The path of all objects of the kind, in one namespace or (None) in the whole cluster."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        middle = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        return f"{root}{middle}/{self.plural}"


@dataclass(frozen=True, slots=True)
class Ref:
    """One object by its name."""

    kind: Kind
    namespace: str | None
    """None for kinds that live in no namespace."""
    name: str

    @property
    def path(self) -> str:
        return f"{self.kind.collection(self.namespace)}/{quote(self.name, safe='')}"

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind.singular} {where}{self.name}"

    def record(self) -> JsonObject:
        """The reference as an undo record keeps it."""
        return {
            "kind": self.kind.name,
            "plural": self.kind.plural,
            "group": self.kind.group,
            "version": self.kind.version,
            "namespaced": self.kind.namespaced,
            "namespace": self.namespace,
            "name": self.name,
        }

    @staticmethod
    def of_record(record: JsonObject) -> Ref:
        """The reference that `record` made."""
        namespace = record.get("namespace")
        return Ref(
            Kind(
                str(record["kind"]),
                str(record["plural"]),
                str(record["group"]),
                str(record["version"]),
                bool(record["namespaced"]),
            ),
            None if namespace is None else str(namespace),
            str(record["name"]),
        )


POD = Kind("Pod", "pods")
EVENT = Kind("Event", "events")
SECRET = Kind("Secret", "secrets")
NODE = Kind("Node", "nodes", namespaced=False)
JOB = Kind("Job", "jobs", "batch")
CRON_JOB = Kind("CronJob", "cronjobs", "batch")
DEPLOYMENT = Kind("Deployment", "deployments", "apps")
STATEFULSET = Kind("StatefulSet", "statefulsets", "apps")
DAEMONSET = Kind("DaemonSet", "daemonsets", "apps")
REPLICASET = Kind("ReplicaSet", "replicasets", "apps")
CONTROLLER_REVISION = Kind("ControllerRevision", "controllerrevisions", "apps")

#: Kinds that own pods through a selector.
WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "ReplicationController"})
#: Kinds that roll out a template.
ROLLING = frozenset({"Deployment", "StatefulSet", "DaemonSet"})

_BUILT_IN: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (POD, ("po",)),
    (EVENT, ("ev",)),
    (SECRET, ()),
    (NODE, ("no",)),
    (JOB, ()),
    (DEPLOYMENT, ("deploy",)),
    (STATEFULSET, ("sts",)),
    (DAEMONSET, ("ds",)),
    (REPLICASET, ("rs",)),
    (CONTROLLER_REVISION, ()),
    (Kind("ReplicationController", "replicationcontrollers"), ("rc",)),
    (Kind("ConfigMap", "configmaps"), ("cm",)),
    (Kind("Service", "services"), ("svc",)),
    (Kind("Endpoints", "endpoints"), ("ep",)),
    (Kind("Namespace", "namespaces", namespaced=False), ("ns",)),
    (Kind("PersistentVolume", "persistentvolumes", namespaced=False), ("pv",)),
    (Kind("PersistentVolumeClaim", "persistentvolumeclaims"), ("pvc",)),
    (Kind("ServiceAccount", "serviceaccounts"), ("sa",)),
    (Kind("ResourceQuota", "resourcequotas"), ("quota",)),
    (Kind("LimitRange", "limitranges"), ("limits",)),
    (CRON_JOB, ("cj",)),
    (Kind("Ingress", "ingresses", "networking.k8s.io"), ("ing",)),
    (Kind("NetworkPolicy", "networkpolicies", "networking.k8s.io"), ("netpol",)),
    (Kind("HorizontalPodAutoscaler", "horizontalpodautoscalers", "autoscaling", "v2"), ("hpa",)),
    (Kind("PodDisruptionBudget", "poddisruptionbudgets", "policy"), ("pdb",)),
    (Kind("Lease", "leases", "coordination.k8s.io"), ()),
)

_BY_WORD: dict[str, Kind] = {
    word: kind
    for kind, short in _BUILT_IN
    for word in {kind.singular, kind.plural, f"{kind.plural}.{kind.group}", f"{kind.singular}.{kind.group}", *short}
}
_BY_TYPE: dict[tuple[str, str], Kind] = {(kind.api_version, kind.name): kind for kind, _ in _BUILT_IN}


def built_in(word: str) -> Kind | None:
    """The built-in kind that a user calls `word` (deployment, Deployment, deploy, deployments.apps); None if none."""
    return _BY_WORD.get(word.lower())


def of_manifest(api_version: str, kind: str) -> Kind | None:
    """The built-in kind of a manifest's `apiVersion` and `kind`; None if none."""
    return _BY_TYPE.get((api_version, kind))
