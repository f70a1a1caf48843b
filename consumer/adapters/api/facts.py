"""What an api step touches, for the policy: `method`, `scheme`, `host`, `port`, and whether it `changes` anything."""

from __future__ import annotations

from consumer.adapters.api import message, urls
from consumer.ports import JsonObject, Scope
from consumer.workflow.facts import ANYTHING, Fact, Facts, Reader
from consumer.workflow.scope import UNKNOWN, Unknown

_PORTS = {"http": "80", "https": "443"}


def of(config: JsonObject, scope: Scope) -> list[Facts]:
    """The facts of the request; where it follows redirects, of one more, which may go anywhere."""
    reader = Reader({name: value for name, value in config.items() if name in ("method", "follow_redirects")}, scope)
    method = reader.text(("method",)) or "GET"
    common: dict[str, Fact] = {"method": UNKNOWN, "changes": UNKNOWN}
    if not isinstance(method, Unknown):
        common = {"method": method.upper(), "changes": method.upper() not in message.SAFE}
    found: list[Facts] = [{**common, **_address(config.get("url"), scope)}]
    if reader.at("follow_redirects") not in (None, False):
        found.append({**common, "scheme": ANYTHING, "host": ANYTHING, "port": ANYTHING})
    return found


def _address(template: object, scope: Scope) -> dict[str, Fact]:
    nothing: dict[str, Fact] = {"scheme": UNKNOWN, "host": UNKNOWN, "port": UNKNOWN}
    if not isinstance(template, str):
        return nothing
    filled, _ = urls.fill(template, scope)
    if filled is None:
        return nothing
    try:
        url = urls.parse_url(filled)
    except ValueError:
        return nothing
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    return {"scheme": url.scheme, "host": host, "port": str(url.port or _PORTS[url.scheme])}
