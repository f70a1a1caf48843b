"""Values in shell scripts: data wherever they stand, or refused. The oracle is the machine's own /bin/sh."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.adapters.shell import quoting

NASTY = (
    "",
    " ",
    "a b",
    "-n",
    "--help",
    "*",
    "~",
    "$HOME",
    "${HOME}",
    "$(echo pwned)",
    "`echo pwned`",
    "; echo pwned",
    "| sh",
    "&& echo pwned #",
    "it's",
    '"',
    "'",
    "'\"'\"",
    "\\",
    "\\'",
    '\\"',
    "a\nb",
    "\n",
    "\t x \t",
    "$'\\n'",
    "a'; echo pwned; '",
    'a"; echo pwned; "',
    ")",
    "$((1+1))",
    "!!",
    "x=1",
    "#",
    "ä€🙂",
    "%s",
    "\x01\x7f",
)
VALUES = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("'\"\\$`()\n ;&|*#-{}"),
    max_size=30,
)

#: Templates of one word, and what the word is for a value.
PLACES = {
    "a word": ("${x}", "{}"),
    "glued": ("pre${x}post", "pre{}post"),
    "twice": ("${x}${x}", "{}{}"),
    "double quotes": ('"a ${x} b"', "a {} b"),
    "double quotes before a name": ('"${x}HOME"', "{}HOME"),
    "single quotes": ("'a ${x} b'", "a {} b"),
    "single quotes with double quotes": ("'\"${x}\"'", '"{}"'),
    "double quotes with single quotes": ("\"'${x}'\"", "'{}'"),
    "after an escape": ("\\'${x}\\\"", "'{}\""),
    "substitution": ('"$(printf "%s." ${x})"', "{}."),
    "substitution in quotes in substitution": ("\"$(printf '%s.' \"$(printf '%s_' '${x}')\")\"", "{}_."),
    "case": ('"$(case ${x} in ${x}) printf "%s." same;; *) echo other;; esac)"', "same."),
    "parameter before": ('"$${UNSET:-default} ${x}"', "default {}"),
    "assignment": ('"$(V=${x}; printf "%s." "$V")"', "{}."),
    "subshell": ("\"$( (printf '%s.' ${x}) )\"", "{}."),
    "function": ('"$(f() { printf "%s." "$1"; }; f ${x})"', "{}."),
    "comment before": ("\"$(: # it's ${x}\nprintf '%s.' ${x})\"", "{}."),
    "sh with an argument": ('"$(sh -c \'printf %s. "$1"\' _ ${x})"', "{}."),
}


def run_script(script: str, variables: dict[str, str], shell: str = "/bin/sh") -> list[str]:
    done = subprocess.run(
        [shell, "-c", script],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return [word.decode("utf-8") for word in done.stdout.split(b"\0")[:-1]]


@settings(max_examples=60, deadline=None)
@given(value=VALUES, names=st.lists(st.sampled_from(sorted(PLACES)), min_size=1, max_size=6))
def test_a_value_arrives_as_it_is_in_every_place_where_it_is_let_in(value: str, names: list[str]) -> None:
    script = quoting.render("printf '%s\\0' " + " ".join(PLACES[name][0] for name in names))
    assert script.problems == ()
    variables = dict.fromkeys(script.variables, value)
    assert run_script(script.text, variables) == [PLACES[name][1].replace("{}", value) for name in names]


@pytest.mark.parametrize("name", sorted(PLACES))
def test_every_nasty_value_survives_each_place(name: str) -> None:
    template, expected = PLACES[name]
    for value in NASTY:
        script = quoting.render(f"printf '%s\\0' {template}")
        assert script.problems == ()
        assert run_script(script.text, dict.fromkeys(script.variables, value)) == [expected.replace("{}", value)]


def test_different_placeholders_have_variables_of_their_own_and_equal_ones_share_one() -> None:
    script = quoting.render("printf '%s\\0' ${a} ${b.c[0]} ${ a }")
    assert script.variables == {"WPK_VALUE_1": "a", "WPK_VALUE_2": "b.c[0]"}
    assert run_script(script.text, {"WPK_VALUE_1": "1", "WPK_VALUE_2": "2"}) == ["1", "2", "1"]


def test_two_dollars_before_a_brace_leave_the_expansion_to_the_shell() -> None:
    script = quoting.render('printf "%s\\0" "$${NAME:-none}" $${#NAME}')
    assert script.text == 'printf "%s\\0" "${NAME:-none}" ${#NAME}'
    assert run_script(script.text, {"NAME": "abc"}) == ["abc", "3"]


REFUSED = {
    "eval": "eval ${x}",
    "eval in quotes": 'eval "echo ${x}"',
    "eval after an assignment": "A=1 eval ${x}",
    "eval after then": "if true; then eval ${x}; fi",
    "eval behind command": "command eval ${x}",
    "eval with a name in quotes": "'ev'al ${x}",
    "eval with an escaped name": "\\eval ${x}",
    "eval in a substitution": 'echo "$(eval ${x})"',
    "eval in a case": "case a in a) eval ${x};; esac",
    "eval in a loop": "while true; do eval ${x}; done",
    "eval in braces": "{ eval ${x}; }",
    "eval over two lines": "echo a\neval \\\n${x}",
    "sh -c": 'sh -c "echo ${x}"',
    "sh -c in single quotes": "sh -c 'echo ${x}'",
    "bash with clustered options": 'bash -lc "echo ${x}"',
    "bash with an option's argument": 'bash -o pipefail -c "echo ${x}"',
    "sh by path": '/bin/sh -c "echo ${x}"',
    "sh behind env": 'env A=b sh -c "echo ${x}"',
    "sh behind timeout": 'timeout 5 sh -c "${x}"',
    "sh behind sudo with options": 'sudo -u nobody sh -c "${x}"',
    "sh behind xargs": 'echo a | xargs -n 1 sh -c "${x}"',
    "sh behind find": "find . -exec sh -c 'echo ${x}' \\;",
    "sh in a pod": 'kubectl exec pod -- sh -c "ls ${x}"',
    "an option of sh": "sh ${x} script",
    "the script of sh": "sh ${x}",
    "into sh": "echo ${x} | sh",
    "into sh over a line": "echo ${x} |\n  sh -s",
    "into sh in braces": "echo ${x} | { cat; sh; }",
    "into sh by a file": "echo ${x} > f; sh < f",
    "into python": "echo ${x} | python3 -",
    "into xargs with a template": "echo ${x} | xargs -I{} sh -c 'echo {}'",
    "into ssh": "echo ${x} | ssh host",
    "ssh": "ssh host ls ${x}",
    "python": "python3 -c \"print('${x}')\"",
    "perl": "perl -pe 's/a/${x}/' f",
    "perl, second code": "perl -n -e 'a' -e ${x}",
    "node": "node --eval ${x}",
    "env -S": "env -S ${x}",
    "the program of env": "env ${x} y",
    "trap": "trap ${x} EXIT",
    "a file of code": ". ${x}",
    "arithmetic": "echo $((${x} + 1))",
    "double brackets": "[[ ${x} -eq 1 ]]",
    "test -v": "test -v ${x}",
    "unset": "unset ${x}",
    "read": "read -r ${x}",
    "a subscript": "a[${x}]=1; b${x}[${x}]=2",
    "backticks": "echo `echo ${x}`",
    "backticks in quotes": 'echo "`echo ${x}`"',
    "here-document": "cat <<EOF\n${x}\nEOF\n",
    "here-document in quotes": "cat <<'EOF'\n${x}\nEOF\n",
    "here-document with tabs": "cat <<-EOF\n\t${x}\n\tEOF\n",
    "here-string": "cat <<< ${x}",
    "the shell's own braces": "echo $${A:-${x}}",
    "the shell's own braces in quotes": 'echo "$${A#${x}}"',
    "behind a backslash": "echo \\${x}",
    "behind a backslash in quotes": 'echo "\\${x}"',
    "after quotes that shells read differently": "echo \"$${A:-'}'}\" ${x}",
    "after $'": "echo $'a\\'b' ${x}",
    "after a list in parentheses": "a=(b c); echo ${x}",
    "sed from a file of code": "sed -f ${x} f",
    "two values for the program": "${x}${y} a",
}


@pytest.mark.parametrize("template", REFUSED.values(), ids=REFUSED)
def test_a_place_where_a_value_could_become_code_is_refused_by_name(template: str) -> None:
    problems = quoting.render(template).problems
    assert problems, "not refused"
    assert all("${x}" in problem or "${y}" in problem for problem in problems)


ALLOWED = {
    "after a here-document": "cat <<'EOF'\nit's\n\"\nEOF\necho ${x}",
    "after a here-document in a substitution": 'echo "$(cat <<EOF\nit is\nEOF\n)" ${x}',
    "two here-documents": "cat <<A <<-B\na'\nA\n\tb\"\n\tB\necho ${x}",
    "after arithmetic": "n=$(( (1 + 2) * 3 )); echo $n ${x}",
    "after backticks": "echo `date '+%s'` ${x}",
    "after a comment with a quote": "# don't\necho ${x}",
    "a hash inside a word": "echo a#'b' ${x}",
    "the target of a redirection": "echo a > ${x} 2>&1 < ${y}",
    "a loop": "for i in a ${x}; do echo $i; done",
    "conditions": "if [ ${x} = y ] && test -f ${x}; then echo; elif ! grep -q ${x} f; then echo; fi",
    "a case inside a substitution": "echo $(case $a in a|b) echo ${x};; (c) echo;; esac) ${x}",
    "export": "export A=${x} B; A=${x} cmd",
    "arguments of a script": "sh script.sh ${x}; python3 manage.py -p ${x} -e ${x}",
    "arguments of code": "python3 -c 'import sys' ${x}; perl -e 'print' -- ${x}",
    "names of shells as data": "useradd -s /bin/bash ${x}; apt-get install python3 ${x}; grep eval ${x}",
    "timeout": "timeout ${x} curl ${x}",
    "env": "env A=${x} curl ${x}",
    "into a program": "echo ${x} | python3 -m json.tool | jq --arg a ${x} . | sh script.sh",
    "awk's variables": "awk -v a=${x} '{ print a }' ${x}",
    "sed's files": "sed -i -e s/a/b/ ${x}",
    "find": "find . -name b${x} -exec rm {} +",
    "operands": "tar -cf a.tar -- ${x}; git log -n5 a${x}; [ ${x} = y ]; rm ${x}",
    "an empty command": "",
}


@pytest.mark.parametrize("template", ALLOWED.values(), ids=ALLOWED)
def test_a_value_as_an_ordinary_argument_is_allowed_whatever_it_is(template: str) -> None:
    script = quoting.render(template)
    assert script.problems == ()
    assert list(script.refusals({"x": "$(nasty)'\n", "y": "-c"})) == []


@pytest.mark.parametrize(
    ("template", "good", "bad"),
    [
        ("${x} --version", "kubectl", "eval"),
        ("${x} --version", "./run.sh", "/bin/sh"),
        ("/usr/bin/${x} a", "ls", "env"),
        ("${x} a", "ls", "ls; id"),
        ("b${x} -c a", "c", "ash"),
        ("sed 's/a/${x}/' f", "v1.2-3", "x/e;id"),
        ("sed 's/${x}/b/' f", "name_1", "/"),
        ("sed -n '${x}p' f", "12", "e"),
        ("sed '/${x}/d' f", "abc", "a/e"),
        ("sed 's/a/b/;${x}' f", "3", "e"),
        ("sed 's/a/b/${x}' f", "2", "e"),
        ("sed -e ${x} f", "3", "eid"),
        ("awk '/${x}/ { print }' f", "abc", '/{system("id")}/'),
        ("awk ${x} f", "1", "BEGIN{}"),
        ("tar -cf a.tar ${x}", "b c", "--checkpoint-action=exec=id"),
        ("timeout 5 git clone ${x}", "https://example.org/a", "--upload-pack=id"),
        ("find ${x}", "-5", "-delete"),
        ("printf ${x} a", "%s\n", "-v"),
        ("[ ${x} ${y} ]", "a", "-v"),
    ],
)
def test_where_only_harmless_values_can_stand_others_are_refused(template: str, good: str, bad: str) -> None:
    script = quoting.render(template)
    assert script.problems == ()
    assert list(script.refusals({"x": good})) == []
    assert list(script.refusals({"x": bad})) != []


@pytest.mark.parametrize(
    ("args", "refused"),
    [
        (["sh", "-c", "echo ${x}"], [2]),
        (["sh", "-c", "echo $1", "_", "${x}"], []),
        (["env", "-i", "bash", "-c", "${x}"], [4]),
        (["kubectl", "exec", "${x}", "--", "sh", "-c", "ls ${x}"], [6]),
        (["curl", "${x}", "-o", "${y}"], []),
        (["python3", "${x}"], [1]),
    ],
)
def test_arguments_that_a_program_runs_as_code_are_refused(args: list[str], refused: list[int]) -> None:
    assert [index for index, script in enumerate(quoting.judge_args(args)) if script.problems] == refused


def test_a_placeholder_that_is_not_closed_is_a_problem() -> None:
    assert "no closing }" in quoting.render("echo ${x").problems[0]


def test_nesting_without_end_is_a_problem_and_not_the_end_of_the_agent() -> None:
    for opening in ("$(", "(", '"$(', "$${A:-"):
        assert quoting.render(opening * 20_000 + "${x}").problems


def test_long_commands_are_judged_in_bounded_time() -> None:
    for template in (
        "env " * 30_000 + "${x}",
        "sh " * 30_000 + "${x}",
        "echo ${x};" + "sh;" * 30_000,
        "a " * 60_000 + "${x}",
    ):
        assert quoting.render(template).problems


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["'", '"', "`", "$", "(", ")", "{", "}", ";", "|", "&", "<", ">", "#", "\\", "\n", " ", "${x}"])
        | st.sampled_from(["$${", "<<E", "case", "in", "esac", "eval", "sh", "-c", "a", "E", "$((", "))"]),
        max_size=40,
    ).map("".join)
)
def test_any_text_is_scanned_to_its_end_and_changed_only_at_its_placeholders(template: str) -> None:
    script = quoting.render(template)
    text = script.text
    for name in script.variables:
        for reference in (f"'\"${{{name}}}\"'", f'"${{{name}}}"', f"${{{name}}}"):
            text = text.replace(reference, "\0")
    assert len(script.holes) == text.count("\0")
    assert text.replace("\0", "") == template.replace("$${", "\1").replace("${x}", "").replace("\1", "${")
