"""All of production on one machine: S3, Triton fleets, Envoy, traffic and Airflow, under supervisord."""
