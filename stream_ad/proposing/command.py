"""`stream-ad init` from its options to the written file and the next command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from rich.console import Console
from rich.text import Text

from stream_ad.config import ConfigError, FileSource, KafkaSource
from stream_ad.proposing.file_sample import sample_file
from stream_ad.proposing.kafka_sample import in_options, option, sample_topics
from stream_ad.proposing.output_topics import create_topics, missing_topics
from stream_ad.proposing.proposal import propose
from stream_ad.proposing.report import show
from stream_ad.proposing.sample import Sample
from stream_ad.proposing.writing import Places, config_text, file_places, topic_places, write_config
from stream_ad.transports import ConfigurationError


@dataclass(frozen=True, slots=True)
class Request:
    """The options of the command."""

    output: Path
    topics: list[str] = field(default_factory=list)
    file: Path | None = None
    connection: dict[str, Any] = field(default_factory=dict)
    """Keys of section `source` as they were given; None for what was not."""
    secrets: dict[str, str | None] = field(default_factory=dict)
    """Key of section `source` to the environment variable that holds its value."""
    create_topics: bool = False
    force: bool = False


def init(request: Request, console: Console, environ: Mapping[str, str] | None = None) -> None:
    """Look at a topic or file, write a configuration, say why, and what comes next.

    Raises `TransportError` for all that the user can mend.
    """
    environ = os.environ if environ is None else environ
    if bool(request.topics) == (request.file is not None):
        raise ConfigurationError(
            "say what to look at: either --bootstrap HOST:PORT --topic NAME, or --file PATH, and not both"
        )
    check_output(request.output, request.force)

    def progress(text: str) -> None:
        console.print(Text(text, style="dim"))

    sample: Sample
    source: KafkaSource | FileSource
    if request.file is not None:
        sample, source = sample_file(request.file, progress)
        places = file_places(source, request.output)
    else:
        source = kafka_source(request, environ)
        sample = sample_topics(source, progress)
        secrets = {key: name for key, name in request.secrets.items() if name}
        places = topic_places(source, secrets, request.output)
    proposal = propose(sample, is_file=request.file is not None)
    try:
        write_config(config_text(proposal, places), request.output)
    except ConfigError as error:
        raise ConfigurationError(
            f"the proposal does not pass the check of the configuration, so it is not written. {error}"
        ) from error
    show(proposal, console)
    missing = settle_topics(request, source, places) if isinstance(source, KafkaSource) else []
    console.print(Text(f"{request.output} is written: {len(proposal.features)} features", style="green"))
    tell_next(request, missing, console)


def check_output(output: Path, force: bool) -> None:
    """Raise `ConfigurationError` for what may not be overwritten, before minutes go into the sample."""
    try:
        if output.is_dir():
            raise ConfigurationError(f"{output} is a folder: name a file in it with -o")
        if output.exists() and not force:
            raise ConfigurationError(f"{output} is there already: name another with -o, or overwrite it by --force")
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written: {error.strerror}: name another file with -o") from error


def kafka_source(request: Request, environ: Mapping[str, str]) -> KafkaSource:
    """Section `source`. Raises `ConfigurationError` for a wrong option or an environment variable that is not set."""
    unset = [name for name in request.secrets.values() if name and name not in environ]
    if unset:
        raise ConfigurationError(
            f"the environment variable {unset[0]}, which is to hold a password, is not set: export it first"
        )
    settings: dict[str, Any] = {"topics": request.topics, "group": f"stream-ad-{request.topics[0]}"}
    settings |= {key: value for key, value in request.connection.items() if value is not None}
    settings |= {key: SecretStr(environ[name]) for key, name in request.secrets.items() if name}
    try:
        return KafkaSource.model_validate(settings)
    except ValidationError as error:
        wrong = "; ".join(f"source.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ConfigurationError(in_options(wrong)) from None


def settle_topics(request: Request, source: KafkaSource, places: Places) -> list[str]:
    """Create the output topics if that is asked for; return those that are still not there."""
    missing = missing_topics(source, places.output_topics)
    if missing and request.create_topics:
        create_topics(source, missing)
        return []
    return missing


def tell_next(request: Request, missing: list[str], console: Console) -> None:
    """The next command, as it can be pasted."""
    config = shlex.quote(str(request.output))
    run, train = f"stream-ad run -c {config}", f"stream-ad train -c {config}"
    lines = [f"next: stream-ad lint -c {config} --connect && {run}"]
    if request.file is not None:
        lines = [f"next: {train} && {run}", "(run by itself learns from the first rows and scores the rest)"]
    elif missing:
        lines = [
            f"output topics that are not there yet, and without which run does not start: {', '.join(missing)}",
            f"next, to create them: {again(request)}",
            f"then: stream-ad lint -c {config} --connect && {run}",
        ]
    if request.file is None:
        lines.append(f"({train} before it learns from what the topic holds: then every row gets a score)")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def again(request: Request) -> str:
    """This command once more, creating the topics."""
    words = ["stream-ad", "init", "-o", str(request.output)]
    for topic in request.topics:
        words += ["--topic", topic]
    for key, value in (request.connection | request.secrets).items():
        if value is not None:
            words += [option(key), str(value)]
    return shlex.join([*words, "--create-topics", "--force"])
