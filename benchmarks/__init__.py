"""Scripts that answer one question each, against a peer, as ratios measured in one run."""
