"""qfundus: a nightly retrained, honestly compared grader of diabetic retinopathy."""
