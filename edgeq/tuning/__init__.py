"""What a file should be like: which layers cost the score of a task, found by trials of files."""
