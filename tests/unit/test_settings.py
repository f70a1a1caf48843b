"""Settings: what is read from where, and what is said when something is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from consumer import settings
from consumer.errors import SettingsError
from consumer.settings import reference
from consumer.settings.model import secret_files

ROOT = Path(__file__).parents[2]


def complaint(config: Path | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        settings.load(config, environ)
    return str(caught.value)


def test_without_environment_or_file_every_setting_has_its_default() -> None:
    loaded = settings.load(environ={})
    assert loaded.kafka_bootstrap_servers == "localhost:9092"
    assert loaded.partitions == 12
    assert loaded.processing_guarantee == "auto"
    assert loaded.sandbox == "required"
    assert loaded.http_allow == ()
    assert loaded.prometheus_port == 9464
    assert loaded.state_retention == 7 * 86_400


def test_every_setting_of_the_public_contract_has_exactly_its_name() -> None:
    contract = {
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_SECURITY_PROTOCOL",
        "KAFKA_SASL_MECHANISM",
        "KAFKA_SASL_USERNAME",
        "KAFKA_SASL_PASSWORD",
        "KAFKA_SSL_CAFILE",
        "KAFKA_SSL_CERTFILE",
        "KAFKA_SSL_KEYFILE",
        "WPK_TOPIC_PREFIX",
        "WPK_PARTITIONS",
        "WPK_GROUP_ID",
        "WPK_PROCESSING_GUARANTEE",
        "WPK_MAX_EXECUTIONS",
        "WPK_STATE_RETENTION",
        "WPK_POLICY_FILE",
        "WPK_REGISTRY_URL",
        "WPK_SANDBOX",
        "WPK_PROMETHEUS_URL",
        "KUBECONFIG",
        "PROMETHEUS_PORT",
        "LOG_LEVEL",
        "LOG_FORMAT",
    }
    assert contract <= settings.variables().keys()


def test_the_environment_is_read_with_durations_sizes_and_lists() -> None:
    loaded = settings.load(
        environ={
            "WPK_STEP_TIMEOUT": "1h30m",
            "WPK_MAX_OUTPUT_BYTES": "64Ki",
            "WPK_HTTP_ALLOW": " prometheus:9090 , 10.0.0.0/8,*",
            "WPK_SANDBOX": "OFF",
            "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
        }
    )
    assert loaded.step_timeout == 5400
    assert loaded.max_output_bytes == 64 * 1024
    assert loaded.http_allow == ("prometheus:9090", "10.0.0.0/8", "*")
    assert loaded.sandbox == "off"
    assert loaded.kafka_security_protocol == "SASL_SSL"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("agent.yaml", "WPK_PARTITIONS: 3\nWPK_SANDBOX: off\nWPK_HTTP_ALLOW: [a, b]\n", id="yaml"),
        pytest.param(
            "agent.env",
            "# ours\nWPK_PARTITIONS=3\nexport WPK_SANDBOX='off'\nWPK_HTTP_ALLOW=\"a,b\"\n",
            id="env",
        ),
        pytest.param(".env", "WPK_PARTITIONS=3\nWPK_SANDBOX=off\nWPK_HTTP_ALLOW=a,b\n", id="dotenv"),
    ],
)
def test_a_file_uses_the_same_names_as_the_environment(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    loaded = settings.load(file, {})
    assert (loaded.partitions, loaded.sandbox, loaded.http_allow) == (3, "off", ("a", "b"))


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("WPK_PARTITIONS: 3\nWPK_GROUP_ID: of-the-file\n")
    loaded = settings.load(file, {"WPK_PARTITIONS": "6"})
    assert (loaded.partitions, loaded.group_id) == (6, "of-the-file")


def test_an_empty_variable_counts_as_none(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("WPK_PARTITIONS: 3\nWPK_GROUP_ID:\n")
    loaded = settings.load(file, {"WPK_PARTITIONS": "", "KAFKA_SASL_USERNAME": ""})
    assert (loaded.partitions, loaded.group_id, loaded.kafka_sasl_username) == (3, "wpk-agent", None)


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "agent.yml"
    file.write_text("# nothing yet\n")
    assert settings.load(file, {}).partitions == 12


def test_all_that_is_wrong_is_said_at_once_with_value_origin_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("WPK_PARTITIONS: many\n")
    said = complaint(file, WPK_SANDBOX="maybe", WPK_STEP_TIMEOUT="5 parsecs", PROMETHEUS_PORT="99999")
    lines = said.splitlines()
    assert len(lines) == 4
    assert 'WPK_PARTITIONS is "many" (agent.yaml): write a whole number' in lines
    assert "WPK_SANDBOX is \"maybe\" (environment): write 'required', 'preferred' or 'off'" in lines
    assert 'WPK_STEP_TIMEOUT (environment): "5 parsecs" is no duration; write 500ms, 30s, 5m or 1h30m' in lines
    assert 'PROMETHEUS_PORT is "99999" (environment): write at most 65535' in lines


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka", "write host:port"),
        ("WPK_TOPIC_PREFIX", "a/b", "write at most 200"),
        ("WPK_HTTP_ALLOW", "a b", "write host, host:port, a CIDR, or *"),
        ("WPK_ALLOWED_ENV", "MY-VAR", "names of variables"),
        ("WPK_PROMETHEUS_URL", "prometheus:9090", "write http://host:port"),
        ("WPK_SESSION_TIMEOUT", "0s", "write at least 1"),
        ("WPK_STEP_TIMEOUT", "0s", "write more than 0"),
        ("WPK_MAX_OUTPUT_BYTES", "1.5", "whole number of bytes"),
        ("WPK_SECRETS_ENV_PREFIX", "secret", "write capitals"),
    ],
)
def test_a_wrong_value_is_answered_with_what_to_write(name: str, value: str, remedy: str) -> None:
    said = complaint(None, **{name: value})
    assert said.startswith(name)
    assert value in said
    assert remedy in said


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    loaded = settings.load(environ={"KAFKA_SASL_PASSWORD": "hunter2hunter2"})
    assert loaded.kafka_sasl_password == SecretStr("hunter2hunter2")
    assert "hunter2" not in f"{loaded!r} {loaded} {loaded.model_dump()} {loaded.model_dump_json()}"

    file = tmp_path / "agent.yaml"
    file.write_text("KAFKA_SASL_PASSWORD: 4815162342\n")
    assert complaint(file) == 'KAFKA_SASL_PASSWORD is "***" (agent.yaml): write a text; in YAML, put it in quotes'

    file.write_text("KAFKA_SASL_PASSWORD: {hunter2: [\n")
    assert "hunter2" not in complaint(file)
    assert "hunter2" not in complaint(None, WPK_PROMETHEUS_URL="https://me:hunter2@prometheus:9090")


@pytest.mark.parametrize("name", sorted(secret_files()))
def test_a_secret_may_lie_in_a_file_of_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("two\nlines \n")
    loaded = settings.load(environ={name: str(tmp_path / "secret")})
    secret = getattr(loaded, settings.variables()[name.removesuffix("_FILE")])
    assert secret.get_secret_value() == "two\nlines "
    assert settings.unknown_variables(loaded, {name: "x"}) == []


def test_the_file_with_a_secret_may_be_named_by_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    config = tmp_path / "agent.env"
    config.write_text(f"KAFKA_SASL_PASSWORD_FILE={tmp_path / 'secret'}\n")
    password = settings.load(config, {}).kafka_sasl_password
    assert password is not None and password.get_secret_value() == "s3cret"


def test_a_file_with_a_secret_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    path = str(tmp_path / "none")
    assert complaint(KAFKA_SASL_PASSWORD_FILE=path) == (
        f"KAFKA_SASL_PASSWORD_FILE (environment): {path} can't be read: No such file or directory"
    )
    assert "empty is empty" in complaint(KAFKA_SASL_PASSWORD_FILE=str(tmp_path / "empty"))
    both = complaint(KAFKA_SASL_PASSWORD_FILE=path, KAFKA_SASL_PASSWORD="s3cret")
    assert "both set" in both and "s3cret" not in both


def test_an_unknown_key_in_a_file_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("WPK_SANDBX: off\npartitions: 3\nWPK_NONSENSE_AT_ALL: 1\nWPK_SECRET_X: y\n")
    lines = complaint(file).splitlines()
    assert lines[0] == f"WPK_SANDBX in {file} is no setting; did you mean WPK_SANDBOX?"
    assert lines[1].endswith("did you mean WPK_PARTITIONS?")
    assert lines[2].endswith("`wpk agent --help` lists them all")
    assert "WPK_SECRETS_DIR" in lines[3]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        pytest.param("a.yaml", "- one\n", "must hold NAME: value pairs", id="a list"),
        pytest.param("a.yaml", "a: b: c\n", "is no YAML (line 1)", id="broken yaml"),
        pytest.param("a.yaml", "[" * 3000, "is no YAML", id="yaml nested too deeply"),
        pytest.param("a.yaml", "!!timestamp x", "is no YAML", id="yaml of a wrong type"),
        pytest.param("a.env", "WPK_PARTITIONS=3\nwhat is this\n", "line 2, is not NAME=value", id="broken line"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert str(file) in complaint(file)
    assert said in complaint(file)


def test_a_path_with_a_zero_byte_is_an_error_of_its_setting(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text('KAFKA_SASL_PASSWORD_FILE: "a\\0b"\n')
    assert "KAFKA_SASL_PASSWORD_FILE (a.yaml): " in complaint(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path / "no.yaml") == (
        f"the configuration file {tmp_path / 'no.yaml'} can't be read: No such file or directory"
    )


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "agent.env"
    file.write_bytes(b"\xff\xfe\x00")
    assert "no UTF-8 text" in complaint(file)


def test_an_unknown_variable_of_ours_is_a_warning_with_the_nearest_name() -> None:
    environ = {"WPK_SESION_TIMEOUT": "6s", "WPK_SECRET_TOKEN": "x", "PATH": "/bin", "WPK_PARTITIONS": "3"}
    warnings = settings.unknown_variables(settings.load(environ=environ), environ)
    assert warnings == [
        "the environment variable WPK_SESION_TIMEOUT is unknown and has no effect; did you mean WPK_SESSION_TIMEOUT?"
    ]


def test_a_write_must_be_given_up_before_the_broker_ends_its_transaction() -> None:
    said = complaint(None, WPK_WRITE_TIMEOUT="20s", WPK_TRANSACTION_TIMEOUT="15s")
    assert said == "WPK_WRITE_TIMEOUT (20s) must be shorter than WPK_TRANSACTION_TIMEOUT (15s)"


def test_a_write_must_be_given_up_before_it_would_count_as_one_that_hangs() -> None:
    said = complaint(None, WPK_WRITE_TIMEOUT="60s", WPK_TRANSACTION_TIMEOUT="90s")
    assert said.startswith("WPK_WRITE_TIMEOUT (60s) must be shorter than WPK_HANG_TIMEOUT (60s)")


@pytest.mark.parametrize("name", ["WPK_ALLOWED_ENV", "WPK_SHELL_ENV"])
@pytest.mark.parametrize(
    "secret",
    [
        "KAFKA_SASL_PASSWORD",
        "KAFKA_SSL_KEYPASSWORD",
        "KAFKA_OAUTH_CLIENT_SECRET",
        "WPK_REGISTRY_TOKEN",
        "WPK_SECRET_TOKEN",
    ],
)
def test_secret_variables_can_not_be_handed_to_packages_as_plain_ones(name: str, secret: str) -> None:
    said = complaint(None, **{name: f"HOME,{secret}"})
    assert f"{name} names {secret}, which is secret" in said


def test_an_agent_keeps_its_name_and_may_be_given_one() -> None:
    first, second = settings.load(environ={}), settings.load(environ={})
    assert first.agent_name == second.agent_name
    assert re.fullmatch(r"[A-Za-z0-9._-]+-\d+-[0-9a-f]{6}", first.agent_name)
    assert settings.load(environ={"WPK_AGENT_NAME": "agent-7"}).agent_name == "agent-7"


def test_settings_do_not_change() -> None:
    loaded = settings.load(environ={})
    with pytest.raises(ValueError, match="frozen"):
        loaded.partitions = 3  # type: ignore[misc]


def test_code_may_make_settings_by_field_name_without_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WPK_PARTITIONS", "7")
    assert settings.Settings(http_allow=("*",), session_timeout=6).partitions == 12


def test_the_reference_tells_each_setting_with_its_meaning() -> None:
    entries = reference.reference()
    assert [entry.variable for entry in entries] == list(settings.variables())
    assert all(entry.description.endswith(".") and entry.group for entry in entries)
    by_name = {entry.variable: entry for entry in entries}
    assert by_name["WPK_STATE_RETENTION"].default == "7d"
    assert by_name["WPK_STEP_TIMEOUT"].kind == "duration"
    assert by_name["WPK_MAX_OUTPUT_BYTES"].kind == "size"
    assert by_name["WPK_SANDBOX"].kind == "required | preferred | off"
    assert by_name["KAFKA_SASL_PASSWORD"].kind == "password"
    assert by_name["WPK_AGENT_NAME"].default == ""


def test_the_page_of_the_settings_is_in_step_with_the_code() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == reference.markdown(), "run: python -m consumer.settings.reference > docs/settings.md"
