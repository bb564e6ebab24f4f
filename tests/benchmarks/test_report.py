"""The table and the chart of a comparison whose figures are known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from compare import chart, cli, machine, table
from compare.results import Comparison

SVG = "{http://www.w3.org/2000/svg}"


def rows_of(section: str) -> dict[str, list[str]]:
    """A table's cells by the name in the first column."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in split}


def section(text: str, title: str) -> str:
    return next(part for part in text.split("\n## ") if part.startswith(title))


def test_the_speed_table_has_medians_and_says_what_was_not_measured(comparison: Comparison) -> None:
    rows = rows_of(section(table.render(comparison), "Speed"))
    decode, prefill = rows["tokens/s"].index("decode after 64"), rows["tokens/s"].index("prefill 512")

    assert rows["**onnxgpt int8**"][decode] == "160"
    assert rows["**onnxgpt int8**"][prefill] == "1,000"
    assert rows["peer & sons Q8"][prefill] == table.NOT_MEASURED


def test_the_ratio_table_gives_median_and_spread(comparison: Comparison) -> None:
    rows = rows_of(section(table.render(comparison), "onnxgpt int8 over the others"))
    column = rows["over"].index("decode after 64")

    assert rows["peer & sons Q8"][column] == "1.60 × (1.20–2.00)"
    assert "onnxgpt int8" not in rows


def test_quality_size_and_versions_are_shown(comparison: Comparison) -> None:
    rows = rows_of(section(table.render(comparison), "Size"))

    assert rows["**onnxgpt int8**"][0] == "200 MB"
    assert rows["**onnxgpt int8**"][-4:] == ["0.0025", "1.0010", "95.0 %", "onnxgpt 1.0"]
    assert rows["peer & sons Q8"][-4:-1] == [table.NOT_MEASURED] * 3


def test_the_bound_compares_each_round_with_its_own_bandwidth(comparison: Comparison) -> None:
    # 0.1 GB per token; shares of the rounds: 120 / 200, 200 / 400, 160 / 320, whose median is 0.5.
    text = section(table.render(comparison), "The bound")

    assert "reads 100 MB of weights per token: at most 320 tokens/s" in text
    assert "reaches 50 % of that" in text


def test_who_is_missing_and_why_is_said(comparison: Comparison) -> None:
    text = table.render(comparison)

    assert "absent peer could not take part: no such package" in text
    assert "peer & sons Q8, prefill_512: crashed" in text
    assert "peer & sons Q8 used 0.25 s of processor time while others were measured" in text


def test_the_heading_has_date_machine_versions_command_and_bandwidth(comparison: Comparison) -> None:
    heading = table.render(comparison).split("\n## ")[0]

    for needed in ("2026-01-02", "Some CPU", "2 threads", "`python benchmarks/compare run`", "32.0 GB/s"):
        assert needed in heading


def test_the_chart_has_a_bar_per_figure_in_proportion(comparison: Comparison) -> None:
    root = ElementTree.fromstring(chart.render(comparison))
    bars = [element for element in root.iter(f"{SVG}rect") if element.get("x")]
    texts = [element.text for element in root.iter(f"{SVG}text")]

    assert len(bars) == 3  # decode of both, prefill of ours: what was not measured has none
    ours, theirs = (float(str(bar.get("width"))) for bar in bars[:2])
    assert ours / theirs == pytest.approx(160 / 100, rel=0.01)
    assert texts.index("onnxgpt int8") < texts.index("peer & sons Q8")


def test_a_report_is_made_again_from_its_json(
    comparison: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison.write(tmp_path / "results.json")

    cli.main(["report", str(tmp_path / "results.json")])

    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text == table.render(comparison)
    assert capsys.readouterr().out.strip() == text.strip()
    ElementTree.parse(tmp_path / "results.svg")


def test_the_command_is_shown_without_directories() -> None:
    shown = machine.shown_command(["run", "--ours", "int8=/some/where/smol-int8", "--work", "/some/where/work/"])

    assert shown == "python benchmarks/compare run --ours int8=smol-int8 --work work"


def test_the_machine_is_described_by_plain_data() -> None:
    found = machine.describe()

    assert found["processor"]
    assert found["processors"] >= 1
    assert found["memory_bytes"] > 2**28
    assert not re.search(r"/\w+/", json.dumps(found["features"]))
