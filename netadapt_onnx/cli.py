"""The command line's frame: it finds the command, runs it, and turns whatever happens into streams and an exit code.

Exit codes: 0: success, 1: ran, target not met, 2: error, 130: interrupted. With `--json` stdout holds
exactly one document, whatever happens.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, TextIO

import click

from netadapt_onnx._version import __version__
from netadapt_onnx.common.escape import escape_joined, escape_lines, printable_copy
from netadapt_onnx.errors import NetadaptError, did_you_mean, is_interruption

if TYPE_CHECKING:
    from netadapt_onnx.commands._result import CommandResult

PROGRAM = "netadapt-onnx"
HELP = {"-h", "--help", "--help-all", "--version"}
# Every command and what the list of them says of it, which is shown without importing any.
COMMANDS: Mapping[str, str] = {
    "inspect": "Show what a model is, what it costs, and which of its channels can be removed.",
    "prune": "Remove channels by a ratio, by counts, or down to a budget.",
    "profile": "Measure a device: build a latency table for a model.",
    "time": "Show how fast models run, and how much faster one is than another.",
    "evaluate": "Show accuracy, cost and latency of models, side by side.",
    "adapt": "Make a model smaller until it meets a budget.",
    "restore": "Bring back the model of any iteration of a run.",
    "report": "Explain a run in one HTML page, or compare several runs.",
    "finetune": "Train a model, such as one that prune made, with its layers as they are.",
    "scale": "Find the best widths for any size, up or down, and train at it.",
    "export": "Export a PyTorch module to ONNX with its BatchNorm layers kept.",
    "gate": "Fail where models are larger, slower or less accurate than agreed.",
    "diff": "Show what changed between two models.",
    "demo": "Do the whole job on handwritten digits; needs no files.",
    "env": "Show versions, providers and this device's fingerprint.",
}


class LazyGroup(click.Group):
    """Imports a command's module when that command is asked for: start-up pays for no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of a user's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"netadapt_onnx.commands.{cmd_name}").command
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from what is said of them here."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest names for a wrong one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, 3)
            meant = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(COMMANDS)}"
            raise NetadaptError(f"no command '{name}'", hint=meant, code="usage")
        return super().resolve_command(ctx, args)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=PROGRAM)
@click.option("--json", is_flag=True, expose_value=False, hidden=True)
@click.option("--debug", is_flag=True, expose_value=False, hidden=True)
def group() -> None:
    """Make an exported ONNX model smaller until it meets a budget as measured where it will run.

    \b
    Start here:  netadapt-onnx demo
    Then:        netadapt-onnx inspect MODEL.onnx
                 netadapt-onnx adapt MODEL.onnx --data DATA.npz --budget latency=0.6x -o RUN

    Exit codes: 0: target met, 1: ran, target not met, 2: error.

    Tab completes: eval "$(_NETADAPT_ONNX_COMPLETE=bash_source netadapt-onnx)", or zsh_source; fish_source for fish.
    """


def main() -> None:
    """The console entry point: quiet libraries, then `run`, then exit."""
    import logging
    import warnings

    if "--debug" not in sys.argv:
        # Other libraries' warnings would stand between the user and our one line.
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
    else:
        _escape_diagnostics()
    if "_NETADAPT_ONNX_COMPLETE" in os.environ:
        group.main(prog_name=PROGRAM)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def _escape_diagnostics() -> None:
    """What libraries warn of and log under `--debug` quotes names, too."""
    import logging
    import warnings

    class Escaping(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return escape_lines(super().format(record))

    write_warning = warnings.formatwarning
    warnings.formatwarning = lambda *parts: escape_lines(write_warning(*parts))
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Escaping())


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code and never raises."""
    arguments = list(arguments) or ["--help"]
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json, debug = _wants_json(options), "--debug" in options
    try:
        if as_json and not HELP.isdisjoint(options):
            _write(_help_document(options))
            return 0
        outcome = _invoke(list(arguments))  # which click empties
        if outcome is None:  # --help or --version, printed by click
            return 0
        return _deliver(outcome, as_json, quiet=not {"-q", "--quiet"}.isdisjoint(options))
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and not HELP.isdisjoint(options):
            _detach_stdout(sys.stdout)  # click's own printing, whose reader has gone: `--help | head`
            return 0
        if debug and not isinstance(error, click.exceptions.Exit):
            _tell(_traceback(error))
        return _failed(error, as_json)


def _invoke(arguments: list[str]) -> CommandResult | None:
    """Not by click's own `main`, which takes any EOFError, such as a truncated file's, for Ctrl-D."""
    try:
        with group.make_context(PROGRAM, arguments, obj=tuple(arguments)) as context:
            try:
                answer: CommandResult = group.invoke(context)
                return answer
            except NetadaptError as error:
                from netadapt_onnx.commands._next import with_model
                from netadapt_onnx.commands._options import GIVEN_MODEL

                error.hint = with_model(error.hint, context.meta.get(GIVEN_MODEL))
                raise
    except click.exceptions.Exit:
        return None


def _help_document(options: Sequence[str]) -> str:
    """`--help` and `--version` as data, of whatever command the words name."""
    from netadapt_onnx.common.json_output import document

    if "--version" in options and HELP.isdisjoint(set(options) - {"--version"}):
        return document({"version": __version__}, ok=True)
    from netadapt_onnx.commands._describe import described

    words = [word for word in options if not word.startswith("-")]
    with group.make_context(PROGRAM, ["env"]) as context:
        if not words:
            return document(described(group, PROGRAM), ok=True)
        name, command, rest = group.resolve_command(context, words)
        assert command is not None  # resolve_command raises otherwise
        command, name = below(command, f"{PROGRAM} {name}", rest)
        return document(described(command, name), ok=True)


def below(command: click.Command, name: str, words: Sequence[str]) -> tuple[click.Command, str]:
    """The subcommand that the next word names where there is one (`profile bundle`), and its full name."""
    subcommands: Mapping[str, click.Command] = getattr(command, "subcommands", {})
    return (subcommands[words[0]], f"{name} {words[0]}") if words and words[0] in subcommands else (command, name)


def _wants_json(options: Sequence[str]) -> bool:
    """`--format json` is another spelling of `--json`."""
    return "--json" in options or "--format=json" in options or ("--format", "json") in pairwise(options)


def _deliver(answer: CommandResult, as_json: bool, *, quiet: bool = False) -> int:
    if as_json:
        from netadapt_onnx.common.json_output import document

        _write(document(answer.result, answer.ok, answer.error))
    elif text := _text(answer):
        _write(_without_advice(text) if quiet else text)
    for warning in answer.warnings:
        _tell_wrapped(f"warning: {escape_joined(warning)}")
    if answer.error is None:
        return 0 if answer.ok else 1
    _complain(answer.error.message, answer.error.hint)
    return 2


def _text(answer: CommandResult) -> str:
    """An answer as text that acts upon nothing, whatever stands in it: see `CommandResult`."""
    text = answer.text(printable_copy(answer.result))
    if answer.is_escaped:
        return text
    if sys.stdout.isatty():
        from netadapt_onnx.common.wrap import terminal_width, wrapped_sentences

        return wrapped_sentences(escape_lines(text), terminal_width())
    return escape_lines(text)


def _without_advice(text: str) -> str:
    """What was found, without what to run next."""
    return text.partition("\nnext: ")[0]


def _failed(error: BaseException, as_json: bool) -> int:
    interrupted = _interrupted(error)
    message, hint, code = ("interrupted", "", "") if interrupted else _explain(error)
    if as_json:
        from netadapt_onnx.common.json_output import document, error_fields

        body = {"interrupted": True} if interrupted else {"error": error_fields(code, message, hint)}
        with suppress(NetadaptError):  # stdout cannot be written to: stderr says so
            _write(document(body, ok=False))
    if interrupted:
        hint = escape_joined(str(error)) if isinstance(error, KeyboardInterrupt) else ""
        # Outputs are written whole, at the end: commands that keep more than that say so.
        _tell_wrapped(f"interrupted; {hint or 'nothing was written'}")
        return 130
    _complain(message, hint)
    return 2


def _complain(message: str, hint: str) -> None:
    """One line on stderr, which wraps at words on a terminal."""
    message, hint = escape_joined(message), escape_joined(hint)
    _tell_wrapped(f"error: {message}; {hint}" if hint else f"error: {message}")


def _tell_wrapped(line: str) -> None:
    if sys.stderr.isatty():
        from netadapt_onnx.common.wrap import terminal_width, wrapped

        line = wrapped(line, terminal_width())
    _tell(f"{line}\n")


def _tell(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(line)
        sys.stderr.flush()


def _traceback(error: BaseException) -> str:
    """Where an error happened; the lines of its message are marked, so that none passes for another."""
    from traceback import TracebackException

    pieces = []
    for piece in TracebackException.from_exception(error).format():
        text = piece.rstrip("\n")
        is_frame = text.startswith("  File ")
        pieces.append((text if is_frame else text.lstrip("\n").replace("\n", "\n  | ")) + "\n")
    return escape_lines("".join(pieces))


def _interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error."""
    return isinstance(error, click.Abort) or is_interruption(error)


def _explain(error: BaseException) -> tuple[str, str, str]:
    """What went wrong, what to do, and one word for programs."""
    if isinstance(error, NetadaptError):
        return error.message, error.hint, error.code
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else PROGRAM
        return error.format_message().rstrip("."), _nearest(error) or f"see `{command} --help`", "usage"
    if isinstance(error, click.ClickException):
        return error.format_message(), "", "usage"
    if isinstance(error, OSError) and error.errno is not None:
        where = "" if error.filename is None else f"{error.filename}: "
        from netadapt_onnx.common.missing_files import nearest_path

        hint = nearest_path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror or type(error).__name__}", hint, "system"
    if isinstance(error, MemoryError):
        return "out of memory", "use a smaller model, --batch-size or data set", "system"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("netadapt_onnx"):
        return (
            f"this needs the package '{error.name}', which is not installed",
            "pip install 'netadapt-onnx[adapt]'",
            "missing-package",
        )
    return f"{type(error).__name__}: {error}", "this is a bug; --debug shows where it happened", "internal"


def _nearest(error: click.UsageError) -> str:
    """The nearest of an option's choices to a wrong one."""
    kind = error.param.type if isinstance(error, click.BadParameter) and error.param is not None else None
    parts = error.message.split("'")
    if not isinstance(kind, click.Choice) or len(parts) < 2:
        return ""
    return did_you_mean(parts[1], map(str, kind.choices), "")


def _write(text: str) -> None:
    """Raises NetadaptError where stdout cannot take it; a reader that has gone, as with `| head`, is no error."""
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _detach_stdout(sys.stdout)
    except OSError as error:
        _detach_stdout(sys.stdout)
        raise NetadaptError(f"the result cannot be written: {error.strerror}", code="system") from error


def _detach_stdout(stream: TextIO) -> None:
    """Lose what the stream still holds, which Python would otherwise try to write again at the end."""
    with suppress(OSError):  # a test's stream is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
