"""docs/kafka-security.md shows the table of rights as it is, names tests that exist, and settings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consumer.journal import rights
from consumer.journal.connection import KafkaConnection
from consumer.journal.rights import KINDS, Kind, Right
from consumer.settings import variables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/kafka-security.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_the_least_rights_of_each_kind_of_user(kind: Kind) -> None:
    user = f"User:wpk-{kind}"
    shown = [line for line in PAGE.splitlines() if line.startswith("kafka-acls.sh") and f" {user} " in line]
    assert shown == [right.command(user) for right in rights.rights_of(kind, "wpk", "wpk-agent")]


def test_the_page_names_tests_and_settings_that_exist() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 8
    assert {name for name in named if f"def {name}(" not in sources} == set()
    assert set(re.findall(r"\b(?:KAFKA|WPK)_[A-Z_]*[A-Z]\b", PAGE)) <= variables().keys()


def test_a_user_whose_name_a_shell_would_take_apart_is_quoted() -> None:
    right = Right(resource="group", name="g", operation="Read")
    assert "--allow-principal 'User:CN=a b,O=c'" in right.command("User:CN=a b,O=c")


def test_whom_the_broker_takes_one_for_is_told_as_far_as_it_can_be_known() -> None:
    sasl = KafkaConnection(
        bootstrap_servers="h:1", security_protocol="SASL_SSL", sasl_username="eva", sasl_password="x"
    )
    assert rights.principal(sasl) == "User:eva"
    assert rights.principal(KafkaConnection(bootstrap_servers="h:1", security_protocol="SSL")) == "User:ANONYMOUS"
