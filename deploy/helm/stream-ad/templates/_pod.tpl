{{/* What every pod of the chart has: call with (dict "root" $ "role" ROLE "models" WHETHER_IT_NEEDS_THEM). */}}
{{- define "stream-ad.podSettings" -}}
{{- $settings := index .root.Values .role -}}
serviceAccountName: {{ include "stream-ad.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: config
    configMap:
      name: {{ include "stream-ad.fullname" .root }}
  - name: tmp
    emptyDir:
      sizeLimit: {{ .root.Values.tmp.sizeLimit }}
{{- if and .models (not (include "stream-ad.objectStore" .root)) }}
  - name: models
    persistentVolumeClaim:
      claimName: {{ .root.Values.persistence.existingClaim | default (include "stream-ad.fullname" .root) }}
{{- end }}
{{- with .root.Values.secret.tls }}
  - name: tls
    secret:
      secretName: {{ . }}
      defaultMode: 0440
{{- end }}
{{- end -}}

{{/* Image, environment, mounts and rights of the container: call as above. */}}
{{- define "stream-ad.containerSettings" -}}
{{- $values := .root.Values -}}
{{- $settings := index $values .role -}}
image: "{{ $values.image.repository }}:{{ $values.image.tag | default .root.Chart.AppVersion }}{{ $settings.imageSuffix }}"
imagePullPolicy: {{ $values.image.pullPolicy }}
env:
  - name: STREAM_AD__ROLE
    value: {{ .role }}
{{- with $values.env }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "stream-ad.secretName" .root }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  # The whole folder: a file mounted by subPath would never see an update.
  - name: config
    mountPath: /etc/stream-ad
    readOnly: true
  - name: tmp
    mountPath: /tmp
{{- if and .models (not (include "stream-ad.objectStore" .root)) }}
  - name: models
    mountPath: /models
    {{- if eq .role "scorer" }}
    readOnly: true # a scorer follows, it never publishes
    {{- end }}
{{- end }}
{{- if $values.secret.tls }}
  - name: tls
    mountPath: /etc/stream-ad-tls
    readOnly: true
{{- end }}
{{- end -}}
