"""The adapters of this agent: those built in, and plug-ins from the entry points of the group `wpk.adapters`.

A plug-in is a distribution with an entry point `name = "module:build"`, where `build(settings)` gives an `Adapter`
whose `name` is the entry point's. One that can't be loaded does not stop the agent: steps of its type are refused with
the reason. Two of one name do, as it must be plain whose code a step runs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import structlog
from pydantic import BaseModel, JsonValue

from consumer.adapters.describe import config_schema
from consumer.errors import AgentError, SettingsError
from consumer.ports import Adapter
from schemas.problems import did_you_mean

GROUP = "wpk.adapters"

#: Known without the installed metadata, so that a checkout on the path is an agent too.
_BUILT_IN = {
    "k8s": "consumer.adapters.k8s:build",
    "shell": "consumer.adapters.shell:build",
    "api": "consumer.adapters.api:build",
    "delay": "consumer.adapters.delay:build",
}
_NAME = re.compile(r"[a-z0-9]([-_.a-z0-9]{0,61}[a-z0-9])?")
_METHODS = ("check", "prepare", "plan_undo", "undo", "aclose")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an adapter comes from."""

    name: str
    target: str
    """`module:function`."""
    distribution: str
    """`name version` of the package that brings it."""
    load: Callable[[], object]
    built_in: bool = False

    def __str__(self) -> str:
        return f"{self.target} of {self.distribution}"


class PluginError(AgentError):
    """What an entry point gives is no adapter."""


class AdapterRegistry:
    """The loaded adapters by name, and why the others could not be loaded."""

    def __init__(self, adapters: Mapping[str, Adapter], broken: Mapping[str, str] | None = None) -> None:
        self._adapters = dict(adapters)
        self._broken = dict(broken or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that can be used, sorted."""
        return tuple(sorted(self._adapters))

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Those that can be used."""
        return MappingProxyType(self._adapters)

    @property
    def broken(self) -> Mapping[str, str]:
        """Name to reason of those that could not be loaded; for health and the start's report."""
        return MappingProxyType(self._broken)

    def get(self, name: str) -> Adapter:
        """The adapter of that name. Raises LookupError with a message for the package's author."""
        adapter = self._adapters.get(name)
        if adapter is not None:
            return adapter
        if name in self._broken:
            raise LookupError(f'the adapter "{name}" is installed but could not be loaded: {self._broken[name]}')
        hint = did_you_mean(name, self.names) or f"; there are {', '.join(self.names)}"
        raise LookupError(f'"{name[:80]}" is no adapter{hint}')

    def describe(self) -> dict[str, JsonValue]:
        """The JSON Schema of each adapter's `config`, by name, with placeholders allowed for values."""
        return {name: config_schema(self._adapters[name].config_model) for name in self.names}

    async def aclose(self) -> None:
        """Closes all adapters; the failure of one is logged and does not keep the others open."""
        for name in reversed(self.names):
            try:
                await self._adapters[name].aclose()
            except Exception as error:
                log.error("adapter.close_failed", adapter=name, error=_short(error), exc_info=error)


@contextlib.asynccontextmanager
async def open(settings: object) -> AsyncIterator[AdapterRegistry]:
    """The registry for the time of a block. Raises SettingsError."""
    registry = load(settings)
    try:
        yield registry
    finally:
        await registry.aclose()


def load(settings: object, sources: Iterable[Source] | None = None) -> AdapterRegistry:
    """Builds all adapters. Imports their modules, so it is for the start, not for a running loop.

    `sources`: instead of those installed. Raises SettingsError where two have one name, or where a built-in adapter
    finds its settings wrong.
    """
    adapters: dict[str, Adapter] = {}
    broken: dict[str, str] = {}
    for source in _unique(installed() if sources is None else sources):
        try:
            adapters[source.name] = _build(source, settings)
        except (Exception, SystemExit) as error:
            if source.built_in and isinstance(error, SettingsError):
                raise
            broken[source.name] = f"{source}: {_short(error)}"
            log.error("adapter.broken", adapter=source.name, source=str(source), error=_short(error), exc_info=error)
    return AdapterRegistry(adapters, broken)


class AsNeeded(Mapping[str, Adapter]):
    """The installed adapters, each built when it is asked for: for who looks at one package and should not wait.

    Going through all of them builds all; one that can't be loaded is not there, as in `AdapterRegistry.adapters`.
    """

    def __init__(self, settings: object, sources: Iterable[Source] | None = None) -> None:
        """Raises SettingsError where two have one name."""
        self._settings = settings
        self._sources = {source.name: source for source in _unique(installed() if sources is None else sources)}
        self._built: dict[str, Adapter | None] = {}

    def __getitem__(self, name: str) -> Adapter:
        """Raises KeyError, and SettingsError where a built-in adapter finds its settings wrong."""
        if name not in self._built:
            self._built[name] = load(self._settings, [self._sources[name]]).adapters.get(name)
        adapter = self._built[name]
        if adapter is None:
            raise KeyError(name)
        return adapter

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._sources if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def installed() -> list[Source]:
    """The built-in adapters and the entry points of all installed distributions, each once."""
    sources = [_built_in(name, target) for name, target in _BUILT_IN.items()]
    for point in importlib.metadata.entry_points(group=GROUP):
        if _BUILT_IN.get(point.name) == point.value:
            continue
        brought_by = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"
        sources.append(Source(point.name, point.value, brought_by, point.load))
    return sources


def _built_in(name: str, target: str) -> Source:
    point = importlib.metadata.EntryPoint(name=name, value=target, group=GROUP)
    return Source(name, target, "the agent", point.load, built_in=True)


def _unique(sources: Iterable[Source]) -> list[Source]:
    """Raises SettingsError, with all the doubles at once."""
    found: dict[str, list[Source]] = {}
    for source in sources:
        found.setdefault(source.name, []).append(source)
    doubles = [f'"{name}": {" and ".join(map(str, group))}' for name, group in found.items() if len(group) > 1]
    if doubles:
        raise SettingsError(f"two adapters have one name; uninstall one of them: {'; '.join(doubles)}")
    return [group[0] for group in found.values()]


def _build(source: Source, settings: object) -> Adapter:
    if not _NAME.fullmatch(source.name):
        raise PluginError(f'"{source.name[:80]}" is no name for an adapter; use lower-case letters, digits, -, _ and .')
    build = source.load()
    if not callable(build):
        raise PluginError(f"{source.target} is {type(build).__name__}; it must be a function build(settings)")
    adapter: object = build(settings)
    missing = [name for name in _METHODS if not callable(getattr(adapter, name, None))]
    if missing:
        raise PluginError(f"build gave {type(adapter).__name__}, which is no adapter: it has no {', '.join(missing)}")
    name, model = getattr(adapter, "name", None), getattr(adapter, "config_model", None)
    if name != source.name:
        raise PluginError(f'the adapter calls itself {name!r}; its entry point says "{source.name}"')
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise PluginError("config_model must be a pydantic model")
    return cast(Adapter, adapter)


def _short(error: BaseException) -> str:
    """`KIND: text`, one line, cut."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
