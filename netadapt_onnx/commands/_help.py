"""Help by section: a command with many options shows the usual ones, and all of them under `--help-all`.

Each option says where it belongs (`section`) and whether only `--help-all` shows it (`is_advanced`).
"""

from __future__ import annotations

from typing import Any

import click

from netadapt_onnx.common.options import OUTPUT, SECTIONS

# Where the context of a command keeps that `--help-all` was asked for.
_ALL = "netadapt_onnx.help_all"


class SectionedOption(click.Option):
    """An option that knows the section of the help that it belongs to."""

    def __init__(self, *names: Any, section: str = "", is_advanced: bool = False, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.section = section
        self.is_advanced = is_advanced


class SectionedCommand(click.Command):
    """A command whose help is in sections, and has a longer form."""

    def __init__(self, *names: Any, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self._help_all = SectionedOption(
            ["--help-all"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_all,
            section=OUTPUT,
            help="Show all options and exit.",
        )

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's parameters with `--help-all`, in front of `--help`."""
        *params, help_option = super().get_params(ctx)
        return [*params, self._help_all, help_option]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under the headings of their sections; how many more there are."""
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        shown = [one for one in options if ctx.meta.get(_ALL) or not getattr(one, "is_advanced", False)]
        for section in SECTIONS:
            records = [one.get_help_record(ctx) for one in shown if _section(one) == section]
            rows = [record for record in records if record is not None]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)
        if len(shown) < len(options):
            formatter.write_paragraph()
            formatter.write_text(f"{len(options) - len(shown)} more options: {ctx.command_path} --help-all")


def _section(option: click.Option) -> str:
    return getattr(option, "section", "") or OUTPUT


def _show_all(context: click.Context, _: click.Parameter, is_set: bool) -> None:
    if is_set and not context.resilient_parsing:
        context.meta[_ALL] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()
