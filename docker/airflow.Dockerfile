# Airflow with this project: one image for api-server, scheduler, dag-processor, triggerer and workers.
# CI does not build it (it has no container engine); read it as the list of what a production image needs.
#
#   docker build -f docker/airflow.Dockerfile -t model-release-airflow .
#
# Give it, from outside: Airflow's database and executor, the Connection `model_release` and the pool
# `model_release_bench` (airflow_settings.yaml shows both), S3 credentials, and the routes to S3, Triton and Envoy.
FROM apache/airflow:3.3.2-python3.11

# The benchmark runs NVIDIA's perf_analyzer. It is in tritonserver:<yy.mm>-py3-sdk; copy the binary with its libraries
# from there, or name a command in the environment: perf_analyzer: {command: [...]}.

COPY --chown=airflow:0 requirements.lock /opt/model-release/requirements.lock
RUN pip install --no-cache-dir -r /opt/model-release/requirements.lock

COPY --chown=airflow:0 pyproject.toml README.md /opt/model-release/
COPY --chown=airflow:0 include /opt/model-release/include
COPY --chown=airflow:0 plugins /opt/model-release/plugins
COPY --chown=airflow:0 dags /opt/model-release/dags
RUN pip install --no-cache-dir --no-deps --editable /opt/model-release

# PYTHONPATH finds the factories that model configs name; Airflow puts its plugins folder on the path itself.
ENV PYTHONPATH=/opt/model-release/include \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/model-release/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/model-release/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    ORT_DISABLE_TELEMETRY=1
