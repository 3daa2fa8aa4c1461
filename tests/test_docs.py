"""The documentation: links lead somewhere, examples and commands are those of the code, generated parts are fresh.

Each check is a function that returns what is wrong with a text; a test holds that it finds what is broken.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import typer
import yaml

from docs.generate import with_parts
from stream_ad.cli import app
from stream_ad.config import Config, ConfigError, load
from stream_ad.config.watching import LIVE
from stream_ad.monitoring import Metrics
from stream_ad.simulation import Plant
from tests.running import SHORT

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\w)!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
METRIC = re.compile(r"(?<![\w:.])stream_ad_[a-z0-9_]*[a-z0-9](?![\w/.]|\*|\{?<)")
RECORDED = re.compile(r"\b[a-z_]+:stream_ad_[a-z0-9_]+:[a-z0-9_]+")
REPOSITORY_PATH = re.compile(r"^(?:deploy|docs|benchmarks|tests|stream_ad)/[\w./-]+$")
CONTINUED = re.compile(r"\\\n\s*")
COMMENT = re.compile(r"(?:^|\s)#.*$")
SEPARATORS = ("&&", "||", "|", ";", "&")

command = typer.main.get_command(app)


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    language: str
    text: str


def blocks(text: str, language: str) -> list[str]:
    return [found[2] for found in FENCE.finditer(text) if found[1] == language]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


# Links


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found: dict[str, int] = {}
    made = set()
    for heading in HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = found.get(anchor, 0)
        found[anchor] = number + 1
        made.add(f"{anchor}-{number}" if number else anchor)
    return made


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links to files or headings that are not there."""
    broken = []
    for target in LINK.findall(prose(text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            broken.append(f"{target}: there is no {name}")
        elif anchor and anchor not in anchors(text if file == page else file.read_text()):
            broken.append(f"{target}: {file.name} has no such heading")
    return broken


# Commands


def shell_commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a shell block as words, without variable assignments and prompts."""
    for line in CONTINUED.sub(" ", script).splitlines():
        # Quotes stay on at first: a quoted ; is no separator.
        lexer = shlex.shlex(COMMENT.sub("", line), posix=False, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words += shlex.split(word)
                continue
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


def wrong_commands(script: str) -> list[str]:
    """`stream-ad` command lines that the program would not take, and make targets that are not there."""
    wrong = []
    for words in shell_commands(script):
        program, arguments = words[0].rpartition("/")[2], words[1:]
        if program == "stream-ad" and arguments != ["..."]:
            problem = refusal(arguments)
        elif program == "make":
            problem = next((f"no target {word}" for word in arguments if not target_exists(word)), None)
        else:
            continue
        if problem:
            wrong.append(f"{shlex.join(words)}: {problem}")
    return wrong


def refusal(arguments: list[str]) -> str | None:
    """Why `stream-ad` would not take these arguments; None if it would. Nothing is run."""
    group, context = command, None
    rest = list(arguments)
    try:
        while True:
            context = group.make_context(group.name, rest, parent=context)
            if not hasattr(group, "resolve_command"):
                return None
            rest = [*context._protected_args, *context.args]
            _, group, rest = group.resolve_command(context, rest)
    except typer.Exit:  # --help
        return None
    except Exception as error:  # of whichever click typer brings along
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message()) or type(error).__name__


def target_exists(name: str) -> bool:
    return name.startswith("-") or "=" in name or f"\n{name}:" in (ROOT / "Makefile").read_text()


def missing_paths(text: str) -> list[str]:
    """Paths into the repository, in commands and in inline code, that are not there."""
    commands = [words for script in blocks(text, "sh") for words in shell_commands(script)]
    # To kubectl, deploy/NAME is a deployment.
    words = [word for words in commands if words[0] != "kubectl" for word in words]
    words += INLINE_CODE.findall(prose(text))
    return [word for word in words if REPOSITORY_PATH.match(word) and not (ROOT / word).exists()]


# Examples


def wrong_yaml(text: str, folder: Path) -> list[str]:
    """What `stream-ad lint` would say of a block that is a configuration or a part of one.

    A part goes on top of config.yaml. Helm values hold theirs under `config`.
    """
    data = yaml.safe_load(text)
    sections = {field.alias or name for name, field in Config.model_fields.items()}
    if isinstance(data, dict) and "config" in data:
        data = data["config"]
    if not isinstance(data, dict) or not data or not sections.intersection(data):
        return []
    whole: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    for section, value in data.items():
        same_kind = isinstance(value, dict) and value.get("type", "kafka") == "kafka"
        whole[section] = {**whole.get(section, {}), **value} if same_kind else value
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(whole))
    try:
        load(file, environ=dict.fromkeys(re.findall(r"\$\{(\w+)", text), "1"))
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def wrong_json(text: str) -> list[str]:
    try:
        json.loads(text)
    except ValueError as error:
        return [str(error)]
    return []


def unknown_metrics(text: str) -> list[str]:
    """Names of metrics and recorded series that neither the worker nor the recording rules make."""
    names = set()
    for family in Metrics(["feature"], "0").registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["", "_bucket", "_count", "_sum"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    rules = yaml.safe_load((ROOT / "deploy/prometheus/recording.yaml").read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"]}
    found = [name for name in RECORDED.findall(text) if name not in recorded]
    return found + [name for name in METRIC.findall(RECORDED.sub("", text)) if name not in names]


# The pages


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_is_one_that_the_program_takes(page: Path) -> None:
    text = page.read_text()
    wrong = [problem for script in blocks(text, "sh") for problem in wrong_commands(script)]
    inline = [code for code in INLINE_CODE.findall(prose(text)) if code.startswith(("stream-ad ", "make "))]
    wrong += [problem for code in inline for problem in wrong_commands(code) if "Missing argument" not in problem]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_path_into_the_repository_is_there(page: Path) -> None:
    assert missing_paths(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_configuration_and_record_can_be_read(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    wrong = [problem for block in blocks(text, "yaml") for problem in wrong_yaml(block, tmp_path)]
    wrong += [problem for block in blocks(text, "json") for problem in wrong_json(block)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_metric_is_one_that_is_there(page: Path) -> None:
    assert unknown_metrics(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_generated_parts_are_what_the_code_says_now(page: Path) -> None:
    text = page.read_text()
    assert with_parts(text) == text, "run: make docs"


PYTHON_BLOCKS = [(page.name, block) for page in PAGES for block in blocks(page.read_text(), "python")]


@pytest.mark.parametrize("block", [block for _, block in PYTHON_BLOCKS], ids=[name for name, _ in PYTHON_BLOCKS])
def test_every_python_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stream_ad.detector.detector.Recipe", lambda: SHORT)
    rows = Plant(seed=0).rows(4000).values
    exec(block, {"np": np, "normal_rows": rows, "new_rows": np.vstack([rows[:5], 2.0 * rows[:1]])})


def test_every_page_is_in_the_index() -> None:
    linked = set(LINK.findall((ROOT / "docs/README.md").read_text()))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


@pytest.mark.parametrize("path", ["role", "source.topics", "schema.features", "training.sample", "sink.topic"])
def test_the_reference_has_each_key_with_its_facts_and_its_meaning(path: str) -> None:
    reference = (ROOT / "docs/configuration.md").read_text()
    variable = f"STREAM_AD__{path.replace('.', '__').upper()}"
    assert re.search(rf"^### `{path}`\n\n.+ · `{variable}`\n\n\S.+$", reference, re.MULTILINE)


def test_the_keys_that_can_change_live_are_named() -> None:
    reference = (ROOT / "docs/configuration.md").read_text()
    section = reference.partition("## Changing values while the worker runs")[2].partition("\n## ")[0]
    assert {code for code in INLINE_CODE.findall(section) if re.fullmatch(r"[a-z]+\.[a-z_]+", code)} == LIVE


# The checks


def test_anchors_follow_the_rules_of_github() -> None:
    text = "# A b, C!\n## `training.min_rows`\n## Twice\n## Twice\n## [Link](x.md) it\n```sh\n# no heading\n```\n"
    assert anchors(text) == {"a-b-c", "trainingmin_rows", "twice", "twice-1", "link-it"}


def broken_links_of_the_readme(text: str) -> list[str]:
    return broken_links(ROOT / "README.md", text)


@pytest.mark.parametrize(
    ("check", "good", "broken"),
    [
        (broken_links_of_the_readme, "[a](docs/output.md#scores)", "[a](docs/output.md#skores)"),
        (broken_links_of_the_readme, "[a](config.yaml)", "![a](confik.yaml)"),
        (broken_links_of_the_readme, "# Here\n[a](#here)", "# Here\n[a](#there)"),
        (wrong_commands, "stream-ad run -c config.yaml", "stream-ad run --konfig config.yaml"),
        (wrong_commands, "stream-ad models list", "stream-ad models lost"),
        (
            wrong_commands,
            "A=1 .venv/bin/stream-ad produce \\\n  --rows 5 # five",
            "echo; stream-ad produce --rows five",
        ),
        (wrong_commands, "stream-ad score a.csv -o b.jsonl", "stream-ad score -o b.jsonl"),
        (wrong_commands, "stream-ad score a.csv -o b.jsonl --delimiter ';'", "stream-ad lint; stream-ad lnt"),
        (wrong_commands, "make demo", "make dmo"),
        (missing_paths, "`deploy/compose.yaml`", "`deploy/kompose.yaml`"),
        (missing_paths, "```sh\ncat stream_ad/cli.py\n```", "```sh\ncat stream_ad/kli.py\n```"),
        (wrong_json, '{"a": null}', '{"a": NaN,}'),
        (unknown_metrics, "stream_ad_score_bucket", "`stream_ad_skore`"),
        (unknown_metrics, "rate(stream_ad_anomalies_total[1h])", "rate(stream_ad_anomalies[1h])"),
        (
            unknown_metrics,
            "namespace_job:stream_ad_alerts:budgets_rate1h",
            "namespace_job:stream_ad_alerts:budgets_rate2h",
        ),
    ],
)
def test_a_check_finds_what_is_broken(check: Callable[[str], list[str]], good: str, broken: str) -> None:
    assert check(good) == []
    assert check(broken) != []


@pytest.mark.parametrize(
    ("good", "broken"),
    [
        ("alerts:\n  false_alarm_rate: 0.01\n", "alerts:\n  false_alarm_rat: 0.01\n"),
        ("source:\n  sasl_username: ${NAME}\n", "source:\n  max_poll_records: ${NAME:many}x\n"),
        ("source:\n  type: file\n  path: a.csv\n", "source:\n  type: file\n  topics: [a]\n"),
        ("image: a\nconfig:\n  role: scorer\n", "image: a\nconfig:\n  role: skorer\n"),
    ],
)
def test_the_check_of_configurations_finds_what_is_broken(good: str, broken: str, tmp_path: Path) -> None:
    assert wrong_yaml(good, tmp_path) == []
    assert wrong_yaml(broken, tmp_path) != []


def test_stale_generated_parts_are_found_and_an_unknown_part_is_an_error() -> None:
    assert "stream_ad_score" in with_parts("<!-- generated: metrics -->\nold\n<!-- end -->")
    with pytest.raises(KeyError):
        with_parts("<!-- generated: metriks -->\n<!-- end -->")
