"""The discovery documents of the tests' API server: what kubectl asks before it asks for anything else."""

from __future__ import annotations

from tests.support.k8s_kinds import RESOURCES, Object


def discovery(path: str) -> Object | None:
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.4", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    groups = {(r.group, r.version) for r in RESOURCES}
    if path == "/apis":
        found = [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
            }
            for group, version in sorted(groups)
            if group
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
    for group, version in groups:
        if path == (f"/apis/{group}/{version}" if group else f"/api/{version}"):
            return _resources(group, version)
    return None


def _resources(group: str, version: str) -> Object:
    verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    listed: list[Object] = []
    for resource in RESOURCES:
        if (resource.group, resource.version) != (group, version):
            continue
        common = {"namespaced": resource.namespaced, "kind": resource.kind, "verbs": verbs}
        names = {"name": resource.plural, "singularName": resource.kind.lower(), "shortNames": list(resource.short)}
        listed.append({**common, **names})
        for sub in resource.subresources:
            scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"} if sub == "scale" else {}
            listed.append({**common, "name": f"{resource.plural}/{sub}", "singularName": "", **scale})
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}
