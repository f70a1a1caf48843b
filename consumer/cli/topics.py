"""`wpk topics create` and `wpk topics check`."""

from __future__ import annotations

from rich.text import Text

from consumer.cli import execute
from consumer.cli.context import connection_of, settings_of
from consumer.cli.options import CreateOptions, ReadingOptions
from consumer.cli.output import Output
from consumer.cli.render.text import BAD, GOOD, WAIT
from consumer.client.partitions import telling_unreachable
from consumer.journal import topics
from consumer.ports import SharedTopic


async def create(options: CreateOptions) -> int:
    """Create the topics that are missing, with the right settings; topics that are there stay as they are."""

    settings, output = settings_of(options), Output()
    connection, names = connection_of(settings), topics.TopicNames(settings.topic_prefix)
    with telling_unreachable(connection):
        created = await topics.create(connection, names, settings.partitions, replication=options.replication)
    alone = {names.name(role) for role in SharedTopic}
    for name in created:
        count = "1 partition" if name in alone else f"{settings.partitions} partitions"
        output.lines([f"created {name} with {count}"])
    if not created:
        output.lines([f"all topics of {settings.topic_prefix} are there"])
    return execute.OK


async def check(options: ReadingOptions) -> int:
    """Say what is wrong with the topics; exit code 2 where an agent would not start with them."""

    settings, output = settings_of(options), Output(json=options.json)
    connection, names = connection_of(settings), topics.TopicNames(settings.topic_prefix)
    with telling_unreachable(connection):
        report = await topics.check(connection, names, partitions=settings.partitions)
    if output.json:
        output.document(
            {
                "ok": not report.fatal,
                "partitions": report.partitions,
                "problems": [
                    {"topic": each.topic, "message": each.message, "remedy": each.remedy, "fatal": each.fatal}
                    for each in report.problems
                ],
            }
        )
    else:
        for problem in report.problems:
            sign, style = ("✘ ", BAD) if problem.fatal else ("! ", WAIT)
            output.lines([Text(sign, style=style).append(str(problem), style="default")])
        if not report.problems:
            output.lines([Text("✔ ", style=GOOD).append(f"the topics are right, {report.partitions} partitions each")])
    return execute.WRONG if report.fatal else execute.OK
