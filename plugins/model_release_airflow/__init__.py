"""Airflow's side of a model release: thin tasks around the library's steps."""
