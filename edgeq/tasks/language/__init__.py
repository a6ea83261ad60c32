"""Tasks of models that answer in words: what was asked, what people answered, and how answers are scored."""
