"""What no second try would heal."""

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

FAIL_WHAT_CANNOT_HEAL = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=["qfundus.errors.SetupError", "qfundus.errors.AccountError", "qfundus.errors.LeakError"],
            action=RetryAction.FAIL,
            reason="Trying again would not help: see the message.",
        )
    ]
)
