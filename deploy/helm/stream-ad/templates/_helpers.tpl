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
{{- range list "alerts.cooldown" "alerts.false_alarm_rate" "alerts.per_day" "training.drift" "training.every_rows" "training.every_seconds" "training.min_interval_seconds" "training.min_rows" "training.on_regime_change" "training.reference" "training.rollback_after" "training.timeout_seconds" "monitoring.log_level" -}}
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
