"""The blocks of commands that no test of this folder runs: each by its page and first line, and what stands for it."""

from __future__ import annotations

from tests.docs.pages import Block

#: The test that runs the block, or what it does, elsewhere; the beginning of its name is enough.
ELSEWHERE = {
    ("README.md", "make demo "): "test_the_demo_shows_a_run_that_completes_and_one_that_is_rolled_back",
    ("README.md", "wpk validate runbook"): "test_a_page_goes_as_it_says",
    ("README.md", 'echo \'{"execution_id"'): "test_commands_are_taken_in_every_form_that_callers_use",
    (
        "docs/audit.md",
        "wpk audit verify ",
    ): "test_the_verbs_sign_a_trail_that_holds_",
    ("docs/audit.md", "openssl ecparam "): "test_the_verbs_sign_a_trail_that_holds_",
    ("docs/audit.md", "wpk dead-letter list"): "test_a_command_that_was_broken_is_corrected_and_runs_once",
    ("docs/deploy.md", "kubectl create namespace wpk"): "test_the_page_rolls_out_as_it_says",
    ("docs/deploy.md", "python -m consumer.journal.strimzi"): "test_strimzis_resources_follow_other_settings",
    ("docs/how-to/operate.md", "wpk list --stuck"): "test_a_run_is_submitted_watched_and_read_again",
    ("docs/how-to/operate.md", "wpk cancel ID"): "test_approval_cancellation_and_rollback_are_steered",
    ("docs/how-to/upgrade.md", "wpk validate"): "test_validation_finds_every_error_with_its_line_and_remedy",
    ("docs/how-to/write-a-package.md", "$ wpk validate"): "test_a_page_goes_as_it_says",
    ("docs/kafka-security.md", "kafka-acls.sh "): "test_the_page_has_the_least_rights_of_each_kind_of_user",
    ("docs/registry.md", "$ wpk publish greet"): "test_the_command_line_publishes_lists_and_runs_by_name",
    (
        "docs/security.md",
        "wpk policy check team.policy",
    ): "test_the_example_is_a_policy_that_does_",
    ("docs/security.md", "cosign generate-key-pair"): "test_cosigns_procedure_from_the_command_line",
    ("docs/security.md", "for who in release alice bob"): "test_a_team_goes_from_open_to_locked_down",
    ("docs/security.md", "wpk canonicalize pause"): "test_a_team_goes_from_open_to_locked_down",
    ("docs/security.md", "wpk submit pause"): "test_a_team_goes_from_open_to_locked_down",
    (
        "docs/security.md",
        "wpk plan restart",
    ): "test_a_run_that_needs_a_dry_run_begins_after_one_",
    ("docs/security.md", "openssl genpkey "): "test_a_team_goes_from_open_to_locked_down",
    ("docs/tutorial.md", ""): "test_a_page_goes_as_it_says",
    ("examples/README.md", "wpk validate examples"): "test_the_command_in_the_header_gives_all_parameters",
    ("examples/README.md", "wpk submit examples/greet"): "test_the_command_in_the_header_gives_all_parameters",
}
#: Why no test can.
NOT_HERE = {
    ("README.md", "pip install ."): "changes the machine; .ci/setup installs the project on a new one in each run",
    (
        "docs/deploy.md",
        "kubectl apply -k deploy/strimzi",
    ): "Strimzi can't be had here; its files are compared with the tables",
    (
        "docs/security.md",
        "vault policy write",
    ): "a Vault can't be had here; tests/integration/test_vault.py plays its answers",
}


def stands_for(block: Block) -> str | None:
    """The test or the reason that stands for the block; None where nobody thought of it."""
    for (page, first), why in {**ELSEWHERE, **NOT_HERE}.items():
        if block.page == page and block.first.startswith(first):
            return why
    return None
