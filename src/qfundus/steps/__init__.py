"""The steps that Airflow and KFP call: from plain values and files to plain values and files, and nothing else."""
