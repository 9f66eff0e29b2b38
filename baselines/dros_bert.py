"""DROS-BERT: the loss of DROS on the encoder of GRU-BERT.

Source: TALLRec (Bao et al. 2023, section 3.1), which feeds the same items to DROS; Yang et al. 2023 for the term. Which
encoder DROS has there is not said; ours is the GRU.
"""

from baselines import dros, gru_bert
from baselines.base import ANY, Method, Training
from baselines.sequence import FORM


def build(training: Training, settings: dict) -> dros.DROS:
    """The module for these training rows; the propensities come from their targets alone."""
    encoder = gru_bert.encoder(training, settings)
    return dros.DROS(encoder, dros.target_counts(training), settings["alpha"], settings["beta"], settings["loss"])


OPTIONS_OF_DROS = tuple(option for option in dros.METHOD.options if option.name in ("alpha", "beta"))

METHOD = Method(
    "dros-bert",
    "DROS over GRU-BERT's encoder: it also reads the titles of the history, as a frozen BERT sees them",
    build,
    options=(*gru_bert.METHOD.options, *OPTIONS_OF_DROS),
    history=FORM,
    published={ANY: gru_bert.PUBLISHED_BERT},
    ours=gru_bert.OURS | dros.METHOD.ours,
    grid=dros.METHOD.grid,
    inputs=gru_bert.bert_of,
)
