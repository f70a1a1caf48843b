"""Where secrets come from: environment variables with a prefix, files in a directory, and a source beyond the machine.

A package only names a secret; its value is fetched when a step needs it, so that a secret that was rotated (Kubernetes
changes the mounted files) is the new one from the next step on.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from consumer.errors import PermanentError
from consumer.policy.redact import Redactor

#: Larger files are no secrets but a mistake.
MAX_BYTES = 64 * 1024
#: What a key of a Kubernetes secret may be; no dot first: there lie Kubernetes' own directories.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}")


class Source(Protocol):
    """Where secrets are that are neither in the environment nor in files."""

    async def read(self, names: Iterable[str]) -> Mapping[str, str]:
        """The values of those of the named secrets that there are. Raises StepError."""
        ...


class Given(dict[str, str]):
    """Values of secrets by their names. As long as this lives, and no longer, the log masks them."""

    __slots__ = ("__weakref__",)


class SecretStore:
    """Reads secrets by name. Raises PermanentError (`secret_unreadable`) where one is there but can't be used."""

    def __init__(
        self, *, environ: Mapping[str, str] | None = None, prefix: str = "WPK_SECRET_", directory: Path | None = None
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._prefix = prefix
        self._directory = directory
        self.beyond: Source | None = None
        """Asked last, by `load` only; set by who owns it."""
        self._given: weakref.WeakValueDictionary[int, Given] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._redactor: tuple[frozenset[str], Redactor] = (frozenset(), Redactor(()))

    def mask(self, text: str) -> str:
        """The text without the values that are in use: for the agent's own log."""
        given = [reference() for reference in self._given.valuerefs()]  # a list at once: other threads log too
        values = frozenset(value for each in given if each is not None for value in each.values())
        known, redactor = self._redactor
        if values != known:
            redactor = Redactor(values)
            self._redactor = (values, redactor)
        return redactor.mask_error(text)

    def get(self, name: str) -> str | None:
        """The value, the environment's before the file's; None where there is none or it is empty. May read a file."""
        if not _NAME.fullmatch(name):
            return None
        return self._environ.get(self._prefix + name) or self._read(name) or None

    async def load(self, names: Iterable[str]) -> Given:
        """The values of those of the named secrets that there are; files are read off the event loop.

        Keep it for as long as the values may come up. Raises StepError where one can't be had now, or can't be used.
        """
        wanted = sorted(set(names))
        values = await asyncio.to_thread(lambda: [self.get(name) for name in wanted]) if wanted else []
        found = Given((name, value) for name, value in zip(wanted, values, strict=True) if value is not None)
        missing = [name for name in wanted if name not in found and _NAME.fullmatch(name)]
        if missing and self.beyond is not None:
            found.update(await self.beyond.read(missing))
        if found:
            self._given[next(self._numbers)] = found
        return found

    def _read(self, name: str) -> str | None:
        if self._directory is None:
            return None
        path = self._directory / name
        try:
            # A mount of Kubernetes consists of links, but none of them leads out of it.
            if not path.is_file() or not path.resolve().is_relative_to(self._directory.resolve()):
                return None
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise _unreadable(name, error.strerror or type(error).__name__) from error
        if len(data) > MAX_BYTES:
            raise _unreadable(name, f"the file is larger than {MAX_BYTES} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise _unreadable(name, "the file is no UTF-8 text") from None  # the cause would show the value
        return text.removesuffix("\n").removesuffix("\r")


def _unreadable(name: str, reason: str) -> PermanentError:
    return PermanentError(f"the secret {name} can't be read: {reason}", code="secret_unreadable")
