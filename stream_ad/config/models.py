"""The configuration: one pydantic model a section of config.yaml. Each field is documented where it stands."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, SecretStr, field_validator

HIGHEST_RATE = 0.2
LOWEST_RATE = 1e-6
SECONDS_A_DAY = 86_400.0
ASSUMED_ROWS_PER_SECOND = 1.0


class Section(BaseModel):
    """Unknown keys are errors: a misspelt key must not be a setting silently lost."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)


class KafkaConnection(Section):
    """How to reach a Kafka cluster; shared by source and sink."""

    bootstrap_servers: str = "localhost:9092"
    """Comma-separated HOST:PORT list of brokers to ask first."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Whether the brokers want TLS (SSL), a login (SASL), both or neither."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"] | None = None
    """How to log in; needed with the SASL protocols."""
    sasl_username: str | None = None
    """Name to log in with (PLAIN and SCRAM)."""
    sasl_password: SecretStr | None = None
    """Give it as ${VARIABLE}, not in the file."""
    ssl_cafile: str | None = None
    """PEM file of the authorities that may sign the brokers' certificates."""
    ssl_certfile: str | None = None
    """PEM file of our own certificate, where brokers ask for one."""
    ssl_keyfile: str | None = None
    """PEM file of the key that goes with ssl_certfile."""
    ssl_password: SecretStr | None = None
    """Password of the key file."""
    ssl_check_hostname: bool = True
    """Whether the brokers' certificates must name the host that was asked."""


class KafkaSource(KafkaConnection):
    """Read topics as a member of a consumer group."""

    type: Literal["kafka"] = "kafka"
    topics: Annotated[list[str], Field(min_length=1)]
    """Topics to read; each must be there at the start."""
    group: str = "stream-ad"
    """Consumer group; workers of one group share the partitions."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where a new group begins. A partition that appears later is always read from its beginning."""
    max_poll_records: PositiveInt = 5000
    """Most records in one batch. It begins with few and takes more as long as their values stay below 8 MiB together:
    records of many rows come in smaller batches."""
    max_poll_interval: PositiveFloat = 300.0
    """Seconds without a poll after which the group takes our partitions away."""
    session_timeout: PositiveFloat = 45.0
    """Seconds without a heartbeat after which the group takes our partitions away."""
    connect_timeout: PositiveFloat = 120.0
    """Seconds to go on trying to reach the brokers at the start before giving up with exit code 1."""


class FileSource(Section):
    """Read a file: .csv, .jsonl, .parquet, the first two also with .gz behind."""

    type: Literal["file"]
    path: str
    """The file to read."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """CSV: what stands between two columns; \\t is a tab."""
    decimal_comma: bool = False
    """CSV: numbers are written 28,7 (as in files with `delimiter: ;`)."""
    header_line: PositiveInt = 1
    """CSV: number of the line that holds the column names."""
    skip_after_header: Annotated[int, Field(ge=0)] = 0
    """CSV: lines below the header that are not data (units, kinds)."""
    follow: bool = False
    """Go on waiting for lines that are appended (JSON Lines and CSV, not compressed)."""

    @field_validator("delimiter", mode="before")
    @classmethod
    def _tab(cls, value: object) -> object:
        return "\t" if value == "\\t" else value


class MemorySource(Section):
    """Records handed over inside the process: the demo and tests."""

    type: Literal["memory"]


class Schema(Section):
    """What a record looks like. Feature names and their order are the schema of the model."""

    format: Literal["json", "float32"] = "json"
    """json: an object a record, or an array of objects. float32: little-endian vectors. A CSV or Parquet file
    needs no format: its columns are the fields."""
    features: Annotated[list[str], Field(min_length=1)]
    """Fields that are scored, by name; a dot leads into a nested object (data.pump.temp_c)."""
    array_field: str | None = None
    """json: the field that holds all features as one array, in the order of `features`."""
    key: str | None = None
    """Field whose value is the output's key; without it the Kafka record's key."""
    id: str | None = None
    """Field that identifies a row; without it topic-partition-offset[-row]."""
    timestamp: str | None = None
    """Field with the row's time; without it the Kafka record's."""
    timestamp_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    """Unit of numeric time stamps; auto goes by size (< 1e11 s, < 1e14 ms, < 1e17 us, else ns)."""
    timezone: str = "UTC"
    """Zone of textual time stamps that name none."""
    missing_values: list[float] = []
    """Numbers that mean 'no reading' (sentinels such as -9999)."""
    missing_words: list[str] = ["NA", "N/A", "NaN", "NAN", "null", "NULL"]
    """Texts that mean 'no reading'; an empty cell always does."""
    max_missing: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """A row with a larger share of missing features is scored but not learned."""
    window: Annotated[int, Field(ge=0)] = 0
    """Rows of the same key, the row itself among them, whose mean and deviation, and those of the last quarter of
    them, are judged along with it; 0: each row is judged by itself. 64 is a good length. See [rows in
    time](how-it-works.md#rows-in-time)."""
    calendar: bool = False
    """Whether the time of the day and of the week (UTC) are judged along with the values. The window of inliers
    must span several weeks."""


class DetectorSettings(Section):
    """How the detector computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a CUDA device if there is one."""
    threads: PositiveInt | None = None
    """CPU threads for scoring and training each; by default the usable cores, shared between the two."""
    seed: int = 0
    """Start of the random draws: the same seed and rows give the same model on the same machine."""


class LabelsTopic(Section):
    """Labels from a topic of the source's cluster."""

    type: Literal["kafka"] = "kafka"
    topic: str
    """The topic, which must be there; read from its beginning at each start, as group GROUP-labels-..."""


class LabelsFile(Section):
    """Labels from a file."""

    type: Literal["file"]
    path: Annotated[str, Field(pattern=r"\.(jsonl|ndjson|json)$")]
    """A JSON Lines file, which must be there; read from its beginning at each start, then what is appended."""


class Training(Section):
    """When and on what the detector learns."""

    min_rows: Annotated[int, Field(ge=50)] = 2000
    """Rows that the window of inliers must hold before a trigger starts a training, be it the first or a later one, and
    that `stream-ad train` needs. Until there is a model records are `warming_up`."""
    window_rows: Annotated[int, Field(ge=50)] = 20_000
    """Capacity of the window of inliers. Once it is full rows fade: of the latest all are kept, of earlier ones the
    fewer the longer ago they were."""
    every_rows: PositiveInt | None = 50_000
    """Train again after so many rows; while fewer than `training.window_rows` have been seen, also each time their
    number has grown by half, since the first models know little. null: neither."""
    every_seconds: PositiveFloat | None = 3600.0
    """Train again after so long."""
    min_interval_seconds: Annotated[float, Field(ge=0.0)] = 10.0
    """Least time between two trainings, whatever asks for them."""
    timeout_seconds: PositiveFloat = 1800.0
    """A training that takes longer is stopped."""
    drift: Literal["adwin", "kswin", "page_hinkley", "none"] = "adwin"
    """What watches scores and residuals for drift, which starts a training; none: nothing. adwin costs 0.8 us a row of
    thirty features, page_hinkley 1.1, kswin 34, which is nearly as much as scoring."""
    on_regime_change: Literal["adapt", "hold"] = "adapt"
    """What to do when the operating point changes for good, so that most rows are flagged. adapt: learn the new one
    as well, once a tenth of `window_rows` in rows is flagged in succession and these rows are like each other. Before
    as many rows as `window_rows` have been seen half of that will do (500 rows at least, or the tenth where that is
    fewer). What comes for a while five times or more counts together. hold: go on alarming."""
    rollback_after: Annotated[int, Field(ge=100)] = 5000
    """Rows over which a new model is compared with the one before it, if it flags too many of them: that one comes
    back if it would have flagged less than a third of them. Where the new one flags most rows a tenth will do."""
    reference: str = "first"
    """The model that stays pinned, to see how far operation has moved away from it: the first that was accepted and has
    learned from 10,000 rows or more (until there is one, the first of all), none, or a version by its name
    (`stream-ad models list`)."""
    sample: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Role trainer: share of the records that it looks at, drawn at random. With `schema.window` it reads all, since
    each is the past of others, and learns from this share."""
    cold_start: Literal["half_space_trees", "none"] = "half_space_trees"
    """What scores while there is no model yet."""
    labels: Annotated[LabelsTopic | LabelsFile, Field(discriminator="type")] | None = None
    """Where labels of rows come from, if there are any: `{type: kafka, topic: NAME}`, a topic of the source's cluster
    (read in groups of the name GROUP-labels-...), or `{type: file, path: NAME.jsonl}`. See
    [labels](learning.md#labels)."""


class Alerts(Section):
    """How often a normal row may raise an alarm."""

    false_alarm_rate: Annotated[float, Field(gt=0.0, le=HIGHEST_RATE)] = 0.001
    """Share of normal rows that may be flagged: 0.001 is one in a thousand. Score 1.0 stands there."""
    per_day: PositiveFloat | None = None
    """Instead of `false_alarm_rate`: false alarms a day of one worker, that is of the rows that it reads. The share
    follows from the rows a day that it sees arrive, on its own clock; until three minutes are measured one row a
    second is assumed. Not for files, which come as quickly as they are read."""
    emit: Literal["rows", "episodes"] = "rows"
    """What goes to the anomalies topic. rows: each flagged row. episodes: consecutive flagged rows of a key are one
    episode, told of when it begins and when it ends. See [episodes](output.md#episodes)."""
    cooldown: Annotated[float, Field(ge=0.0)] = 0.0
    """Seconds after an alert of a key within which further ones are held back, and counted. By the rows' times, by
    arrival where they have none. 0: none is."""

    def rate(self, rows_per_second: float | None = None) -> float:
        """The share of normal rows that may be flagged, at so many rows a second if that is known."""
        if self.per_day is None:
            return self.false_alarm_rate
        rows_a_day = SECONDS_A_DAY * (ASSUMED_ROWS_PER_SECOND if rows_per_second is None else rows_per_second)
        return min(HIGHEST_RATE, max(LOWEST_RATE, self.per_day / max(1.0, rows_a_day)))


class KafkaSink(KafkaConnection):
    """Write topics. Connection settings left out are the source's."""

    type: Literal["kafka"] = "kafka"
    topic: str = "stream-ad.scores"
    """One output for each row."""
    anomalies_topic: str | None = "stream-ad.anomalies"
    """Flagged rows once more, by themselves."""
    dead_letter_topic: str = "stream-ad.dead-letters"
    """Records that could not be read, as they came, with the reasons in their headers."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    """How outputs are compressed on their way and in the topic."""
    delivery_timeout: PositiveFloat = 120.0
    """Seconds to go on trying to deliver an output before the worker stops (nothing is committed then)."""


class FileSink(Section):
    """Write JSON Lines (.jsonl), also with .gz behind; dead letters beside it as NAME.dead-letters.jsonl."""

    type: Literal["file"]
    path: str
    """The file to write."""


class MemorySink(Section):
    """Keep outputs inside the process: the demo and tests."""

    type: Literal["memory"]


class Registry(Section):
    """Where models are kept."""

    path: str = "models"
    """Folder of the snapshots, which workers of several roles share, or a URL of an object store such as
    s3://bucket/prefix (install `stream-ad[s3]`; credentials and endpoint come from the AWS_ variables)."""
    keep: Annotated[int, Field(ge=2)] = 10
    """How many snapshots to keep."""


class Monitoring(Section):
    """How the worker is watched."""

    host: str = "0.0.0.0"
    """Address to listen on; 0.0.0.0 is all of the machine's."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9108
    """HTTP port of /metrics, /livez, /readyz; 0 takes a free one."""
    log_format: Literal["auto", "human", "json"] = "auto"
    """auto: human on a terminal, JSON otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged."""


SourceConfig = Annotated[KafkaSource | FileSource | MemorySource, Field(discriminator="type")]
SinkConfig = Annotated[KafkaSink | FileSink | MemorySink, Field(discriminator="type")]


class Config(Section):
    """The whole of config.yaml."""

    role: Literal["all", "scorer", "trainer"] = "all"
    """all: score and train. scorer: only score, with the models that a trainer publishes in the registry.
    trainer: read the same topics in a group of its own (GROUP-trainer), write nothing, train and publish."""
    source: SourceConfig
    schema_: Annotated[Schema, Field(alias="schema")]
    detector: DetectorSettings = DetectorSettings()
    training: Training = Training()
    alerts: Alerts = Alerts()
    sink: SinkConfig
    registry: Registry = Registry()
    monitoring: Monitoring = Monitoring()
    shutdown_timeout: PositiveFloat = 30.0
    """Seconds after SIGTERM within which the worker finishes, commits and ends."""

    def dump(self) -> dict[str, Any]:
        """All settings as plain data under the names of config.yaml, secrets masked, dollar signs doubled: what
        `load` reads back from YAML as the same configuration."""

        def escaped(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: escaped(item) for key, item in value.items()}
            if isinstance(value, list):
                return [escaped(item) for item in value]
            return value.replace("$", "$$") if isinstance(value, str) else value

        plain = self.model_dump(mode="json", by_alias=True)
        if self.alerts.per_day is not None:
            del plain["alerts"]["false_alarm_rate"]
        return dict(escaped(plain))
