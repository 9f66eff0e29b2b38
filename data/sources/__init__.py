"""One file per data source, and the two published forms; imports the data room and the ground floor (errors, files)."""
