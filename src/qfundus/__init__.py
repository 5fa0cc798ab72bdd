"""qfundus: a nightly retrained, honestly compared grader of diabetic retinopathy."""

__version__ = "0.1.0"
