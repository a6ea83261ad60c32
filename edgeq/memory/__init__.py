"""How much memory a language or vision-language model needs, from its `config.json` alone: no weights, no torch."""
