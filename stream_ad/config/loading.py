"""From config.yaml, the environment and the command line to one checked `Config`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from stream_ad.config.checks import check
from stream_ad.config.models import Config, KafkaConnection, KafkaSource

ENVIRONMENT_PREFIX = "STREAM_AD__"
NULLS = frozenset(("", "~", "null", "Null", "NULL"))
EXPANSION = re.compile(r"\$\$|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\})?")
SECRETS = ("password",)
SECTIONS = {field.alias or name for name, field in Config.model_fields.items()} - {"role", "shutdown_timeout"}
LONGEST_SHOWN = 60

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration."""

    path: str
    """Where, as in `alerts.false_alarm_rate`."""
    message: str
    line: int | None = None
    origin: str | None = None
    """The override that brought the value, if it is not the file's."""
    value: str | None = None
    """What stands there; never a secret's."""
    hint: str | None = None

    def __str__(self) -> str:
        place = self.origin or (f"line {self.line}" if self.line else "")
        parts = [self.message, f"it is {self.value}" if self.value else None, self.hint]
        return f"{self.path or 'config'}{place and f' ({place})'}: {'; '.join(part for part in parts if part)}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` says where and how to mend it."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        super().__init__(f"{source} has {len(problems)} problem(s)\n" + "\n".join(f"  {one}" for one in problems))
        self.problems = problems


@dataclass(slots=True)
class _Document:
    """Plain data and where each of its places comes from."""

    data: Any
    lines: dict[Path_, int]
    problems: list[Problem]
    origins: dict[Path_, str] = field(default_factory=dict)
    """The override behind a place that is not the file's."""

    def problem(self, path: Path_, message: str, **more: str | None) -> Problem:
        """A problem with the place that `path` comes from."""
        origin = next((self.origins[path[:i]] for i in range(len(path), 0, -1) if path[:i] in self.origins), None)
        if origin is None and path not in self.lines:  # a section that only an override made
            origin = next((one for place, one in self.origins.items() if path and place[: len(path)] == path), None)
        line = None if origin else self.lines.get(path)
        return Problem(_dotted(path), message, line, origin, **more)


def load(path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Config:
    """Read a configuration file; `overrides` (path=value) beat the environment, which beats the file.

    All scalars are read as text and made numbers where the configuration wants numbers, so that a topic
    0123 stays 0123 and 1e-3 is a number. `${NAME}` and `${NAME:default}` are taken from the environment, `$$` is a
    dollar sign. Raises `ConfigError`.
    """
    environ = os.environ if environ is None else environ
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            source, [Problem("", f"cannot be read: {error.strerror}; name another file with -c")]
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(source, [Problem("", "is not UTF-8: save it as UTF-8", line)]) from None
    document = parse(text)
    _expand(document, environ)
    _override(document, overrides, environ)
    if document.problems:
        raise ConfigError(source, document.problems)
    return _validate(document, source)


def parse(text: str) -> _Document:
    """YAML 1.2 in spirit: scalars stay text, a key that stands twice is a problem, plain null is None."""
    document = _Document({}, {}, [])
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        document.problems.append(Problem("", f"no YAML: {what}", None if mark is None else mark.line + 1))
        return document
    except RecursionError:
        document.problems.append(Problem("", "is nested too deeply"))
        return document
    try:
        document.data = {} if root is None else _construct(root, (), document)
    except RecursionError:
        document.problems.append(Problem("", "an alias (*name) refers to what it stands in"))
    if not isinstance(document.data, dict):
        document.problems.append(Problem("", "sections such as source: and schema: are needed at the top"))
        document.data = {}
    return document


def _construct(node: yaml.Node, path: Path_, document: _Document) -> Any:
    document.lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                document.problems.append(Problem(_dotted(path), "a key must be a plain text", line))
                continue
            key = str(key_node.value)
            if key in found:
                document.problems.append(Problem(_dotted((*path, key)), "stands here a second time: keep one", line))
            found[key] = _construct(value_node, (*path, key), document)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*path, i), document) for i, item in enumerate(node.value)]
    # Only what stands there without quotes can be a null.
    plain = getattr(node, "style", None) is None
    return None if plain and node.value in NULLS else node.value


def _expand(document: _Document, environ: Mapping[str, str]) -> None:
    """Put the environment's values into all texts; what they hold is not looked at again."""

    def replaced(value: Any, path: Path_) -> Any:
        if isinstance(value, dict):
            return {key: replaced(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [replaced(item, (*path, i)) for i, item in enumerate(value)]
        if not isinstance(value, str):
            return value

        def one(match: re.Match[str]) -> str:
            if match.group() == "$$":
                return "$"
            name, default = match.group(1), match.group(2)
            if name is None:
                message = "after ${ comes NAME} or NAME:default}; write $${ for the characters themselves"
                document.problems.append(document.problem(path, message))
                return ""
            if name in environ:
                return environ[name]
            if default is not None and "${" in default:
                message = "a default holds no other variable: give a plain text after the colon"
                document.problems.append(document.problem(path, message))
            if default is not None:
                return str(default)
            message = f"the environment variable {name} is not set: set it, or give a default as in ${{{name}:value}}"
            document.problems.append(document.problem(path, message))
            return ""

        return EXPANSION.sub(one, value)

    document.data = replaced(document.data, ())


def _override(document: _Document, overrides: Sequence[str], environ: Mapping[str, str]) -> None:
    pairs = [
        (name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."), value, name)
        for name, value in sorted(environ.items())
        if name.startswith(ENVIRONMENT_PREFIX)
    ]
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            shown = "" if _is_secret(override) else override
            document.problems.append(Problem(shown, "an override is written section.key=value", origin="--set"))
        else:
            pairs.append((path.strip(), value, "--set"))
    for path, value, origin in pairs:
        where = document.data
        *sections, key = path.split(".")
        for section in sections:
            inner = where.get(section)
            if inner is None:
                inner = where[section] = {}
            if not isinstance(inner, dict):
                message = f"{section} is no section that could be overridden"
                document.problems.append(Problem(path, message, origin=origin))
                break
            where = inner
        else:
            where[key] = value if _is_secret(key) else _override_value(value)
            document.origins[(*sections, key)] = origin


def _override_value(text: str) -> Any:
    """Text as it is; a list in brackets, or null, as YAML would read it."""
    if text.lstrip().startswith(("[", "{")):
        return parse(f"value: {text}").data.get("value", text)
    return None if text in NULLS - {""} else text


def _validate(document: _Document, source: str) -> Config:
    # A section with all its keys commented out is there, and empty.
    empty: dict[str, Any] = {name: {} for name, value in document.data.items() if value is None and name in SECTIONS}
    data = document.data = document.data | empty
    for section in ("source", "sink"):
        if isinstance(data.get(section), dict):
            data[section].setdefault("type", "kafka")
    _inherit_connection(data)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(source, _once([_problem(one, document) for one in error.errors()], document)) from None
    problems = [document.problem(tuple(path.split(".")), message) for path, message in check(config)]
    if problems:
        raise ConfigError(source, _once(problems, document))
    return config


def _once(problems: list[Problem], document: _Document) -> list[Problem]:
    """Without what the sink only has from the source."""
    known = {(one.path, one.message) for one in problems}

    def inherited(one: Problem) -> bool:
        section, _, key = one.path.partition(".")
        written = ("sink", key) in document.lines or ("sink", key) in document.origins
        return section == "sink" and not written and (f"source.{key}", one.message) in known

    return [one for one in problems if not inherited(one)]


def _inherit_connection(data: dict[str, Any]) -> None:
    """Connection settings that the Kafka sink leaves out are the source's."""
    source, sink = data.get("source"), data.get("sink", {})
    if sink is None or not isinstance(source, dict) or source.get("type") != KafkaSource.model_fields["type"].default:
        return
    if not isinstance(sink, dict) or sink.get("type", "kafka") != "kafka":
        return
    sink = data["sink"] = sink | {"type": "kafka"}
    for key in KafkaConnection.model_fields:
        if key in source and key not in sink:
            sink[key] = source[key]


def _problem(error: Any, document: _Document) -> Problem:
    """A pydantic error in our words, at the path that stands in the file."""
    path = tuple(part for i, part in enumerate(error["loc"]) if not (i == 1 and part in ("kafka", "file", "memory")))
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(path[-1]), _keys_beside(error["loc"]), n=1, cutoff=0.6)
        return document.problem(path, "there is no such key", hint=f"did you mean {close[0]}?" if close else None)
    if kind == "missing":
        return replace(document.problem(path[:-1], "is needed and not there"), path=_dotted(path))
    if kind == "union_tag_invalid":
        path, value = (*path, "type"), error["ctx"]["tag"]
        return document.problem(path, f"input should be {error['ctx']['expected_tags']}", value=_shown(value))
    # A section or list may hold secrets, also one that is written wrongly: only single values are shown, and those only
    # of keys that have none.
    secret = isinstance(value, dict | list) or any(_is_secret(part) for part in (*path, str(value)))
    shown = None if secret else _shown(value)
    hint = f"a list is written [{value}]" if kind == "list_type" and shown else None
    return document.problem(path, error["msg"][:1].lower() + error["msg"][1:], value=shown, hint=hint)


def _is_secret(key: str | int) -> bool:
    return any(secret in str(key) for secret in SECRETS)


def _keys_beside(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that the section of an unknown key really has."""
    model: Any = Config
    for part in loc[:-1]:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part not in fields:
            continue  # the tag of a union, chosen below
        annotation = fields[str(part)].annotation
        members = [one for one in get_args(annotation) or (annotation,) if _is_model(one)]
        tagged = [
            one
            for one in members
            if "type" in one.model_fields and loc[1] in get_args(one.model_fields["type"].annotation)
        ]
        model = (tagged or members or [model])[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _dotted(path: Path_) -> str:
    return ".".join(map(str, path))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
