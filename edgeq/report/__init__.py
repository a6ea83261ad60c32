"""What `edgeq report` and `edgeq gate` say about results: drops with intervals, comparisons, and one HTML page of them."""
