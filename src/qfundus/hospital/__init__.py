"""The hospital's side of a demonstration: invented people, wrapped photographs, grading sheets."""
