{{- define "stream-ad.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What finds our pods, whatever their role. */}}
{{- define "stream-ad.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "stream-ad.labels" -}}
{{ include "stream-ad.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "stream-ad.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "stream-ad.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* "true" if the models are in an object store; else they are on a volume. */}}
{{- define "stream-ad.objectStore" -}}
{{- if contains "://" .Values.config.registry.path -}}true{{- end -}}
{{- end -}}

{{/* "true" if brokers want a user and a password. */}}
{{- define "stream-ad.sasl" -}}
{{- if hasPrefix "SASL_" (.Values.config.source.security_protocol | default "PLAINTEXT") -}}true{{- end -}}
{{- end -}}

{{/* The Secret with the variables: yours if you named one. */}}
{{- define "stream-ad.secretName" -}}
{{- if .Values.secret.existing -}}
{{- .Values.secret.existing -}}
{{- else if .Values.secret.values -}}
{{- include "stream-ad.fullname" . -}}
{{- end -}}
{{- end -}}

{{/*
Checksum of what a running worker cannot take up: the configuration but for the keys that `run --watch` applies live,
and the chart's own Secret. Only a change here restarts the pods; a new false alarm rate does not.
*/}}
{{- define "stream-ad.restartChecksum" -}}
{{- $config := deepCopy .Values.config -}}
{{- range list "alerts.false_alarm_rate" "training.every_rows" "training.every_seconds" "training.min_interval_seconds" "training.min_rows" "training.timeout_seconds" "monitoring.log_level" -}}
{{- $section := get $config (splitList "." . | first) -}}
{{- if $section -}}
{{- $_ := unset $section (splitList "." . | last) -}}
{{- end -}}
{{- end -}}
{{- list $config .Values.secret.values | toJson | sha256sum -}}
{{- end -}}

{{/* Ports of the brokers in config.source and config.sink, with commas. */}}
{{- define "stream-ad.kafkaPorts" -}}
{{- $servers := list .Values.config.source.bootstrap_servers (.Values.config.sink).bootstrap_servers | compact | join "," -}}
{{- $ports := .Values.networkPolicy.kafkaPorts -}}
{{- range splitList "," $servers -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" (trim .) | trimPrefix ":") -}}
{{- end -}}
{{- $ports | compact | join "," -}}
{{- end -}}

{{/* Combinations that cannot work, said before anything is installed. */}}
{{- define "stream-ad.check" -}}
{{- $source := .Values.config.source -}}
{{- if and .Values.secret.existing .Values.secret.values -}}
{{- fail "secret.existing and secret.values exclude each other: put the values into your Secret, or leave existing empty" -}}
{{- end -}}
{{- $path := .Values.config.registry.path -}}
{{- if not (or (include "stream-ad.objectStore" .) (regexMatch "^/?models(/|$)" $path)) -}}
{{- fail (printf "config.registry.path %s is not on the volume, which is mounted at /models: write /models, a folder below, or a URL such as s3://bucket/prefix" $path) -}}
{{- end -}}
{{- range $section := list "source" "sink" -}}
{{- range $key := list "sasl_password" "ssl_password" -}}
{{- $value := get (get $.Values.config $section | default dict) $key -}}
{{- if and $value (not (regexMatch "^[$][{][A-Za-z_][A-Za-z0-9_]*[}]$" $value)) -}}
{{- fail (printf "config.%s.%s would be readable in a ConfigMap: write ${KAFKA_PASSWORD} there, and the password in a Secret (secret.existing or secret.values)" $section $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not (include "stream-ad.kafkaPorts" .)) -}}
{{- fail (printf "no port of a broker is in config.source.bootstrap_servers (%s): write HOST:PORT, or name the ports in networkPolicy.kafkaPorts" $source.bootstrap_servers) -}}
{{- end -}}
{{- if and .Values.keda.enabled (contains "${" (printf "%s,%s" $source.bootstrap_servers (join "," $source.topics))) -}}
{{- fail "KEDA cannot see the pods' environment: with keda.enabled, write config.source.bootstrap_servers and topics without ${NAME}" -}}
{{- end -}}
{{- if and .Values.keda.enabled (eq .Values.roles "all") -}}
{{- fail "keda.enabled scales scorers, and roles: all has none: set roles: split" -}}
{{- end -}}
{{- if gt (int .Values.keda.minReplicas) (int .Values.keda.maxReplicas) -}}
{{- fail "keda.minReplicas is above keda.maxReplicas: raise maxReplicas, up to the number of partitions" -}}
{{- end -}}
{{- if and .Values.keda.enabled (include "stream-ad.sasl" .) (not .Values.keda.existingTriggerAuthentication) -}}
{{- if not (include "stream-ad.secretName" .) -}}
{{- fail "KEDA needs the user and password that config.source uses: set secret.existing or secret.values, or keda.existingTriggerAuthentication" -}}
{{- end -}}
{{- if not (has $source.sasl_mechanism (list "PLAIN" "SCRAM-SHA-256" "SCRAM-SHA-512")) -}}
{{- fail (printf "the chart can log KEDA in with PLAIN and SCRAM, not with %v: make a TriggerAuthentication and name it in keda.existingTriggerAuthentication" $source.sasl_mechanism) -}}
{{- end -}}
{{- end -}}
{{- end -}}
