"""Which adapters the agent has, and what it says of those that it could not load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from consumer.adapters import registry
from consumer.adapters.delay import DelayAdapter
from consumer.clock import SystemClock
from consumer.errors import SettingsError
from consumer.ports import Adapter
from tests.support.api_steps import FixedScope

PLUGIN = Path(__file__).parents[1] / "support" / "plugin"
SETTINGS = SimpleNamespace(http_allow=())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Installs distributions: `install(name, entry points, module)`; they are gone after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = set(sys.modules)

    def add(name: str, entry_points: str, module: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[wpk.adapters]\n{entry_points}\n")
        (tmp_path / f"{name}.py").write_text(module)

    yield add
    for module in set(sys.modules) - modules:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


def source(name: str, build: object, **more: bool) -> registry.Source:
    return registry.Source(name, f"tests:{name}", "a test", lambda: build, **more)


class Named(DelayAdapter):
    """A sound adapter of any name, that tells when it is closed."""

    def __init__(self, name: str, closed: list[str], error: Exception | None = None) -> None:
        super().__init__(SystemClock())
        self._name = name
        self._closed = closed
        self._error = error

    @property
    def name(self) -> str:
        return self._name

    async def aclose(self) -> None:
        self._closed.append(self._name)
        if self._error is not None:
            raise self._error


def light() -> list[registry.Source]:
    """All that is installed but for the adapters that need a sandbox or a cluster."""
    return [found for found in registry.installed() if found.name not in ("shell", "k8s")]


async def test_the_adapters_of_the_agent_itself_are_there() -> None:
    assert {found.name for found in registry.installed() if found.built_in} == {"api", "delay", "k8s", "shell"}
    loaded = registry.load(SETTINGS, light())
    assert loaded.broken == {}
    assert loaded.get("api").name == "api"
    assert loaded.get("delay").name == "delay"
    await loaded.aclose()


def test_each_built_in_adapter_is_listed_once_although_the_metadata_names_it_too() -> None:
    names = [found.name for found in registry.installed()]
    assert len(names) == len(set(names))


async def test_a_plug_in_that_is_installed_works_like_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    loaded = registry.load(SETTINGS, light())
    assert "lamp" in loaded.names
    adapter = loaded.get("lamp")
    assert adapter.check({"lamp": "hall"}, FixedScope()) == []
    assert adapter.check({"lamp": "hall", "ligth": "on"}, FixedScope()) != []
    assert set(loaded.describe()) == set(loaded.names)
    schema = loaded.describe()["lamp"]
    assert isinstance(schema, dict)
    assert schema["required"] == ["lamp"]
    await loaded.aclose()


@pytest.mark.parametrize(
    ("module", "entry", "reason"),
    [
        ("import does_not_exist", "broken = broken:build", "does_not_exist"),
        (
            "def build(settings): raise RuntimeError('no\\nlicence')",
            "broken = broken:build",
            "RuntimeError: no licence",
        ),
        ("import sys\nsys.exit(3)", "broken = broken:build", "SystemExit"),
        ("build = 5", "broken = broken:build", "must be a function"),
        ("def build(settings): return 5", "broken = broken:build", "no adapter: it has no check"),
        ("def other(settings): ...", "broken = broken:build", "build"),
        ("from consumer.adapters.delay import build", "broken = broken:build", "calls itself 'delay'"),
        ("from consumer.adapters.delay import build", "Bro/ken = broken:build", "no name for an adapter"),
        ("", "broken = not a module", "broken"),
        (
            "from consumer import errors\ndef build(settings): raise errors.SettingsError('LAMP_URL is not set')",
            "broken = broken:build",
            "LAMP_URL is not set",
        ),
    ],
)
def test_a_broken_plug_in_is_named_with_its_reason_and_the_others_work(
    install: Callable[[str, str, str], None], module: str, entry: str, reason: str
) -> None:
    install("broken", entry, module)
    with capture_logs() as logs:
        loaded = registry.load(SETTINGS, light())
    name = entry.split(" ", maxsplit=1)[0]
    assert reason in loaded.broken[name]
    assert "broken 1.0" in loaded.broken[name]
    assert loaded.get("delay").name == "delay"
    assert [entry["adapter"] for entry in logs if entry["event"] == "adapter.broken"] == [name]
    with pytest.raises(LookupError, match="is installed but could not be loaded") as raised:
        loaded.get(name)
    assert reason in str(raised.value)


@pytest.mark.parametrize("name", ["shell", "twice"])
def test_two_adapters_of_one_name_stop_the_agent_and_both_are_named(
    install: Callable[[str, str, str], None], name: str
) -> None:
    install("first", f"{name} = first:build", "from consumer.adapters.delay import build")
    install("second", f"{name} = second:build", "from consumer.adapters.delay import build")
    with pytest.raises(SettingsError) as raised:
        registry.load(SETTINGS, registry.installed())
    assert f'"{name}"' in str(raised.value)
    assert "first 1.0" in str(raised.value)
    assert "second 1.0" in str(raised.value)


def test_wrong_settings_of_a_built_in_adapter_stop_the_agent() -> None:
    with pytest.raises(SettingsError, match="WPK_HTTP_ALLOW"):
        registry.load(SimpleNamespace(http_allow=("not a rule",)), light())


def test_the_settings_reach_the_plug_in() -> None:
    seen: list[object] = []

    def build(settings: object) -> Adapter:
        seen.append(settings)
        return Named("lamp", [])

    registry.load(SETTINGS, [source("lamp", build)])
    assert seen == [SETTINGS]


def test_a_name_that_is_not_there_gives_the_nearest() -> None:
    loaded = registry.load(SETTINGS, [source(name, lambda _, name=name: Named(name, [])) for name in ("api", "delay")])
    with pytest.raises(LookupError, match='"delya" is no adapter; did you mean "delay"'):
        loaded.get("delya")
    with pytest.raises(LookupError, match="there are api, delay"):
        loaded.get("docker")


async def test_all_adapters_are_closed_even_where_one_fails_to() -> None:
    closed: list[str] = []
    loaded = registry.AdapterRegistry(
        {"a": Named("a", closed), "b": Named("b", closed, RuntimeError("stuck")), "c": Named("c", closed)}
    )
    with capture_logs() as logs:
        await loaded.aclose()
    assert sorted(closed) == ["a", "b", "c"]
    assert [entry["adapter"] for entry in logs] == ["b"]


async def test_open_closes_the_adapters_at_the_end_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(registry, "installed", lambda: [source("a", lambda _: Named("a", closed))])
    with pytest.raises(ZeroDivisionError):
        async with registry.open(SETTINGS) as loaded:
            assert loaded.names == ("a",)
            raise ZeroDivisionError
    assert closed == ["a"]


def test_an_adapter_that_is_only_looked_at_is_built_when_it_is_asked_for_and_once() -> None:
    built: list[str] = []

    def build(name: str) -> Callable[[object], object]:
        def make(_: object) -> object:
            built.append(name)
            return Named(name, []) if name != "sick" else None

        return make

    known = registry.AsNeeded(SETTINGS, [source(name, build(name)) for name in ("lamp", "oven", "sick")])
    assert built == []
    assert known["oven"] is known["oven"]
    assert built == ["oven"]
    assert (known.get("sick"), known.get("none")) == (None, None)
    assert (list(known), len(known)) == (["lamp", "oven"], 2)
    assert sorted(built) == ["lamp", "oven", "sick"]
    with pytest.raises(SettingsError, match="two adapters have one name"):
        registry.AsNeeded(SETTINGS, [source("lamp", build("lamp")), source("lamp", build("lamp"))])
