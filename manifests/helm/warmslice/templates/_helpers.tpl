{{- define "warmslice.labels" -}}
app.kubernetes.io/name: warmslice
app.kubernetes.io/part-of: warmslice
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "warmslice.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "warmslice.settings" -}}
{{- $file := .Files.Get "files/settings.yaml" -}}
{{- $more := dict -}}
{{- if .Values.page.tokenSecret -}}
{{- $more = dict "page_token_file" "/etc/warmslice-page/token" -}}
{{- end -}}
{{- if .Values.page.tlsSecret -}}
{{- $more = merge $more (dict "tls_certificate_file" "/etc/warmslice-tls/tls.crt" "tls_key_file" "/etc/warmslice-tls/tls.key") -}}
{{- end -}}
{{- $more = mergeOverwrite $more (deepCopy .Values.settings) -}}
{{- if $more -}}
{{- mergeOverwrite (fromYaml $file) $more | toYaml }}
{{ else -}}
{{ $file }}
{{- end -}}
{{- end }}

{{- define "warmslice.scheme" -}}
{{- if or .Values.page.tlsSecret .Values.settings.tls_certificate_file -}}
HTTPS
{{- end -}}
{{- end }}

{{- define "warmslice.page-mounts" -}}
{{- if .Values.page.tokenSecret }}
- name: page-token
  mountPath: /etc/warmslice-page
  readOnly: true
{{- end }}
{{- if .Values.page.tlsSecret }}
- name: tls
  mountPath: /etc/warmslice-tls
  readOnly: true
{{- end }}
{{- end }}

{{- define "warmslice.namespace-fields" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: WARMSLICE_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end }}

{{- define "warmslice.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "warmslice.probes" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ .port }}
    {{- with .scheme }}
    scheme: {{ . }}
    {{- end }}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ .port }}
    {{- with .scheme }}
    scheme: {{ . }}
    {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}

{{- /* Prometheus asks pods by their address, which no certificate has: so by the name that it has, or by none. */ -}}
{{- define "warmslice.trust" -}}
{{- if .Values.page.serverName -}}
serverName: {{ .Values.page.serverName }}
{{- with .Values.page.tlsSecret }}
ca:
  secret:
    name: {{ . }}
    key: ca.crt
{{- end }}
{{- else -}}
insecureSkipVerify: true
{{- end -}}
{{- end }}
