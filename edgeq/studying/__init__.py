"""Studies: what each part of a network loses by weights of few bits, over a whole space of choices.

`space.py` is what is asked for, `layers.py` what a model has, `trials.py` the choices that come of both; `weights.py`
quantizes each layer once per choice, `assembly.py` puts a trial together from that, `run.py` scores it; `answers.py`,
`importance.py` and `recommendation.py` say what came out.
"""
