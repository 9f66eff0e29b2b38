"""Pages, and the exercises of the course."""
