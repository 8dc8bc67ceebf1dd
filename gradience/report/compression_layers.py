"""The modules of a compression, one row each: what `gradience compress --layers` adds."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.artifacts.compression import CompressionPlan, CompressionReport, ModuleResult
from gradience.report.compression_facts import Module, padded, predicted, rank_change
from gradience.report.lines import Cell, Line, Span, columns, columns_width, fit_names, render
from gradience.report.names import display_name
from gradience.report.numbers import count, percent, sig, size

MIN_NAME = 20


def module_rows_text(
    made: CompressionPlan | CompressionReport, *, width: int | None = None, color: bool = False
) -> str:
    """The table. width None: names in full, for a file or a pipe."""
    return render(module_lines(made.modules, width), color=color)


def module_lines(modules: Sequence[Module], width: int | None) -> list[Line]:
    """A head, then one line a module, in the order of the adapter."""
    rows = module_table(modules)
    used = columns_width(rows, gap=1)
    names = [display_name(module.name) for module in modules]
    if width is not None:
        names = fit_names(names, max(MIN_NAME, width - used))
    head: list[Cell] = [Span("module", "dim"), *(Span(str(title), "dim") for title in rows[0])]
    table = [[Span(name, "name"), *row] for name, row in zip(names, rows[1:], strict=True)]
    return columns([head, *table], "<" + ">" * len(rows[0]), indent=0, gap=1)


def module_table(modules: Sequence[Module]) -> list[list[Cell]]:
    """Titles, then the columns after the name: ranks, kept energy, errors, parameters and bytes as they become."""
    written = any(isinstance(module, ModuleResult) for module in modules)
    layers = any(isinstance(module, ModuleResult) and module.output_error is not None for module in modules)
    on_disk = padded(modules)
    titles = ["rank", *(["disk"] if on_disk else []), "kept", "pred.", *(["stored"] if written else [])]
    titles += [*(["DoRA layer"] if layers else []), "params", "bytes"]
    rows: list[list[Cell]] = [list(titles)]
    for module in modules:
        row = [rank_change(module)]
        if isinstance(module, ModuleResult):
            row += [str(module.stored_rank)] if on_disk else []
            row += [
                percent(module.kept_energy),
                predicted(module.predicted_error),
                sig(module.measured_error),
            ]
            row += [sig(module.output_error)] if layers else []
        else:
            row += [percent(module.kept_energy), predicted(module.predicted_error)]
        rows.append([*row, count(module.new_params), size(module.new_bytes)])
    return rows
