"""Every file in dags/ is one DAG that a person can run from the UI without reading its code."""

import ast
import json
import os
import subprocess
import sys

import pytest

from qfundus.layout import checkout

FILES = sorted((checkout() / "dags").glob("*.py"))
PROBE = """
import json, os, sys, time
import airflow.sdk, airflow.providers.standard.operators.hitl

def probe(file):
    begun = time.perf_counter()
    scope = {"__name__": "probe", "__file__": file}
    exec(compile(open(file).read(), file, "exec"), scope)
    seconds = time.perf_counter() - begun
    dag = next(v for v in list(scope.values()) if callable(v) and hasattr(v, "__wrapped__"))()
    print(json.dumps({
        "seconds": seconds,
        "loaded": sorted(m for m in ("kfp", "torch", "mlflow", "feast", "pandas") if m in sys.modules),
        "dag_id": dag.dag_id, "doc": dag.doc_md, "tags": sorted(dag.tags), "catchup": dag.catchup,
        "params": {k: dag.params.get_param(k).schema | {"d": dag.params.get_param(k).description} for k in dag.params},
        "tasks": {t.task_id: {"owner": t.owner, "retries": t.retries, "backoff": bool(t.retry_exponential_backoff),
            "shown": t.task_display_name, "policy": type(t.retry_policy).__name__,
            "limit": bool(t.execution_timeout or getattr(t, "response_timeout", None))} for t in dag.tasks},
    }), flush=True)

for file in sys.argv[1:]:
    child = os.fork()  # a process for each, as Airflow parses them
    if not child:
        probe(file)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, file
"""


@pytest.fixture(scope="module")
def all_parsed(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, FILES)],
        env={
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(checkout() / "deploy" / "airflow" / "plugins"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def parsed(request, all_parsed):
    return request.param, all_parsed[FILES.index(request.param)]


def test_it_parses_in_under_a_second_and_loads_nothing_heavy(parsed):
    _, dag = parsed
    assert dag["seconds"] < 1
    assert dag["loaded"] == []


def test_it_is_named_like_its_file_and_explains_itself(parsed):
    file, dag = parsed
    assert dag["dag_id"] == file.stem
    assert "### " in dag["doc"]
    assert "| a task fails | what it means | what to do |" in dag["doc"]
    assert dag["tags"]
    assert not dag["catchup"]


def test_every_parameter_is_typed_and_described(parsed):
    _, dag = parsed
    assert dag["params"]
    for name, schema in dag["params"].items():
        assert schema.get("type"), name
        assert schema.get("title"), name
        assert schema["d"], name


def test_every_task_has_an_owner_retries_a_limit_and_a_line_in_the_table(parsed):
    _, dag = parsed
    for task in dag["tasks"].values():
        assert task["owner"] != "airflow"
        assert task["retries"] >= 1
        assert task["backoff"]
        assert task["policy"] == "ExceptionRetryPolicy"  # what cannot heal is not tried again
        assert task["limit"]
        assert f"| {task['shown']} |" in dag["doc"]


def test_it_imports_neither_kfp_nor_another_dag():
    names = {file.stem for file in FILES}
    for file in FILES:
        imported = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert not {module.split(".")[0] for module in imported} & (names | {"kfp", "pipelines", "components"})
