{{- define "mmret.name" -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- end }}

{{- define "mmret.selector" -}}
app.kubernetes.io/name: mmret
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mmret.labels" -}}
{{ include "mmret.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "mmret.image" -}}
{{- $of := index .root.Values.image .which -}}
image: {{ printf "%s:%s" $of.repository ($of.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/* of every pod: Pod Security Standard "restricted"; 10001 is the user of deploy/Dockerfile */}}
{{- define "mmret.pod" -}}
serviceAccountName: {{ include "mmret.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "mmret.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  fsGroup: {{ . }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "mmret.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
{{- end }}

{{/* how Dagster's history is reached; of webserver, daemon, code server, and of every Ray node, whose steps write it */}}
{{- define "mmret.database" -}}
- {name: DAGSTER_HOME, value: /dagster-ray}
- {name: DAGSTER_PG_HOST, value: {{ .Values.postgres.host | default (printf "%s-postgres" (include "mmret.name" .)) | quote }}}
- {name: DAGSTER_PG_PORT, value: {{ .Values.postgres.port | quote }}}
- {name: DAGSTER_PG_USER, value: {{ .Values.postgres.user | quote }}}
- {name: DAGSTER_PG_DB, value: {{ .Values.postgres.database | quote }}}
- name: DAGSTER_PG_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .Values.postgres.secret }}, key: password}}
- {name: DAGSTER_GRPC_TIMEOUT_SECONDS, value: "300"}
{{- end }}

{{- define "mmret.rayAddress" -}}
{{- .Values.ray.address | default (printf "http://%s-ray-head:8265" (include "mmret.name" .)) -}}
{{- end }}

{{- define "mmret.rayToken" -}}
- {name: RAY_AUTH_MODE, value: token}
- name: RAY_AUTH_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .Values.ray.secret }}, key: token}}
{{- end }}

{{/* of the code server and of every Ray node: the same, so that a step finds what the run that asked for it had */}}
{{- define "mmret.codeEnvironment" -}}
env:
  {{- include "mmret.database" . | nindent 2 }}
  {{- include "mmret.rayToken" . | nindent 2 }}
  - {name: RAY_API_SERVER_ADDRESS, value: {{ include "mmret.rayAddress" . | quote }}}
  # a step waits for a free node as long as it takes; Ray's own limit is a quarter of an hour
  - {name: RAY_JOB_START_TIMEOUT_SECONDS, value: "86400"}
  # a node that is asked to end waits so long for its steps; its pod's time of grace is a little longer
  - {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: "100"}
  - name: POD_IP
    valueFrom: {fieldRef: {fieldPath: status.podIP}}
  - {name: MMRET_LAKE, value: {{ .Values.lake.address | quote }}}
  - {name: XDG_CACHE_HOME, value: /scratch/cache}
  - {name: TMPDIR, value: /scratch}
  {{- range $name, $value := merge (dict) .Values.lake.environment .Values.environment }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- if or .Values.lake.secret .Values.secret }}
envFrom:
  {{- range list .Values.lake.secret .Values.secret }}
  {{- if . }}
  - secretRef: {name: {{ . }}}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "mmret.codeMounts" -}}
- {name: scratch, mountPath: /scratch}
- {name: models, mountPath: /models}
- {name: shm, mountPath: /dev/shm}
- {name: logs, mountPath: /dagster-ray/storage}
{{- if .Values.lake.claim }}
- {name: lake, mountPath: /lake}
{{- end }}
{{- range $n, $_ := .Values.pictures }}
- {name: pictures-{{ $n }}, mountPath: {{ .path }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "mmret.codeVolumes" -}}
- {name: scratch, emptyDir: {sizeLimit: {{ .Values.ray.scratch }}}}
{{- if .Values.ray.models.claim }}
- {name: models, persistentVolumeClaim: {claimName: {{ .Values.ray.models.claim }}}}
{{- else }}
- {name: models, emptyDir: {sizeLimit: {{ .Values.ray.models.size }}}}
{{- end }}
# counts as the container's memory; Ray's store of objects and torch's workers lie in it
- {name: shm, emptyDir: {medium: Memory, sizeLimit: 1Gi}}
{{ include "mmret.logsVolume" . }}
{{- if .Values.lake.claim }}
- {name: lake, persistentVolumeClaim: {claimName: {{ .Values.lake.claim }}}}
{{- end }}
{{- range $n, $_ := .Values.pictures }}
- {name: pictures-{{ $n }}, persistentVolumeClaim: {claimName: {{ .claim }}, readOnly: true}}
{{- end }}
{{- end }}

{{- define "mmret.logsVolume" -}}
{{- if .Values.logs.claim -}}
- {name: logs, persistentVolumeClaim: {claimName: {{ .Values.logs.claim }}}}
{{- else -}}
- {name: logs, emptyDir: {}}
{{- end }}
{{- end }}

{{/* webserver and daemon make tables where there are none: they wait until the code server's pod has made them */}}
{{- define "mmret.waitForCode" -}}
- name: wait-for-code
  {{- include "mmret.image" (dict "root" . "which" "dagster") | nindent 2 }}
  {{- include "mmret.containerSecurity" . | nindent 2 }}
  command: [python, -c]
  args:
    - |
      import socket, time
      while True:
          try:
              socket.create_connection(({{ printf "%s-code" (include "mmret.name" .) | quote }}, 4000), 5).close()
              break
          except OSError:
              time.sleep(2)
  resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 128Mi}}
{{- end }}
