"""The page of a comparison: one self-contained file with sentences, tables and interactive charts.

It reads a finished comparison and decides nothing. Invariant: the page needs no network, and every figure on it is also in
the CSV or in a record beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from plotly.offline import get_plotlyjs

from paceline.lab.training.charts import draw_group, show_figures
from paceline.lab.training.compare import Group, RowResult
from paceline.lab.training.record import RunRecord
from paceline.lab.training.rows import show_value
from paceline.lab.training.summary import Line, list_sentences, make_lines, show_bytes, show_line_factor, show_line_gap
from paceline.lab.training.tuning import show_settings

_HEAD = [
    "row",
    "seeds",
    "loss",
    "spread",
    "gap to baseline (95 %)",
    "sent a step and trainer",
    "less than fp32 DDP",
    "utilisation",
    "correlation",
    "virtual time",
    "to target",
    "bytes by kind (first seed)",
    "settings",
]
_UNSHOWN = [
    "\nA model of this size on this text says little about the order of methods at a hundred or ten thousand times the parameters,\nwhere rounds are many more and gradients point more alike.",
    "Virtual time knows steps, links and waiting. It does not know lost packets, congestion, encryption, encoding, or machines that\nslow down; measured systems reach less utilisation than such a clock.",
    "Bytes are those of the messages themselves, without the headers of a transport.",
    "Settings were tuned on shorter runs; what is best there need not be best in long ones.\n",
]


def write_page(
    groups: Sequence[Group], *, quick: bool = False, title: str = "Training with little communication"
) -> str:
    """The page of all groups."""
    warning = (
        "<p class='warning'>A quick run: a few steps, one seed, two candidates. It shows that everything works, "
        "not which method is better.</p>"
        if quick
        else ""
    )
    body = "\n".join(_write_group(group) for group in groups)
    limits = "".join(f"<li>{escape(sentence)}</li>" for sentence in _UNSHOWN)
    return PAGE.format(title=escape(title), library=get_plotlyjs(), warning=warning, body=body, limits=limits)


def _write_group(group: Group) -> str:
    lines = make_lines(group)
    notes = list(dict.fromkeys(result.row.note for result in group.rows if result.row.note))
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in list_sentences(group))
    return "\n".join(
        [
            f"<section><h2>{escape(group.name)}</h2>",
            "".join(f"<p>{escape(note)}</p>" for note in [_describe_terms(group), *notes]),
            _write_table(_HEAD, [_show_line(line, line.label == group.baseline.row.label) for line in lines]),
            f"<h3>What the figures show</h3><ul>{sentences}</ul>" if sentences else "",
            show_figures(draw_group(group)),
            _write_tuning(group),
            _write_events(group),
            "</section>",
        ]
    )


def _describe_terms(group: Group) -> str:
    """What all rows of a group have in common, and what not."""
    lines = make_lines(group)
    config, first = group.baseline.row.config, group.baseline.records[0]
    trainers = _join({line.trainers for line in lines})
    steps = _join({line.steps for line in lines})
    tokens = {line.tokens for line in lines}
    equal = "equal tokens" if len(tokens) == 1 else f"{min(tokens):,} to {max(tokens):,} tokens"
    return (
        f"{config.model.name} ({first.param_count:,} parameters) on {config.data.source}, {trainers} trainers, {steps} "
        f"inner steps of {config.run.batch_size} sequences each, {equal}. Rows of one seed begin with the same parameters "
        f"and draw the same batches; the loss is that of the replicas' average on held-out text, in nats a token. Gaps are "
        f"relative to {group.baseline.row.label}, seed by seed, with the 95 % interval of Student's t."
    )


def _show_line(line: Line, is_baseline: bool) -> list[str]:
    gap = "baseline" if is_baseline else show_line_gap(line)
    return [
        line.label,
        str(line.seeds),
        "diverged" if line.loss is None else f"{line.loss:.4f}",
        "" if line.spread is None else f"{line.spread:.4f}",
        gap,
        show_bytes(line.bytes_per_step),
        show_line_factor(line),
        f"{line.utilisation:.1%}",
        "" if line.correlation is None else f"{line.correlation:.4f}",
        f"{line.virtual_seconds:,.1f} s",
        "" if line.seconds_to_target is None else f"{line.seconds_to_target:,.1f} s",
        line.bytes_by_kind,
        line.settings,
    ]


def _write_tuning(group: Group) -> str:
    tuned = [result for result in group.rows if result.choice.trials or result.row.tune.like]
    if not tuned:
        return ""
    rows = [_show_tuning(result) for result in tuned]
    head = ["row", "steps", "tried: loss", "chosen", "at the grid's edge"]
    return f"<details><summary>What was tuned</summary>{_write_table(head, rows)}</details>"


def _show_tuning(result: RowResult) -> list[str]:
    if result.row.tune.like is not None:
        return [result.row.label, "", f"nothing: the settings of {result.row.tune.like}", result.choice.describe(), ""]
    tried = "; ".join(
        f"{show_settings(trial.settings)}: {'diverged' if trial.loss is None else f'{trial.loss:.4f}'}"
        for trial in result.choice.trials
    )
    edges = ", ".join(name.rpartition(".")[2] for name in result.choice.on_edge)
    return [result.row.label, str(result.choice.steps), tried, result.choice.describe(), edges]


def _write_events(group: Group) -> str:
    rows = [
        [result.row.label, event]
        for result in group.rows
        for record in result.records[:1]
        for event in _shorten(record)
    ]
    if not rows:
        return ""
    return f"<details><summary>Events (first seed)</summary>{_write_table(['row', 'event'], rows)}</details>"


def _shorten(record: RunRecord, most: int = 12) -> list[str]:
    more = len(record.events) - most
    return [*record.events[:most], *([f"and {more} more"] if more > 0 else [])]


def _write_table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{top}</tr>{body}</table></div>"


def _join(values: set[int]) -> str:
    return " or ".join(show_value(f"{value:,}") for value in sorted(values))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.25rem; margin: 2.4rem 0 .4rem; }} h3 {{ font-size: 1rem; margin-bottom: .2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem .6rem; border-bottom: 1px solid #dde2ea;
  font-variant-numeric: tabular-nums; }}
th {{ white-space: nowrap; }} td:first-child {{ white-space: nowrap; font-weight: 600; }}
td:last-child {{ min-width: 24rem; }}
p, li {{ color: #3b4658; }} ul {{ margin-top: .2rem; padding-left: 1.2rem; }}
summary {{ cursor: pointer; margin: .6rem 0; }}
.warning {{ background: #fff4d6; border-left: 4px solid #d99a00; padding: .5rem .8rem; }}
</style><script>{library}</script></head><body>
<h1>{title}</h1>
{warning}
{body}
<h2>What these figures do not show</h2>
<ul>{limits}</ul>
</body></html>
"""
