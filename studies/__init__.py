"""Studies: declared lists of training runs, how they are run, and their tables. Imports everything below the verbs."""
