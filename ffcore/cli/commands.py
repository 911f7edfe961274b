"""The group of commands. Each is imported when it is invoked; its help line is here."""

import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import click

from ffcore.cli.errors import verdict
from ffcore.cli.exit_codes import ExitCode

COMMANDS = {
    "check-plugin": (
        "ffcore.cli.check_plugin:check_plugin",
        "Check a plugin against the laws of its roles.",
    ),
    "doctor": ("ffcore.cli.doctor:doctor", "Check what works on this machine."),
    "evaluate": (
        "ffcore.cli.evaluate:evaluate",
        "Measure samples against a reference.",
    ),
    "export": ("ffcore.cli.export:export", "Export the student of a finished run."),
    "init": ("ffcore.cli.init:init", "Write a recipe for a teacher, a reason beside each choice."),
    "new-plugin": ("ffcore.cli.new_plugin:new_plugin", "Write a starter plugin."),
    "report": ("ffcore.cli.report:report", "Write an HTML report that compares runs."),
    "run": ("ffcore.cli.run:run", "Distil the teacher of a recipe."),
    "sample": ("ffcore.cli.sample:sample", "Sample a student in one step, or a teacher."),
    "schema": ("ffcore.cli.schema:schema", "Print the JSON Schema of recipes, for editors."),
    "search": (
        "ffcore.cli.search:search",
        "Search the noise with a student; render with its teacher.",
    ),
    "validate": ("ffcore.cli.validate:validate", "Check recipes without running them."),
    "verify": ("ffcore.cli.verify:verify", "Compare a student with its teacher's flow."),
    "list-plugins": (
        "ffcore.cli.list_plugins:list_plugins",
        "List the installed components and plugins.",
    ),
}
"""Every command: its import path, and its line in `ffd --help`."""
_PIPE = 128 + 13
"""The exit code of a tool that SIGPIPE ends."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_HINT = "; ffd --debug shows the full traceback"


class Commands(click.Group):
    """A click group that finds its commands in `COMMANDS` and prints all errors in one place."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, imported or not."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument; the error for a misspelt one suggests a name."""
        if args[0] not in COMMANDS:
            from ffcore.keys import did_you_mean

            ctx.fail(f"no such command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help lines without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an expected error becomes one message on stderr and an exit code."""
        _open_closed_streams()
        _replace_what_a_locale_lacks()
        try:
            level = logging.DEBUG if ctx.params["debug"] else logging.INFO
            with _news_on_stderr(level), _misplaced_told(self.params), _unread_output():
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            click.echo(" ".join(["interrupted", *map(str, interrupt.args)]), err=True)
            ctx.exit(ExitCode.INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort) as error:
            if isinstance(error, click.ClickException) and _of_another_process(error):
                ctx.exit(error.exit_code)
            raise  # click prints it
        except (Exception, SystemExit) as error:
            message, code = _told(error, "" if ctx.params["debug"] else _HINT)
            if code is None:
                _tell_torchrun(error)
                raise
            if not _of_another_process(error):
                if ctx.params["debug"]:
                    traceback.print_exception(error)
                click.echo(_process() + printable(message), err=True)
            ctx.exit(code)


def _replace_what_a_locale_lacks() -> None:
    """Replace letters that the locale lacks, so that printing them cannot end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def printable(text: str) -> str:
    """Return a text with its control characters spelled out: names in files may hold any."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _open_closed_streams() -> None:
    """Send to nowhere what is written to a stream that the shell has closed (`>&-`)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  open until the end


def _process() -> str:
    """Return the prefix of an error: empty in the first process that torchrun started."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


def _of_another_process(error: BaseException) -> bool:
    """Whether all processes raise this error and another one prints it; see Processes.each."""
    notes = [each for each in getattr(error, "__notes__", ()) if each.startswith("in process ")]
    return bool(notes) and f"in process {os.environ.get('RANK', '0')} " not in notes[0]


def _tell_torchrun(error: BaseException) -> None:
    """Record the error where torchrun looks for the first cause."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def _told(error: BaseException, hint: str) -> tuple[str, ExitCode | None]:
    """Return the message of an error, and its exit code: None for a bug in ffcore.

    An unexpected error from a plugin's code counts as the plugin's. The error's notes, which say
    what ffcore was doing, come first.
    """
    if (code := verdict(error)) is not None:
        return str(error), code
    from ffcore.plugins.place import describe_error, place

    fault = ExitCode.PLUGIN if place(error) else None
    notes = (each for each in getattr(error, "__notes__", ()) if not each.startswith("in process "))
    return ": ".join([*notes, describe_error(error)]) + hint, fault


@contextmanager
def _misplaced_told(options: Sequence[click.Parameter]) -> Iterator[None]:
    """Let the error for an unknown option say that it belongs to ffd, if it is one of `options`."""
    try:
        yield
    except click.NoSuchOption as error:
        if error.option_name in {name for each in options for name in each.opts}:
            where = f"Put it before the command: ffd {error.option_name} …"
            raise click.UsageError(f"{error.format_message()} {where}", error.ctx) from None
        raise


@contextmanager
def _unread_output() -> Iterator[None]:
    """End in silence, as other tools do, if nobody reads on: `ffd list-plugins | head -1`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(_PIPE) from None


class _Stderr(logging.Handler):
    """Writes to the current `sys.stderr`: rich replaces it by a stream that spares its bars."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(printable(self.format(record)) + "\n")


@contextmanager
def _news_on_stderr(level: int) -> Iterator[None]:
    """Show the library's log on stderr, of the first process only."""
    logger, handler = logging.getLogger("ffcore"), _Stderr()
    before = logger.level
    logger.setLevel(level if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _show_version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"ffd {version('ffcore')}")
        ctx.exit()


def _disable_third_parties(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from ffcore.plugins import without_third_parties

        ctx.with_resource(without_third_parties())


@click.command(cls=Commands)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.option(
    "--no-plugins",
    is_flag=True,
    expose_value=False,
    callback=_disable_third_parties,
    help=(
        "Import only the plugins of ffcore. Put this option before the command: ffd --no-plugins "
        "run. The environment variable FFCORE_DISABLE_PLUGINS=third-party does the same; it also "
        "takes a comma-separated list of plugins and distributions."
    ),
)
@click.option(
    "--debug",
    is_flag=True,
    help="Show the full traceback of every error. Put this option before the command: ffd --debug "
    "run.",
)
def main(debug: bool) -> None:
    """Distil a flow or diffusion teacher into a one-step student, without data."""
