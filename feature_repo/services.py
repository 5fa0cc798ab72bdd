"""Which features each model reads."""

from feast import FeatureService
from views import eye_embedding, eye_grade, study_acquisition

classical_grader = FeatureService(name="classical_grader", features=[eye_embedding, eye_grade, study_acquisition])
quantum_grader = FeatureService(name="quantum_grader", features=[eye_embedding, eye_grade, study_acquisition])
hybrid_grader = FeatureService(name="hybrid_grader", features=[eye_embedding, eye_grade, study_acquisition])
