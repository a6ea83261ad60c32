"""A small vision-language model that reads surnames, and what low bits do to each of its parts."""
