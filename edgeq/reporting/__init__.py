"""What `edgeq report` and `edgeq gate` say about results: drops with intervals, comparisons, one page of all."""
