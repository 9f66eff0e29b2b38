"""Every recommender without a language model, by the name that --method takes."""

from baselines import mf
from baselines.base import Direct, Method

METHODS: dict[str, Method | Direct] = {method.name: method for method in (mf.METHOD,)}
