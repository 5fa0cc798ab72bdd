"""The steps that Airflow and KFP call, one a module: from plain values and files to plain values and files."""
