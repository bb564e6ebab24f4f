"""How the command line meets the world: encodings, one-line errors, interrupts, closed pipes, progress.

Text goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from .runtime.errors import OnnxGptError, OptionError, PromptError
from .runtime.memory import parse_bytes

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
CLOSED_PIPE = 141  # 128 + SIGPIPE, what a shell reports of a program whose reader went away

Progress = Callable[[str, float | None], None]


class HouseCommand(click.Command):
    """A click command with `--debug` that ends an interrupted or unread run quietly."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an interrupt ends it with 130, a reader that went away with 141."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a closed pipe is still caught
            return result
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _abandon_stdout()
            raise click.exceptions.Exit(CLOSED_PIPE) from None


def debug_option() -> click.Option:
    """`--debug`, understood before and after the command's name; `run` looks for it."""
    return click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")


def run(group: click.Group, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: errors in one line on stderr, no traceback without `--debug`."""
    use_utf8()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Not standalone: click would print usage errors over several lines.
        status = group.main(args=arguments, prog_name="onnxgpt", standalone_mode=False)
    except click.Abort:
        status = INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message, err=True)
        status = MISUSED
    except click.UsageError as error:
        status = _report(_with_hint(error), MISUSED)
    except click.ClickException as error:
        status = _report(error.format_message(), FAILED)
    except (OptionError, PromptError) as error:
        status = _report(str(error), MISUSED, arguments)
    except OnnxGptError as error:
        status = _report(_message_of(error), FAILED, arguments)
    except Exception as error:
        status = _report(f"{type(error).__name__}: {error} (run with --debug for the traceback)", FAILED, arguments)
    sys.exit(status if isinstance(status, int) else 0)


def _report(message: str, status: int, arguments: Sequence[str] = ()) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    one_line = " ".join(message.split())
    click.echo(f"error: {one_line}", err=True)
    return status


def _message_of(error: OnnxGptError) -> str:
    # An OSError made with (errno, text) would otherwise show its number.
    return str(error.args[0]) if len(error.args) == 1 else str(error)


def _with_hint(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "onnxgpt"
    return f"{error.format_message().rstrip('.')}; see `{command} --help`"


def _abandon_stdout() -> None:
    # Python flushes stdout once more when it ends, which would complain of the closed pipe again.
    with open(os.devnull, "w", encoding="utf-8") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())


def use_utf8() -> None:
    """Write UTF-8 whatever the locale is: models speak all languages."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace" if stream is sys.stderr else "replace")


def read_input(argument: str | None, file: str | None, *, what: str) -> str:
    """The text of an argument, of a file (`-` is stdin) or, when neither is given, of a piped stdin.

    One newline at the end of a file or of stdin is not part of the text.

    Raises:
        click.UsageError: none or two of them, a file that cannot be read, or text that is not UTF-8.
    """
    if argument is not None and file is not None:
        raise click.UsageError(f"{what} was given both as an argument and with --file; give one")
    if argument is not None:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise click.UsageError(f"{what} is not valid in this locale's encoding; use --file with UTF-8 text")
        return argument
    if file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError(f"no {what}: give it as an argument, with --file, or through a pipe")
    try:
        if file is None or file == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(file, "rb") as stream:
                data = stream.read()
        text = data.decode("utf-8")
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file or 'stdin'} is not UTF-8 ({error.reason} at byte {error.start})") from error
    return text.removesuffix("\n").removesuffix("\r")


def byte_size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A click callback: bytes of `500MB` (thousands) or `2GiB` (1,024s)."""
    try:
        return None if value is None else parse_bytes(value)
    except OptionError as error:
        raise click.BadParameter(str(error)) from error


@contextmanager
def progress_on_stderr() -> Iterator[Progress | None]:
    """A progress callback that keeps one line of a terminal up to date; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)

        def show(doing: str, fraction: float | None) -> None:
            bars.update(task, description=doing, total=None if fraction is None else 1.0, completed=fraction or 0.0)

        yield show


def note(message: str) -> None:
    """Say something on stderr."""
    click.echo(message, err=True)


@contextmanager
def notes_of(logger_name: str) -> Iterator[None]:
    """Say on stderr what a logger of the library tells."""
    logger, handler = logging.getLogger(logger_name), _NoteHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def print_json(value: Any, *, indent: int | None = 1) -> None:
    """JSON on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))


def print_table(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns; what has no value is left out."""
    shown = [row for row in rows if row[1]]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        click.echo(f"{name:<{width}}  {value}")


@contextmanager
def needs_extra(extra: str, **extras: str) -> Iterator[None]:
    """Say what to install when a command's own libraries are missing: `extra`, or another for some of them."""
    try:
        yield
    except ModuleNotFoundError as error:
        needed = extras.get(str(error.name), extra)
        raise click.ClickException(
            f"this command needs {error.name}, which is not installed: install onnxgpt[{needed}]"
        ) from error
