"""Writes `docs/commands.md` and `docs/man/trioanytls.1` from the commands themselves: run it when they change.

    python3 docs/_generate_commands.py

The two are kept in the repository, so that building the documentation does not need the extra `cli`. A test compares
them with what this makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
from attrs import field, frozen

from trioanytls.cli import main as _commands
from trioanytls.cli.server import users

DOCS = Path(__file__).parent
MARKDOWN = DOCS / "commands.md"
MANUAL = DOCS / "man" / "trioanytls.1"


@frozen
class Option:
    """An option, as it is described."""

    names: str
    help: str
    default: str | None
    variable: str | None

    @property
    def sentences(self) -> str:
        """The help, and all else there is to say."""
        variable = "" if self.variable is None else f" Environment: {self.variable}."
        return f"{self.help.rstrip('.')}.{variable}".lstrip(".").strip() if self.help else variable.strip()


@frozen
class Command:
    """A command, as it is described."""

    path: str
    usage: str
    paragraphs: list[str]
    options: list[Option] = field(factory=list)


def describe() -> list[Command]:
    """All commands, each one behind the group that it belongs to."""
    program = _commands.trioanytls
    # With its settings, since click keeps what it makes of them: this may not be all that the process does.
    return list(_walk(program, click.Context(program, info_name="trioanytls", **program.context_settings)))


def _walk(command: click.Command, context: click.Context) -> Iterator[Command]:
    paragraphs = [" ".join(text.split()) for text in (command.help or "").split("\n\n")]
    options = [_describe(one, context) for one in command.params if isinstance(one, click.Option)]
    usage = " ".join(command.collect_usage_pieces(context))
    yield Command(context.command_path, f"{context.command_path} {usage}", paragraphs, options)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            if one is not None:
                yield from _walk(one, click.Context(one, parent=context, info_name=name))


def _describe(option: click.Option, context: click.Context) -> Option:
    record = option.get_help_record(context)
    names = option.opts[0] if record is None else record[0]
    default = None
    if option.secondary_opts and isinstance(option.default, bool):
        default = (option.opts if option.default else option.secondary_opts)[0]
    elif option.show_default is True:
        default = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
    elif option.multiple:
        names += " ..."
    variable = option.envvar if isinstance(option.envvar, str) else None
    return Option(re.sub(r" +", " ", names), option.help or "", default, variable)


# Markdown

_HEAD = """\
# Commands

What `trioanytls COMMAND --help` says, in one place. The extra `cli` brings the command line:
`python3 -m pip install '.[cli]'`; `python3 -m trioanytls` is the same as `trioanytls`. [Relay](relay.md) is a way into
it, and [Operations](operations.md) says how a server is run. Each command has `--help`; an option with `...` can be
given several times.

| exit code | meaning |
|---|---|
| 0 | it did what it was told, or was told to stop |
| 1 | it failed; the standard error says why |
| 2 | the command line is wrong, or a package is missing that an extra brings |
| 128 and more | it was ended by the signal with that number less 128 |

<!-- All of this page is written by docs/_generate_commands.py. -->
"""


def to_markdown(commands: list[Command]) -> str:
    """The page."""
    return _HEAD + "".join(map(_section, commands))


def _section(command: Command) -> str:
    lines = [f"\n## {command.path}\n", f"    {command.usage}\n"]
    lines += [f"{_in_words(text)}\n" for text in command.paragraphs]
    if command.options:
        lines += ["| option | what it does | default |", "|---|---|---|"]
        lines += [
            f"| {_cell(f'`{one.names}`')} | {_cell(_in_words(one.sentences))} | "
            f"{'' if one.default is None else _cell(f'`{one.default}`')} |"
            for one in command.options
        ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _in_words(text: str) -> str:
    """The text with what is code in it marked as such; what is marked already stays."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        # Options, variables, names of arguments with a colon in them, and URIs.
        parts[index] = re.sub(
            r"(?<![\w`-])(--[a-z][a-z-]*|TRIOANYTLS_[A-Z]+|[A-Z]+:[A-Z]+|anytls://)(?!\w)", r"`\1`", parts[index]
        ).replace("*", "\\*")
    return "`".join(parts)


# A page for man(1)

_MANUAL_HEAD = """\
.\\" Written by docs/_generate_commands.py.
.TH TRIOANYTLS 1 "" "trioanytls" "User Commands"
.SH NAME
trioanytls \\- many independent byte streams over one TLS connection
.SH SYNOPSIS
.B trioanytls
[OPTIONS] COMMAND [ARGS]...
"""
_MANUAL_TAIL = """\
.SH EXIT STATUS
0 where a command did what it was told, or was told to stop; 1 where it failed; 2 where the command line is wrong, or a
package is missing; 128 and the number of a signal where that has ended it.
"""


def to_manual(commands: list[Command]) -> str:
    """The manual page."""
    parts = [_MANUAL_HEAD, ".SH COMMANDS\n"]
    for command in commands[1:]:
        parts.append(f".SS {_escape(command.path.removeprefix('trioanytls '))}\n.nf\n{_escape(command.usage)}\n.fi\n")
        parts += [f".PP\n{_escape(text)}\n" for text in command.paragraphs]
        parts += map(_entry, command.options)
    variables = {one.variable for command in commands for one in command.options if one.variable is not None}
    parts.append(".SH ENVIRONMENT\n")
    meanings = {users.VARIABLE: "The password of the server's only user, where no option has one."}
    meanings |= dict.fromkeys(variables, "The server's anytls:// URI, where no option has it.")
    parts += [f".TP\n.B {_escape(name)}\n{_escape(meanings[name])}\n" for name in sorted(meanings)]
    return "".join([*parts, _MANUAL_TAIL])


def _entry(option: Option) -> str:
    default = "" if option.default is None else f" Default: {option.default}."
    return f".TP\n.B {_escape(option.names)}\n{_escape(f'{option.sentences}{default}'.strip())}\n"


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{text}" if text[:1] in (".", "'") else text


def main() -> None:
    """Write both."""
    commands = describe()
    MARKDOWN.write_text(to_markdown(commands), encoding="utf-8")
    MANUAL.parent.mkdir(exist_ok=True)
    MANUAL.write_text(to_manual(commands), encoding="utf-8")


if __name__ == "__main__":
    main()
