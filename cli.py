"""The command line: parse, call, print. What a command does is done elsewhere, imported when it is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ._version import __version__
from .cli_doctor import doctor
from .cli_generation import GenerationCommand, batch_options, generation_options, given_options
from .cli_making import export, import_bundle, models, pull, quantize, verify
from .cli_options import (
    comparing_options,
    device_options,
    json_option,
    model_option,
    session_options,
)
from .cli_packaging import package_command
from .cli_web import web
from .loading import DEFAULT_MODEL, find_bundle
from .runtime.config import GenerationConfig
from .runtime.errors import PromptError
from .terminal import (
    HouseCommand,
    debug_option,
    needs_extra,
    note,
    print_json,
    print_table,
    progress_on_stderr,
    read_input,
    run,
)

if TYPE_CHECKING:
    from .runtime.generation import Completion
    from .runtime.model import Model
    from .runtime.scoring import CandidateScore
    from .runtime.settings import SessionSettings


class _House(click.Group):
    command_class = HouseCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are written below: from text, over models, to measuring."""
        return list(self.commands)


@click.group(
    cls=_House,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="Text goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 asked wrongly.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def onnxgpt() -> None:
    """Export a GPT from PyTorch to ONNX, prove it, and run it without PyTorch.

    \b
    onnxgpt generate "Once upon a time"      text from the model in the box
    onnxgpt export DIR --out my-bundle       a checkpoint becomes a bundle
    onnxgpt quantize my-bundle --out small   a quarter of its size
    onnxgpt generate --model small "Hi"      text from that bundle
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    run(onnxgpt, arguments)


def _load(model: str, settings: SessionSettings, memory_limit: int | None) -> Model:
    from .runtime.model import Model

    return Model.open(find_bundle(model), settings, memory_limit)


@onnxgpt.command(cls=GenerationCommand)
@click.argument("prompt", required=False)
@click.option("--file", metavar="FILE", help="Read the prompt from a UTF-8 file; - is stdin.")
@click.option("--chat", is_flag=True, help="Ask the prompt as a user, through the bundle's chat template.")
@batch_options
@json_option
@model_option
@click.option("--assistant", metavar="NAME_OR_DIR", help="A smaller bundle of the same tokens that drafts: faster.")
@session_options
@generation_options
def generate(
    prompt: str | None,
    file: str | None,
    chat: bool,
    batch: str | None,
    out: str | None,
    batch_size: int | None,
    force: bool,
    as_json: bool,
    model: str,
    assistant: str | None,
    settings: SessionSettings,
    memory_limit: int | None,
    **options: Any,
) -> None:
    """Continue PROMPT and print the new text as it comes.

    Without PROMPT and --file the prompt is read from a pipe. Options of
    generation that are not given come from the bundle, whose defaults are
    shown below: those of --model, where --help stands behind it.

    \b
    onnxgpt generate "Once upon a time" --seed 7
    onnxgpt generate --model smol --chat "What is the capital of France?"
    echo "The wolf said" | onnxgpt generate --max-new-tokens 40 --json
    onnxgpt generate --batch prompts.jsonl --out texts.jsonl --seed 7

    Each line of a --batch is a JSON object: {"prompt": TEXT} or
    {"messages": [{"role": "user", "content": TEXT}]}, and maybe "id" and
    "options": {"max_new_tokens": 40}. Each completion is a line at --out,
    with its line number and id, text, token ids, finish reason and seed. A
    line that fails gets its "error" there, and the rest goes on. The same
    command once more goes on after an interruption, and tries again what
    failed; at the end the results are in the order of the prompts.
    """
    asked = given_options(options)
    if batch is not None:
        _refuse_given("--batch", PROMPT=prompt, **{"--file": file, "--json": as_json})
        if out is None:
            raise click.UsageError("no --out: expected a file for the results of --batch")
        _generate_batch(
            batch,
            out,
            lambda name: _load(name, settings, memory_limit),
            model,
            assistant,
            force=force,
            options=asked,
            as_chat=chat,
            batch_size=batch_size,
        )
        return
    _refuse_given("a single prompt; give --batch", **{"--out": out, "--batch-size": batch_size, "--force": force})
    text = read_input(prompt, file, what="prompt")
    loaded = _load(model, settings, memory_limit)
    helper = None if assistant is None else _load(assistant, settings, memory_limit)
    content = loaded.chat_prompt(text) if chat else text
    config = GenerationConfig.resolve(loaded.generation_defaults, asked)
    if as_json or config.num_return_sequences > 1 or config.num_beams > 1:
        completions = loaded.generate(content, assistant=helper, **asked)
        _print_completions(completions, as_json=as_json)
        seed = completions[0].seed
    else:
        seed = _stream(loaded, content, helper, asked)
    _report_drawn_seed(seed, asked)


def _refuse_given(instead: str, **values: Any) -> None:
    for name, value in values.items():
        if value not in (None, False):
            raise click.UsageError(f"{name} has no effect with {instead}")


def _generate_batch(
    batch: str,
    out: str,
    load_model: Callable[[str], Model],
    model: str,
    assistant: str | None,
    *,
    force: bool,
    **options: Any,
) -> None:
    from .batch_files import BatchRun, refuse_overwriting
    from .batch_lines import read_lines

    refuse_overwriting(batch, out)
    lines = read_lines(batch)
    name = "stdin" if batch == "-" else batch
    with progress_on_stderr() as progress:
        run = BatchRun(
            load_model(model),
            lines,
            assistant=None if assistant is None else load_model(assistant),
            report_error=lambda number, message: note(f"line {number} of {name}: {message}"),
            progress=progress,
            **options,
        )
        try:
            report = run.write(out, force=force)
        except KeyboardInterrupt:
            note(f"interrupted: the same command goes on from the results in {out}")
            raise
    before = f", {report.done_before} were done before" if report.done_before else ""
    note(f"{report.done} line{'' if report.done == 1 else 's'} of {name} done{before}")
    _report_drawn_seed(report.drawn_seed, {})
    click.echo(out)
    if report.failed:
        raise click.ClickException(
            f"{report.failed} of {report.done_before + report.done + report.failed} lines failed, as said above and in "
            f"{out}: mend them, and run the same command again to do only these"
        )


def _stream(model: Model, prompt: str | list[int], assistant: Model | None, options: dict[str, Any]) -> int | None:
    """Write a text to stdout as it is generated; the seed that repeats it."""
    with model.stream(prompt, assistant=assistant, **options) as tokens:
        try:
            for token in tokens:
                sys.stdout.write(token.text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            sys.stdout.write("\n")  # so that the shell's prompt has a line of its own
            _report_drawn_seed(tokens.seed, options)
            raise
        sys.stdout.write("\n")
        return tokens.seed


def _print_completions(completions: list[Completion], *, as_json: bool) -> None:
    if as_json:
        for completion in completions:  # one line each
            print_json(asdict(completion), indent=None)
    else:
        click.echo("\n---\n".join(completion.text for completion in completions))


def _report_drawn_seed(seed: int | None, options: dict[str, Any]) -> None:
    if seed is not None and "seed" not in options:
        note(f"seed {seed} (--seed {seed} repeats this text)")


@onnxgpt.command()
@click.argument("text", required=False)
@click.option("--file", metavar="FILE", help="Read the text from a UTF-8 file; - is stdin.")
@click.option("--candidate", "candidates", multiple=True, metavar="TEXT", help="Rank this behind TEXT. Repeat it.")
@click.option(
    "--against",
    metavar="BUNDLE_OR_SOURCE",
    help="Judge the model by this bundle, or by this checkpoint in PyTorch.",
)
@comparing_options
@json_option
@model_option
@session_options
def score(
    text: str | None,
    file: str | None,
    candidates: tuple[str, ...],
    against: str | None,
    as_json: bool,
    model: str,
    settings: SessionSettings,
    memory_limit: int | None,
    plot: str | None,
    tokens: int | None,
    window: int | None,
    stride: int | None,
) -> None:
    """Tell how likely a model finds TEXT, or how far it is from another.

    Prints the number of tokens, their log-probability and the perplexity.
    Without TEXT and --file the text is read from a pipe. With --json the
    log-probability of every token is there; the first token has none.
    A text longer than the context needs a --stride: it is read in windows.

    With --candidate, continuations of TEXT are ranked: by the sum of their
    tokens' log-probabilities, from which their shares come.

    With --against two forms of one model read a file, without --file a text
    from the package: perplexities, KL divergence, top-1 and greedy agreement
    and each layer's error are printed.

    \b
    onnxgpt score "Once upon a time there was a king."
    onnxgpt score "The wolf ate the" --candidate " sheep" --candidate " moon"
    onnxgpt score --model smol --file story.txt --stride 256 --json
    onnxgpt score --model smol-int8 --against smol --plot loss.png
    """
    sizes = {"tokens": tokens, "window": window, "stride": stride}
    given = {name: value for name, value in sizes.items() if value is not None}
    if against is not None:
        if text is not None:
            raise click.UsageError("TEXT has no effect with --against: it reads a file, give one with --file")
        _refuse_given("--against", **{"--memory-limit": memory_limit, "--candidate": candidates or None})
        _score_against(model, against, file, plot, as_json, settings=settings, **given)
        return
    for name, value in (("tokens", tokens), ("plot", plot)):
        if value is not None:
            raise click.UsageError(f"--{name} has no effect without --against")
    content = read_input(text, file, what="text")
    if candidates:
        _refuse_given("--candidate", **{"--window": window, "--stride": stride})
        ranked = _load(model, settings, memory_limit).score(content, list(candidates))
        _print_ranking(ranked, as_json=as_json)
        return
    result = _load(model, settings, memory_limit).score(content, window=window, stride=stride)
    figures = {"tokens": len(result.token_ids), "log_probability": result.total, "perplexity": result.perplexity}
    if as_json:
        print_json(figures | asdict(result), indent=None)
    else:
        print_table(
            [
                ("tokens", f"{len(result.token_ids)}"),
                ("log-probability", f"{result.total:.4f}"),
                ("perplexity", f"{result.perplexity:.4f}"),
            ]
        )


def _print_ranking(scores: list[CandidateScore], *, as_json: bool) -> None:
    """The likeliest first; in JSON a line each."""
    from .runtime.scoring import shares

    ranking = sorted(zip(scores, shares(scores), strict=True), key=lambda pair: -pair[0].total)
    if as_json:
        for score, share in ranking:
            figures = {"probability": share, "log_probability": score.total, "mean_log_probability": score.mean}
            print_json({"candidate": score.candidate} | figures | asdict(score), indent=None)
    else:
        rows = []
        for score, share in ranking:
            count = len(score.token_ids)
            shown = f"{share:7.2%}  {score.total:.4f} in {count} token{'' if count == 1 else 's'}"
            rows.append((json.dumps(score.candidate, ensure_ascii=False), shown))
        print_table(rows)


@onnxgpt.command()
@click.argument("text", required=False)
@click.option("--file", metavar="FILE", help="Read the text from a UTF-8 file; - is stdin.")
@click.option("--each-line", is_flag=True, help="Each line of the file or pipe is a text of its own.")
@click.option("--label", "labels", multiple=True, metavar="NAME[=WORDS]", help="A label. Repeat it.")
@click.option("--task", metavar="FILE", help="Labels and examples from JSON or JSON Lines, see above.")
@click.option(
    "--template",
    metavar="TEXT",
    help="How a text and its label look.  [default: Text: {text}, a new line, Label: {label}]",
)
@click.option("--instruction", metavar="TEXT", help="What comes before the examples.")
@click.option(
    "--scoring",
    type=click.Choice(["sum", "mean", "calibrated"]),
    help="By log-probability as it is, per token, or less that behind a text that says nothing.  [default: mean]",
)
@json_option
@model_option
@session_options
def classify(
    text: str | None,
    file: str | None,
    each_line: bool,
    labels: tuple[str, ...],
    task: str | None,
    as_json: bool,
    model: str,
    settings: SessionSettings,
    memory_limit: int | None,
    **looks: str | None,
) -> None:
    """Tell which of some labels fits TEXT.

    Nothing is trained: each label is scored as a continuation of a prompt,
    in which examples may come first. Labels and their probabilities are
    printed, the likeliest first. Without TEXT and --file the text is read
    from a pipe.

    A --task is a JSON object with "labels" (a list, or an object of labels
    and the words that stand for them), and maybe "examples" (a list of
    {"text": TEXT, "label": LABEL}), "template", "instruction", "separator"
    and "scoring"; or it is JSON Lines, an example each, whose labels are
    taken. Options win over it.

    \b
    onnxgpt classify "The sun shone." --label happy --label sad
    onnxgpt classify --task reviews.jsonl --file new.txt --each-line --json
    onnxgpt classify "It was dull" --task reviews.json --scoring calibrated
    """
    content = read_input(text, file, what="text")
    if each_line and text is not None:
        raise click.UsageError("--each-line has no effect on TEXT: give --file, or a pipe")
    from .classifying import Task

    asked = (Task() if task is None else Task.read(task)).updated(labels, **looks)
    with asked.classifier(_load(model, settings, memory_limit)) as classifier:
        texts = [line.removesuffix("\r") for line in content.split("\n")] if each_line else [content]
        for number, single in enumerate(texts, start=1):
            try:
                found = classifier.classify(single)
            except PromptError as error:
                raise PromptError(f"line {number}: {error}" if each_line else str(error)) from error
            if as_json:
                print_json({"text": single} | asdict(found), indent=None)
            elif each_line:
                click.echo(f"{found.label}\t{found.probabilities[found.label]:.4f}")
            else:
                likeliest = sorted(found.probabilities.items(), key=lambda pair: -pair[1])
                print_table([(label, f"{probability:.4f}") for label, probability in likeliest])


def _score_against(model: str, against: str, file: str | None, plot: str | None, as_json: bool, **options: Any) -> None:
    with progress_on_stderr() as progress, needs_extra("quantize", torch="export"):
        from .comparing import compare, read_text, report_rows
        from .quantize.quality_plot import check_plot, plot_quality

        if plot is not None:
            check_plot(plot)
        report = compare(model, against, read_text(file), progress=progress, **options)
    if plot is not None:
        plot_quality(report, plot)
    if as_json:
        print_json(report.to_dict())
    else:
        print_table(report_rows(report))


onnxgpt.add_command(export)
onnxgpt.add_command(import_bundle)
onnxgpt.add_command(quantize)
onnxgpt.add_command(verify)
onnxgpt.add_command(package_command)
onnxgpt.add_command(web)


@onnxgpt.command()
@click.argument("bundle", default=DEFAULT_MODEL)
@device_options
@json_option
def info(bundle: str, settings: SessionSettings, as_json: bool) -> None:
    """Tell what BUNDLE is and what it needs.

    Architecture, sizes, proof of parity or quality, memory, and where its
    nodes run. Also of a directory that another exporter wrote.

    \b
    onnxgpt info my-bundle
    onnxgpt info fairytale --json
    """
    from .inspecting import describe, description_rows
    from .runtime.foreign import open_any

    description = describe(open_any(find_bundle(bundle)), settings)
    if as_json:
        print_json(description)
    else:
        print_table(description_rows(description))


onnxgpt.add_command(models)
onnxgpt.add_command(pull)


@onnxgpt.command()
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    default=64,
    show_default=True,
    help="Length of the prompt.",
)
@click.option(
    "--new-tokens", type=click.IntRange(min=2), metavar="N", default=128, show_default=True, help="Tokens to generate."
)
@click.option(
    "--repeat", type=click.IntRange(min=1), metavar="N", default=5, show_default=True, help="Runs after the warm-up."
)
@json_option
@model_option
@session_options
def bench(
    prompt_tokens: int,
    new_tokens: int,
    repeat: int,
    as_json: bool,
    model: str,
    settings: SessionSettings,
    memory_limit: int | None,
) -> None:
    """Measure how fast a model is here.

    Prints load time, time to the first token, rates of prefill and decoding
    and peak memory. One run warms up; the figures are medians of the
    runs after it, greedy, one sequence at a time.

    \b
    onnxgpt bench --model smol --threads 2 --json
    """
    from .benchmarking import measure

    with progress_on_stderr() as progress:
        result = measure(
            lambda: _load(model, settings, memory_limit),
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            repeat=repeat,
            progress=progress,
        )
    if as_json:
        print_json(asdict(result) | {"threads": settings.threads})
    else:
        print_table(result.rows())


onnxgpt.add_command(doctor)
