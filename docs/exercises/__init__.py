"""The exercises of the course, one file per session, with checks that run."""
