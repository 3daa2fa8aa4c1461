{{/* Combinations that cannot work, said before anything is installed. */}}
{{- define "stream-ad.check" -}}
{{- include "stream-ad.checkModels" . -}}
{{- include "stream-ad.checkSecrets" . -}}
{{- include "stream-ad.checkNetwork" . -}}
{{- if .Values.keda.enabled -}}
{{- include "stream-ad.checkKeda" . -}}
{{- end -}}
{{- end -}}

{{- define "stream-ad.checkModels" -}}
{{- $path := .Values.config.registry.path -}}
{{- if not (or (include "stream-ad.objectStore" .) (regexMatch "^/?models(/|$)" $path)) -}}
{{- fail (printf "config.registry.path %s is not on the volume, which is mounted at /models: write /models, a folder below, or a URL such as s3://bucket/prefix" $path) -}}
{{- end -}}
{{- end -}}

{{- define "stream-ad.checkSecrets" -}}
{{- if and .Values.secret.existing .Values.secret.values -}}
{{- fail "secret.existing and secret.values exclude each other: put the values into your Secret, or leave existing empty" -}}
{{- end -}}
{{- range $section := list "source" "sink" -}}
{{- range $key := list "sasl_password" "ssl_password" -}}
{{- $value := get (get $.Values.config $section | default dict) $key -}}
{{- if and $value (not (regexMatch "^[$][{][A-Za-z_][A-Za-z0-9_]*[}]$" (toString $value))) -}}
{{- fail (printf "config.%s.%s would be readable in a ConfigMap: write ${KAFKA_PASSWORD} there, and the password in a Secret (secret.existing or secret.values)" $section $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "stream-ad.checkNetwork" -}}
{{- if and .Values.networkPolicy.enabled (not (include "stream-ad.kafkaPorts" .)) -}}
{{- fail (printf "no port of a broker is in config.source.bootstrap_servers (%s): write HOST:PORT, or name the ports in networkPolicy.kafkaPorts" .Values.config.source.bootstrap_servers) -}}
{{- end -}}
{{- end -}}

{{- define "stream-ad.checkKeda" -}}
{{- $source := .Values.config.source -}}
{{- if eq .Values.roles "all" -}}
{{- fail "keda.enabled scales scorers, and roles: all has none: set roles: split" -}}
{{- end -}}
{{- if gt (int .Values.keda.minReplicas) (int .Values.keda.maxReplicas) -}}
{{- fail "keda.minReplicas is above keda.maxReplicas: raise maxReplicas, up to the number of partitions" -}}
{{- end -}}
{{- if contains "${" (printf "%s,%s,%s" $source.bootstrap_servers $source.group (join "," $source.topics)) -}}
{{- fail "KEDA cannot see the pods' environment: with keda.enabled, write bootstrap_servers, topics and group of config.source without ${NAME}" -}}
{{- end -}}
{{- if and (include "stream-ad.sasl" .) (not .Values.keda.existingTriggerAuthentication) -}}
{{- if not (include "stream-ad.secretName" .) -}}
{{- fail "KEDA needs the user and password that config.source uses: set secret.existing or secret.values, or keda.existingTriggerAuthentication" -}}
{{- end -}}
{{- if not (has $source.sasl_mechanism (list "PLAIN" "SCRAM-SHA-256" "SCRAM-SHA-512")) -}}
{{- fail (printf "the chart can log KEDA in with PLAIN and SCRAM, not with %v: make a TriggerAuthentication and name it in keda.existingTriggerAuthentication" $source.sasl_mechanism) -}}
{{- end -}}
{{- end -}}
{{- end -}}
