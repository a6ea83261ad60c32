"""TFLite files: converting the float network, planning its precisions, writing and reading back."""
