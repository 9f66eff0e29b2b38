"""The annotated walk: stations.py has what is said beside the code, index.html is made from both."""
