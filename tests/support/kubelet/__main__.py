"""`python -m tests.support.kubelet`: plays the nodes of a cluster until it is ended."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
from pathlib import Path

from tests.support.kubelet.api import Api, Object, connected
from tests.support.kubelet.events import Events
from tests.support.kubelet.node import Node
from tests.support.kubelet.pod import Pod
from tests.support.kubelet.server import serving


class Kubelet:
    """All pods of the nodes that are played here."""

    def __init__(self, api: Api, events: Events, nodes: set[str], group: asyncio.TaskGroup) -> None:
        self._api = api
        self._events = events
        self._nodes = nodes
        self._group = group
        self._pods: dict[str, Pod] = {}
        self.knows_all = asyncio.Event()
        """Set once it has seen all pods that there are."""
        self._next_address = int(ipaddress.IPv4Address("10.244.0.1"))

    def find(self, namespace: str, name: str) -> Pod | None:
        return next((pod for pod in self._pods.values() if pod.name == (namespace, name)), None)

    def listed(self, items: list[Object]) -> None:
        """Takes all pods that there are."""
        for uid in self._pods.keys() - {item["metadata"]["uid"] for item in items}:
            self._pods.pop(uid).end()
        for item in items:
            self._seen(item)
        self.knows_all.set()

    def changed(self, kind: str, item: Object) -> None:
        """Takes what happened to one pod."""
        if kind != "DELETED":
            self._seen(item)
        elif pod := self._pods.pop(item["metadata"]["uid"], None):
            pod.end()

    def _seen(self, item: Object) -> None:
        uid = item["metadata"]["uid"]
        if pod := self._pods.get(uid):
            pod.update(item)
        elif item["spec"].get("nodeName") in self._nodes:
            pod = self._pods[uid] = Pod(self._api, self._events, item, self._address(item))
            self._group.create_task(pod.run(), name=f"pod {item['metadata']['name']}")

    def _address(self, item: Object) -> str:
        if known := item.get("status", {}).get("podIP"):
            return str(known)
        self._next_address += 1
        return str(ipaddress.IPv4Address(self._next_address))


async def main(options: argparse.Namespace) -> None:
    """Runs until cancelled."""
    names = [f"node-{number}" for number in range(1, options.nodes + 1)]
    async with connected(options.kubeconfig) as api, asyncio.TaskGroup() as group:
        events = Events(api)
        kubelet = Kubelet(api, events, set(names), group)
        keys = {"certificate": options.certificate, "key": options.key, "clients": options.clients}
        group.create_task(events.run(), name="events")
        for name in names:
            group.create_task(Node(api, name, options.port).run(), name=f"node {name}")
        path, bound = "/api/v1/pods", {"fieldSelector": "spec.nodeName!="}
        following = api.follow(path, listed=kubelet.listed, changed=kubelet.changed, query=bound)
        group.create_task(following, name="pods")
        await kubelet.knows_all.wait()
        async with serving(kubelet.find, options.port, **keys):
            await asyncio.get_running_loop().create_future()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--port", type=int, required=True, help="where logs are served, on loopback")
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--clients", type=Path, required=True, help="the authority of those who may ask for logs")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(main(_options()))
