import yaml

from pipelines.compile import PIPELINES, compile_all, compiled_file


def test_the_compiled_graphs_are_those_of_the_code():
    committed = {name: compiled_file(name).read_text() for name in PIPELINES}
    compile_all()
    assert committed == {name: compiled_file(name).read_text() for name in PIPELINES}


def compiled():
    return next(yaml.safe_load_all(compiled_file("retraining").read_text()))


def test_every_step_gets_its_settings_from_a_secret_and_none_is_in_the_graph():
    graph, platform = yaml.safe_load_all(compiled_file("retraining").read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(graph["deploymentSpec"]["executors"])
    for executor in executors.values():
        [secret] = executor["secretAsEnv"]
        assert secret["secretName"] == "qfundus-settings"
        assert {"envVar": "QFUNDUS_SITE_KEY", "secretKey": "QFUNDUS_SITE_KEY"} in secret["keyToEnv"]


def test_both_heads_train_side_by_side_between_snapshot_and_evaluation():
    tasks = compiled()["root"]["dag"]["tasks"]
    needs = {name: set(task.get("dependentTasks", ())) for name, task in tasks.items()}
    assert needs == {
        "snapshot-dataset": set(),
        "train-classical": {"snapshot-dataset"},
        "train-quantum": {"snapshot-dataset"},
        "evaluate-ensemble": {"snapshot-dataset", "train-classical", "train-quantum"},
        "judge-candidate": {"evaluate-ensemble", "snapshot-dataset"},
        "register-candidate": {"evaluate-ensemble", "judge-candidate", "train-classical", "train-quantum"},
    }


def test_every_step_is_cached_and_has_a_name_for_people():
    tasks = compiled()["root"]["dag"]["tasks"].values()
    assert all(task["cachingOptions"]["enableCache"] for task in tasks)
    assert all(" " in task["taskInfo"]["name"] for task in tasks)
