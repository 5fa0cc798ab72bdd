from qfundus.platform.night import describe_entry, describe_progress


def test_the_newest_progress_is_told():
    entries = [
        {"event": "Features extracted", "done": 128, "of": 1000},
        {"event": "Features extracted", "done": 256, "of": 1000},
        {"event": "Pushing xcom"},
    ]
    assert describe_progress(entries) == "Features extracted: 256 of 1000"


def test_a_pipeline_step_is_told():
    entries = [{"event": "15:45:41.339 - INFO - Executing task \x1b[96m'train-classical'\x1b[0m"}]
    assert describe_progress(entries) == "step train-classical"


def test_a_log_without_progress_tells_nothing():
    assert describe_progress([{"event": "Hello"}]) == ""


def test_an_exception_is_told_with_its_message():
    entry = {"event": "Task failed", "error_detail": [{"exc_type": "Retry", "exc_value": "The store is gone."}]}
    assert describe_entry(entry) == "Task failed | Retry: The store is gone."
