"""The command line of the comparison."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import chart, table
from .contestants import PEERS, prepare
from .machine import describe, shown_command
from .measuring import Measuring
from .results import Comparison
from .texts import SHIPPED, Text
from .workspace import Workspace

_DESCRIPTION = """onnxgpt beside other runtimes, on the same weights.

  python benchmarks/compare prepare                     install the peers, convert the model for each
  python benchmarks/compare run --ours int8=DIRECTORY   that, measure, and write results.json, .md and .svg
  python benchmarks/compare report results.json         write the table and the chart again
"""


_STARTED = time.monotonic()


def say(message: str) -> None:
    """Progress, on stderr, with the seconds since the start."""
    print(f"{time.monotonic() - _STARTED:6.1f} {message}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Parse and call."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    if options.command == "report":
        _write_report(Comparison.read(options.results), options.out or options.results.parent)
        return
    workspace = _workspace(options)
    bundles = dict(options.ours)
    if options.command == "prepare":
        contestants, missing = prepare(workspace, bundles, options.only, say)
        print(
            "\n".join([f"{each.name}: ready" for each in contestants] + [f"{n}: {why}" for n, why in missing.items()])
        )
        return
    comparison = _run(options, workspace, bundles, shown_command(given))
    options.out.mkdir(parents=True, exist_ok=True)
    comparison.write(options.out / "results.json")
    _write_report(comparison, options.out)


def _run(options: argparse.Namespace, workspace: Workspace, bundles: dict[str, Path], command: str) -> Comparison:
    machine = describe()  # now, while its load is not ours
    contestants, missing = prepare(workspace, bundles, options.only, say)
    if not contestants:
        raise SystemExit("nobody can take part: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))
    hugging_face = workspace.hugging_face()
    config = json.loads((hugging_face / "config.json").read_text(encoding="utf-8"))
    texts = options.text or ([Text(SHIPPED)] if SHIPPED.is_file() else [])
    measured = [] if options.text_tokens == 0 else texts
    windows = {
        text.name: text.windows(hugging_face / "tokenizer.json", options.text_tokens, options.window)
        for text in measured
    }
    measuring = Measuring(
        contestants,
        threads=options.threads,
        vocabulary=config["vocab_size"],
        context=config.get("max_position_embeddings") or config["n_positions"],
        seed=options.seed,
        say=say,
    )
    try:
        if windows:
            measuring.quality(windows, options.reference)
        measuring.loading(options.load_rounds)
        bandwidth = measuring.speed(options.rounds, options.limit_seconds) if options.rounds else {}
    finally:
        measuring.close()
    settings = {
        "seed": options.seed,
        "load rounds": options.load_rounds,
        "decoding stops after seconds": options.limit_seconds,
        "reference of KL": options.reference,
    }
    return Comparison(
        date=datetime.date.today().isoformat(),
        command=command,
        machine=machine,
        model=workspace.source.rpartition("/")[2],
        threads=options.threads,
        rounds=options.rounds,
        settings=settings,
        entries=measuring.entries,
        missing=missing,
        texts={text.name: text.facts(windows[text.name]) for text in measured},
        bandwidth=bandwidth,
    )


def _write_report(comparison: Comparison, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = table.render(comparison)
    (directory / "results.md").write_text(text, encoding="utf-8")
    (directory / "results.svg").write_text(chart.render(comparison), encoding="utf-8")
    print(text)


def _workspace(options: argparse.Namespace) -> Workspace:
    from onnxgpt.models.catalog import CATALOG, pull

    if options.source in CATALOG:
        pull(options.source)
    elif not Path(options.source).exists():
        raise SystemExit(f"no checkpoint {options.source!r}: expected a path or one of {', '.join(CATALOG)}")
    work = options.work or default_work()
    return Workspace(options.environments or work / "environments", work / "models", options.source)


def default_work() -> Path:
    """In the user's cache, beside the models that were pulled."""
    from onnxgpt.models.catalog import cache_directory

    return cache_directory() / "compare"


def _bundle(argument: str) -> tuple[str, Path]:
    name, _, directory = argument.partition("=")
    path = Path(directory)
    if not name or not (path / "bundle.json").is_file():
        raise argparse.ArgumentTypeError(f"{argument!r}: expected NAME=DIRECTORY with a bundle in the directory")
    return name, path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "run"):
        add = commands.add_parser(name).add_argument
        names = ", ".join(peer.name for peer in PEERS)
        ours, several = "NAME=DIRECTORY", "may be given several times"
        add("--source", default="smollm2-135m-instruct", help="checkpoint: a catalogue name or a path")
        add("--ours", type=_bundle, action="append", default=[], metavar=ours, help=f"a bundle of it; {several}")
        add("--only", action="append", default=[], metavar="PART", help=f"peers with this in their name, of: {names}")
        add("--work", type=Path, help="where environments and converted models are kept")
        add("--environments", type=Path, help="where the environments are, if not there")
        if name == "run":
            _add_run_options(add)
    report = commands.add_parser("report")
    report.add_argument("results", type=Path)
    report.add_argument("--out", type=Path, help="directory; the results' own by default")
    return parser


def _add_run_options(add: Callable[..., Any]) -> None:
    text = "for KL and perplexity; the shipped one by default; may be given several times"
    add("--out", type=Path, required=True, help="directory for results.json, results.md and results.svg")
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=5, help="of the speed measurements; 0: none")
    add("--load-rounds", type=int, default=3)
    add("--limit-seconds", type=float, default=1.0, help="decoding stops after so long, done or not")
    add("--seed", type=int, default=0, help="of the order and the prompts")
    add("--text", type=Text.parse, action="append", metavar="FILE[@CHARACTER]", help=text)
    add("--text-tokens", type=int, default=4096, help="of each text; 0: no quality")
    add("--window", type=int, default=512)
    add("--reference", default="PyTorch fp32", help="whose probabilities are the truth")
