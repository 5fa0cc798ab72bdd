"""The international grades of diabetic retinopathy: 0 none, 1 mild, 2 moderate, 3 severe, 4 proliferative."""

GRADES = 5  # how many there are
REFERABLE = 2  # moderate retinopathy and worse is referred
