"""Writes the parts of the documentation that the code knows best: `python -m docs.generate`.

What stands between `<!-- generated: NAME -->` and `<!-- end -->` is replaced; all else in the pages is written by
hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stream_ad.config import Config, KafkaConnection
from stream_ad.config.loading import ENVIRONMENT_PREFIX
from stream_ad.monitoring import Metrics

FOLDER = Path(__file__).parent
PARTS = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
LIMITS = {
    "minimum": "{} or more",
    "exclusiveMinimum": "above {}",
    "maximum": "{} at most",
    "maxLength": "{} character at most",
    "minItems": "{} at least",
}
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
HIDDEN_KINDS = ("memory",)
"""Transports that a configuration file has no use for."""

Schema = dict[str, Any]


def main() -> None:
    """Bring all pages up to date."""
    for page in sorted(FOLDER.glob("*.md")):
        text = page.read_text()
        new = with_parts(text)
        if new != text:
            page.write_text(new)


def with_parts(text: str) -> str:
    """A page with its generated parts made anew. Raises KeyError for a part that nobody makes."""
    makers = {"configuration": configuration, "metrics": metrics}
    return PARTS.sub(lambda found: f"{found[1]}\n{makers[found[2]]()}\n{found[3]}", text)


def configuration() -> str:
    """Every key of config.yaml: type, limits, default, environment name and meaning."""
    root = Config.model_json_schema(by_alias=True)
    top, sections = [], []
    for name, field in root["properties"].items():
        models = section_models(field, root["$defs"])
        if not models:
            top.append(key_entry(name, field, required=name in root.get("required", [])))
        for model in models:
            sections.append(section(name, model))
    return "\n".join([*sections, "## Keys outside of the sections\n", *top])


def section_models(field: Schema, definitions: dict[str, Schema]) -> list[Schema]:
    """The models that may stand under a top-level key; none for a plain value."""
    references = [field, *field.get("oneOf", []), *field.get("allOf", [])]
    models = [definitions[one["$ref"].rpartition("/")[2]] for one in references if "$ref" in one]
    return [model for model in models if kind(model) not in HIDDEN_KINDS]


def kind(model: Schema) -> str | None:
    """The `type` that chooses this model, where there are several."""
    found: str | None = model["properties"].get("type", {}).get("const")
    return found


def section(name: str, model: Schema) -> str:
    """A section's heading, what it is for, and its keys."""
    chosen = kind(model)
    title, about = f"## {name}", one_line(model["description"])
    if chosen is not None:
        title += f", type {chosen}"
        about += f" Chosen by `{name}.type: {chosen}`"
        about += ", which is the default." if "default" in model["properties"]["type"] else "."
    # Explained once, at the source.
    left_out = {"type", *(KafkaConnection.model_fields if name == "sink" else ())}
    required = model.get("required", [])
    keys = [
        key_entry(f"{name}.{key}", field, required=key in required)
        for key, field in model["properties"].items()
        if key not in left_out
    ]
    return "\n".join([f"{title}\n", f"{about}\n", *keys])


def key_entry(path: str, field: Schema, required: bool) -> str:
    """One key: a heading that can be linked to, a line of facts, and the meaning."""
    default = "**needed**" if required else f"default `{json.dumps(field.get('default'))}`"
    variable = ENVIRONMENT_PREFIX + path.replace(".", "__").upper()
    facts = " · ".join([described_type(field), default, f"`{variable}`"])
    return f"### `{path}`\n\n{facts}\n\n{one_line(field['description'])}\n"


def described_type(field: Schema) -> str:
    """The type in words, with its limits, as in `number, above 0, 0.2 at most`."""
    if "anyOf" in field:
        return " or ".join("null" if one.get("type") == "null" else described_type(one) for one in field["anyOf"])
    if "oneOf" in field:
        return "mapping"
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        words = f"list of {TYPES[field['items']['type']]}s"
    else:
        words = "text, secret" if field.get("format") == "password" else TYPES[field["type"]]
    limits = [text.format(field[limit]) for limit, text in LIMITS.items() if limit in field]
    return ", ".join([words, *limits])


def metrics() -> str:
    """Every metric of ours: name as Prometheus stores it, type, labels, meaning."""
    sample = Metrics(["FEATURE"], "VERSION")
    labels = {metric._name: metric._labelnames for metric in vars(sample).values() if hasattr(metric, "_labelnames")}
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    families = [one for one in sample.registry.collect() if one.name.startswith("stream_ad_")]
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        names = ", ".join(f"`{label}`" for label in labels.get(family.name, ()))
        rows.append(f"| `{name}` | {family.type} | {names} | {one_line(family.documentation)} |")
    return "\n".join(rows) + "\n"


def one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
